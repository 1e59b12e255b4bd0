"""Turns images into tokens once, so that training a generator need not.

    python launch/extract_tokens.py --run=runs/vqgan-digits
    python launch/extract_tokens.py --run=vq16.safetensors --source=tfds:imagenet2012 --image_size=256 \\
        --zooms=1.1,1.05 --out=runs/tokens-imagenet256

The training images are stored in several views each (--views), the validation images in their centre crop.  Killed
at any moment, the same command goes on.  Several processes share the work with --process_count=N and --process_id=I;
whichever is done last writes the dataset.  `--config.data.source=tokens:DIR` of launch/train.py reads it.
"""

import pathlib
from typing import cast

from absl import flags

from vistok import cli

_RUN = flags.DEFINE_string('run', None, 'Tokenizer: run folder, checkpoint of a run, or converted weights.')
_WHICH = flags.DEFINE_string('checkpoint', 'latest', "'latest', 'best', or a step.")
_OUT = flags.DEFINE_string('out', None, 'Folder for the tokens; default: tokens/ in the run folder.')
_SOURCE = flags.DEFINE_string('source', None, "Images; default: the run's own.")
_DATA_DIR = flags.DEFINE_string('data_dir', None, 'Where TFDS datasets lie.')
_IMAGE_SIZE = flags.DEFINE_integer('image_size', None, 'Side of the views in pixels; default: that of the run, or 256.')
_VIEWS = flags.DEFINE_enum(
    'views',
    None,
    ['centre', 'five_crop', 'ten_crop'],
    'Of each training image.  Default: ten_crop (corners, centre, and their mirrors), or five_crop (no mirrors) if '
    'the tokenizer was trained without mirroring.',
)
_ZOOMS = flags.DEFINE_list('zooms', ['1.1'], 'How much larger than the views the image is that they are cut from.')
_BATCH_SIZE = flags.DEFINE_integer('batch_size', 128, 'Views that are encoded at a time.')
_PART_SIZE = flags.DEFINE_integer('part_size', 512, 'Images after which the work done is safe.')
_PROCESS_COUNT = flags.DEFINE_integer('process_count', 1, 'Among how many processes the work is divided.')
_PROCESS_ID = flags.DEFINE_integer('process_id', 0, 'Number of this process, from 0.')
_THREADS = flags.DEFINE_integer('threads', 4, 'Threads that decode images.')


def main() -> None:
    """Extracts what is missing, and finishes when nothing is."""
    from vistok.data.tokens.dataset import PREFIX
    from vistok.data.tokens.views import Views
    from vistok.errors import UserError
    from vistok.experiments import run_folder
    from vistok.experiments.loading import load_tokenizer
    from vistok.experiments.token_extraction import Extraction

    if _RUN.value is None:
        raise UserError('name a tokenizer, for example --run=runs/vqgan-digits')
    if not 0 <= _PROCESS_ID.value < _PROCESS_COUNT.value:
        raise UserError(f'--process_id is {_PROCESS_ID.value}; it must be in 0 .. {_PROCESS_COUNT.value - 1}')
    path = pathlib.Path(_RUN.value)
    tokenizer = load_tokenizer(path, _WHICH.value)
    folder = next((p for p in (path, *path.parents[:2]) if (p / 'config.json').is_file()), None)
    source, data_dir, size, flip = _SOURCE.value, _DATA_DIR.value, _IMAGE_SIZE.value, True
    if folder is not None:
        data = run_folder.read_config(folder).data
        source, data_dir, size = source or data.source, data_dir or data.data_dir or None, size or data.image_size
        flip = data.flip
    if source is None:
        raise UserError(f'{path} is no run folder: name images by --source')
    out = pathlib.Path(_OUT.value) if _OUT.value else folder and folder / 'tokens'
    if out is None:
        raise UserError('name a folder for the tokens by --out')
    try:
        zooms = tuple(float(zoom) for zoom in _ZOOMS.value)
    except ValueError:
        raise UserError(f'--zooms are numbers, got {",".join(_ZOOMS.value)}') from None
    extraction = Extraction(
        tokenizer,
        source,
        out,
        image_size=size or 256,
        views=cast(Views, _VIEWS.value or ('ten_crop' if flip else 'five_crop')),
        zooms=zooms,
        data_dir=data_dir,
        batch_size=_BATCH_SIZE.value,
        part_size=_PART_SIZE.value,
        threads=_THREADS.value,
    )
    skipped = extraction.run(_PROCESS_ID.value, _PROCESS_COUNT.value, progress=True)
    if skipped is None:
        print(f'done; other processes still work on their parts, or write {out}')
        return
    if skipped:
        name, reason = next(iter(skipped.items()))
        print(f'{len(skipped)} images could not be used and were left out; the first: {name}: {reason}')
    print(f'{out}: {extraction.describe()}; use it as --config.data.source={PREFIX}{out}')


if __name__ == '__main__':
    cli.run(main)
