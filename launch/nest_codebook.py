"""Smaller codebooks of a trained tokenizer, each inside of the one before.

    vistok nest_codebook --model=runs/vqgan_lc --sizes=256,64,16
    vistok compress photo.png --model=runs/vqgan_lc --codewords=64
    vistok transcode photo.bin smaller.bin --model=runs/vqgan_lc --codewords=16

Codewords are clustered by k-means, in which each counts as often as it occurs in images; then the clusters are.  The
tables are written beside the weights, where the other commands find them.  A bitstream that was written with them can
only be read with them.  Of tokenizers with several sub-codebooks, each gets the same sizes.
"""

import vistok
from vistok.launch.shared import command
from vistok.launch.shared.flags import Flags

FLAGS = Flags(__doc__)
_MODEL = FLAGS.model('Tokenizer: a run folder, one of its checkpoints, or a weights file.')
_SIZES = FLAGS.numbers('sizes', None, 'Number of codewords of each level, falling, such as 4096,1024,256.')
_SOURCE = FLAGS.string('source', 'embedded:photographs', 'Images in which codewords are counted.')
_OPTIONS = {
    'out': FLAGS.out('File that receives the tables; default: beside the weights.'),
    'images': FLAGS.integer(
        'images', 200, 'Number of images at most, evenly spread over the source.', old=['pictures']
    ),
    'crop': FLAGS.integer(
        'crop', 0, 'Side of the square in the middle that counts, in pixels; 0 takes the whole image.', least=0
    ),
    'restarts': FLAGS.integer('restarts', 3, 'Number of starts of k-means, of which the best is taken.'),
    'seed': FLAGS.seed(),
    'force': FLAGS.force(),
}


def main() -> None:
    """Counts codewords in images, clusters them, and writes the tables."""
    model = FLAGS.require(_MODEL, 'name the model, for example --model=runs/vqgan_lc')
    options = {name: flag.value for name, flag in _OPTIONS.items()}
    print(vistok.nest_codebook(model, _SIZES.value or (), _SOURCE.value, **options))


if __name__ == '__main__':
    command.run(main, FLAGS)
