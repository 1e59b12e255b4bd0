"""Makes parts of images anew, with a trained VQ-DDM and without any training for it.

    python launch/inpaint.py --run=runs/vq_ddm --region=lower --out=completed.png
    python launch/inpaint.py --run=runs/vq_ddm --source=/data/portraits --mask=hole.png --out=completed.png

`--mask` is an image that is white where something is hidden.  The result is a sheet with a row for each image: as it
is, as the model sees it, and its completions.
"""

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
    import pathlib

    from vistok.errors import UserError
    from vistok.experiments.inpainting import default_source, inpaint_files
    from vistok.experiments.loading import load_generator

    if _RUN.value is None:
        raise UserError('name a VQ-DDM, for example --run=runs/vq_ddm')
    source, data_dir = (_SOURCE.value, None) if _SOURCE.value else default_source(pathlib.Path(_RUN.value))
    said = inpaint_files(
        load_generator(_RUN.value, _WHICH.value),
        [value for value in (_OUT.value, _FOLDER.value) if value],
        source,
        split=cast(Any, _SPLIT.value),
        data_dir=_DATA_DIR.value or data_dir,
        count=_COUNT.value,
        mask=_MASK.value,
        region=_REGION.value,
        completions=_COMPLETIONS.value,
        labelled=_LABELLED.value,
        seed=_SEED.value,
        progress=True,
        repeats=_REPEATS.value,
        margin=_MARGIN.value,
        paste=_PASTE.value,
        **{name: flag.value for name, flag in _OPTIONS.items() if flag.value is not None},
    )
    print(said)


if __name__ == '__main__':
    cli.run(main)
