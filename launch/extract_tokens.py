"""Extraction of tokens from images, so that training a generator needs no images.

    vistok extract_tokens --model=runs/vqgan-digits
    vistok extract_tokens --model=vq16.safetensors --source=tfds:imagenet2012 --image_size=256 \\
        --zooms=1.1,1.05 --out=runs/tokens-imagenet256

The training images are stored in several views each (--views), the validation images in their centre crop.  Killed
at any moment, the same command goes on.  Several processes share the work with --process_count=N and --process_id=I;
whichever is done last writes the dataset.  `--config.data.source=tokens:DIR` of `vistok train` reads it.
"""

import vistok
from vistok.launch.shared import command
from vistok.launch.shared.flags import Flags

FLAGS = Flags(__doc__)
_MODEL = FLAGS.model('Tokenizer: a run folder, one of its checkpoints, or a weights file.')
_SOURCE = FLAGS.string('source', None, "Images to encode; default: the run's own.")
_OUT = FLAGS.out('Folder that receives the tokens; default: tokens/ in the run folder.')
_OPTIONS = {
    'checkpoint': FLAGS.checkpoint(),
    'data_dir': FLAGS.data_dir(),
    'image_size': FLAGS.integer('image_size', None, 'Side of the views in pixels; default: that of the run, or 256.'),
    'views': FLAGS.choice(
        'views',
        None,
        ['centre', 'five_crop', 'ten_crop'],
        'Views of each training image; default: ten_crop (corners, centre, and their mirrors), or five_crop (no '
        'mirrors) if the tokenizer was trained without mirroring.',
    ),
    'zooms': FLAGS.numbers('zooms', [1.1], 'Sizes of the images that views are cut from, relative to the views.'),
    'batch_size': FLAGS.integer('batch_size', 128, 'Number of views that are encoded at a time.'),
    'part_size': FLAGS.integer('part_size', 512, 'Number of images after which the work done is safe.'),
    'process_count': FLAGS.process_count(1),
    'process_id': FLAGS.process_id(0),
    'threads': FLAGS.integer('threads', 4, 'Number of threads that decode images.'),
}


def main() -> None:
    """Extracts what is missing, and finishes when nothing is."""
    model = FLAGS.require(_MODEL, 'name a tokenizer, for example --model=runs/vqgan-digits')
    options = {name: flag.value for name, flag in _OPTIONS.items()}
    print(vistok.extract_tokens(model, _SOURCE.value, _OUT.value, **options, progress=True))


if __name__ == '__main__':
    command.run(main, FLAGS)
