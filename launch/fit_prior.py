"""Frequencies of tokens and of their neighbours, with which compressing needs fewer bits.

    vistok fit_prior --model=runs/fqgan

The tables are written beside the weights, where compressing and decompressing find them.  A bitstream that was written
with them can only be read with them.
"""

import vistok
from vistok.launch.shared import command
from vistok.launch.shared.flags import Flags

FLAGS = Flags(__doc__)
_MODEL = FLAGS.model('Tokenizer: a run folder, one of its checkpoints, or a weights file.')
_SOURCE = FLAGS.string('source', 'embedded:photographs', 'Images whose tokens are counted.')
_OPTIONS = {
    'out': FLAGS.out('File that receives the tables; default: beside the weights.'),
    'images': FLAGS.integer(
        'images', 200, 'Number of images at most, evenly spread over the source.', old=['pictures']
    ),
    'crop': FLAGS.integer(
        'crop', 0, 'Side of the square in the middle that counts, in pixels; 0 takes the whole image.', least=0
    ),
    'force': FLAGS.force(),
}


def main() -> None:
    """Tokenizes the images, counts, and writes the tables."""
    model = FLAGS.require(_MODEL, 'name the model, for example --model=runs/control_gic')
    print(vistok.fit_prior(model, _SOURCE.value, **{name: flag.value for name, flag in _OPTIONS.items()}))


if __name__ == '__main__':
    command.run(main, FLAGS)
