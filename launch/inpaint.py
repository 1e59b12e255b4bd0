"""Replaces parts of images by new ones, with a trained VQ-DDM and without any training for it.

    vistok inpaint --model=runs/vq_ddm --region=lower --out=completed.png
    vistok inpaint --model=runs/vq_ddm --source=/data/portraits --mask=hole.png --out=completed.png

`--mask` is an image that is white where something is hidden.  A .png file is a sheet with a row for each image: as it
is, as the model sees it, and its completions; a folder receives a file for each completion.
"""

from vistok.launch.shared import command
from vistok.launch.shared.flags import Flags
from vistok.launch.shared.outputs import split_outputs

FLAGS = Flags(__doc__)
_MODEL = FLAGS.model('Generator: a run folder of a VQ-DDM, or one of its checkpoints.', old=['run'])
_CHECKPOINT = FLAGS.checkpoint()
_OUT = FLAGS.strings(
    'out',
    [],
    'What to write: a .png file with a sheet, a folder for single completions; several are joined by commas.',
    old={'folder': '{}/'.format},
)
_SOURCE = FLAGS.string('source', None, "Images to complete; default: the run's own validation images.")
_DATA_DIR = FLAGS.data_dir()
_SPLIT = FLAGS.choice('split', 'validation', ['validation', 'train'], 'Split of the source.')
_IMAGES = FLAGS.integer(
    'images', 8, 'Number of images that are completed, the first ones of the source.', old=['count']
)
_MASK = FLAGS.string('mask', None, 'Image that is white where pixels are hidden.')
_REGION = FLAGS.string(
    'region', 'right', 'Region that is hidden where no mask is given: left, right, upper, lower, centre or border.'
)
_MARGIN = FLAGS.integer('margin', 0, 'Width, in cells, of the border of the hidden ones that is made anew as well.')
_COMPLETIONS = FLAGS.integer('completions', 4, 'Number of completions of each image.')
_LABELLED = FLAGS.switch('labelled', 'Tells the model the class of each image.')
_PASTE = FLAGS.switch('paste', 'Puts the pixels that are not hidden back into the completions.')
_REPEATS = FLAGS.integer('repeats', 1, 'Number of times that each step is taken: more fit better to what is known.')
_SEED = FLAGS.seed()
_OPTIONS = {
    'steps': FLAGS.integer('steps', None, 'Number of steps of sampling; 0 takes all.'),
    'temperature': FLAGS.number('temperature', None, 'Number that divides the logits; 0 takes the most likely id.'),
    'guidance_scale': FLAGS.number('guidance_scale', None, 'Scale of classifier-free guidance; 1 switches it off.'),
}  # what is not given is as in the config of the run


def main() -> None:
    """Completes images and writes the sheet."""
    import itertools
    import pathlib
    from typing import Any, cast

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

    message = 'name a VQ-DDM and where to write, for example --model=runs/vq_ddm --out=completed.png'
    path = pathlib.Path(FLAGS.required(_MODEL, message))
    outputs = split_outputs(FLAGS.required(_OUT, message), npz=False)
    if min(_IMAGES.value, _COMPLETIONS.value, _REPEATS.value) < 1 or _MARGIN.value < 0:
        raise UserError('--images, --completions and --repeats are at least 1, and --margin 0')
    model: Any = load(path, _CHECKPOINT.value)
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
        batch_size=min(_IMAGES.value, 16),
    )
    rows: list[Any] = []
    names: list[str] = []
    progress = tqdm(total=_IMAGES.value, desc='completing', unit='image')
    for batch in batches:
        real = batch['mask'].nonzero()[0][: _IMAGES.value - len(names)]
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
        if len(names) == _IMAGES.value:
            break
    progress.close()
    sheet_images = to_uint8(np.concatenate(rows))
    if outputs.sheet:
        save_png(outputs.sheet, class_sheet(sheet_images, names))
    if outputs.folder:
        for (row, name), i in itertools.product(enumerate(names), range(_COMPLETIONS.value)):
            save_png(outputs.folder / f'{int(name):06d}-{i}.png', sheet_images[row, 2 + i])
    written = ' and '.join(str(path) for path in (outputs.sheet, outputs.folder) if path)
    print(f'wrote {written}: {len(names)} images with {_COMPLETIONS.value} completions each')


if __name__ == '__main__':
    command.run(main, FLAGS)
