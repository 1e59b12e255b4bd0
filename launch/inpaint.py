"""Makes parts of images anew, with a trained VQ-DDM and without any training for it.

    python launch/inpaint.py --run=runs/vq_ddm --region=lower --out=completed.png
    python launch/inpaint.py --run=runs/vq_ddm --source=/data/portraits --mask=hole.png --out=completed.png

`--mask` is an image that is white where something is hidden.  The result is a sheet with a row for each image: as it
is, as the model sees it, and its completions.
"""

import itertools
import pathlib
from typing import Any, cast

from absl import flags

from vistok import cli

_RUN = flags.DEFINE_string('run', None, 'Run folder of a VQ-DDM, or one of its checkpoints.')
_WHICH = flags.DEFINE_string('checkpoint', 'latest', "'latest', 'best', or a step.")
_OUT = flags.DEFINE_string('out', None, 'PNG file: the sheet.')
_FOLDER = flags.DEFINE_string('folder', None, 'Folder: one PNG file for each completion.')
_SOURCE = flags.DEFINE_string('source', None, "Images; default: the run's own validation images.")
_DATA_DIR = flags.DEFINE_string('data_dir', None, 'Where TFDS datasets lie.')
_SPLIT = flags.DEFINE_enum('split', 'validation', ['validation', 'train'], 'Which images of the source.')
_COUNT = flags.DEFINE_integer('count', 8, 'Images, the first ones.')
_MASK = flags.DEFINE_string('mask', None, 'Image that is white where pixels are hidden.')
_REGION = flags.DEFINE_string('region', 'right', 'Without a mask: left, right, upper, lower, centre or border.')
_MARGIN = flags.DEFINE_integer('margin', 0, 'Cells around the hidden ones that are made anew as well.')
_COMPLETIONS = flags.DEFINE_integer('completions', 4, 'Of each image.')
_LABELLED = flags.DEFINE_bool('labelled', False, 'Tell the model the class of each image.')
_PASTE = flags.DEFINE_bool('paste', False, 'Put the pixels that are not hidden back into the completions.')
_REPEATS = flags.DEFINE_integer('repeats', 1, 'How often each step is taken: more fit better to what is known.')
_SEED = flags.DEFINE_integer('seed', 0, 'Of all randomness.')
_OPTIONS = {
    'steps': flags.DEFINE_integer('steps', None, 'Steps of sampling; 0: all.'),
    'temperature': flags.DEFINE_float('temperature', None, 'Divides the logits; 0 takes the most likely.'),
    'guidance_scale': flags.DEFINE_float('guidance_scale', None, 'Classifier-free guidance; 1: none.'),
}  # what is not given is as in the config of the run


def main() -> None:
    """Completes and writes the sheet."""
    import numpy as np
    from tqdm import tqdm

    from vistok.data.images.pipeline import evaluation_batches, open_source
    from vistok.data.images.source import Split
    from vistok.data.tokens.dataset import TokenSource, token_folder
    from vistok.errors import UserError
    from vistok.experiments import registry, run_folder
    from vistok.experiments.loading import load
    from vistok.generators.inpainting import complete, read_mask, region
    from vistok.generators.trained import TrainedGenerator
    from vistok.visualization import class_sheet, save_png, to_uint8

    if _RUN.value is None or not (_OUT.value or _FOLDER.value):
        raise UserError('name a VQ-DDM and where to write, for example --run=runs/vq_ddm --out=completed.png')
    if min(_COUNT.value, _COMPLETIONS.value, _REPEATS.value) < 1 or _MARGIN.value < 0:
        raise UserError('--count, --completions and --repeats are at least 1, and --margin 0')
    path = pathlib.Path(_RUN.value)
    model: Any = load(path, _WHICH.value)
    if not isinstance(model, TrainedGenerator):
        raise UserError(f'{path} holds no generator')
    folder = next(p for p in (path, *path.parents[:2]) if (p / 'config.json').is_file())
    config = run_folder.read_config(folder)
    source, data_dir = _SOURCE.value, _DATA_DIR.value or config.data.data_dir or None
    if source is None:
        tokens = token_folder(config.data.source)
        source = config.data.source if tokens is None else TokenSource(tokens, 'train').about['source']
    given = {name: flag.value for name, flag in _OPTIONS.items() if flag.value is not None}
    if not _LABELLED.value:  # asking for nothing, there is nothing to be guided to
        given.setdefault('guidance_scale', 1.0)
    sampling = registry.build_sample_config(config.sample, **given)

    side = model.generator.grid[0] * model.generator.spec.downsample_factor
    hidden = read_mask(_MASK.value, side) if _MASK.value else region(_REGION.value, side)
    batches = evaluation_batches(
        open_source(source, cast(Split, _SPLIT.value), data_dir=data_dir),
        image_size=side,
        batch_size=min(_COUNT.value, 16),
    )
    rows: list[Any] = []
    names: list[str] = []
    progress = tqdm(total=_COUNT.value, desc='completing', unit='image')
    for batch in batches:
        real = batch['mask'].nonzero()[0][: _COUNT.value - len(names)]
        images, labels = batch['image'], batch['label']
        if _LABELLED.value and labels.max() >= model.generator.num_classes:
            raise UserError(f'{source} has a class {labels.max()}, the model {model.generator.num_classes} classes')
        cond = labels if _LABELLED.value else np.full_like(labels, model.generator.num_classes)
        first = len(names) * _COMPLETIONS.value
        completed = [
            complete(
                model,
                images,
                hidden,
                cond,
                first + np.arange(len(images)) * _COMPLETIONS.value + i,
                sampling,
                seed=_SEED.value,
                repeats=_REPEATS.value,
                margin=_MARGIN.value,
                paste=_PASTE.value,
            )
            for i in range(_COMPLETIONS.value)
        ]
        seen = np.where(hidden[..., None], 0.0, images)
        rows.append(np.stack([images, seen, *completed], axis=1)[real])
        names += [str(len(names) + i) for i in range(len(real))]
        progress.update(len(real))
        if len(names) == _COUNT.value:
            break
    progress.close()
    sheet_images = to_uint8(np.concatenate(rows))
    if _OUT.value:
        save_png(_OUT.value, class_sheet(sheet_images, names))
    if _FOLDER.value:
        for (row, name), i in itertools.product(enumerate(names), range(_COMPLETIONS.value)):
            save_png(pathlib.Path(_FOLDER.value) / f'{int(name):06d}-{i}.png', sheet_images[row, 2 + i])
    written = ' and '.join(filter(None, (_OUT.value, _FOLDER.value)))
    print(f'wrote {written}: {len(names)} images with {_COMPLETIONS.value} completions each')


if __name__ == '__main__':
    cli.run(main)
