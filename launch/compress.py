"""Compression of images into bitstreams.

    vistok compress photo.png                         writes photo.bin
    vistok compress photo.png small.bin --bpp=0.2
    vistok compress photo.png --max-bytes=4000
    vistok compress images/ compressed/ --model=runs/fqgan
    vistok compress photo.png --codewords=256         fewer codewords: smaller
    vistok compress photo.png --packets=4             some of which may get lost
    cat photo.jpg | vistok compress - --model=runs/fqgan > photo.bin

Nothing is overwritten without --force, and a file is written whole or not at all.
"""

import functools

import vistok
from vistok.launch.shared import command
from vistok.launch.shared.codec_flags import define_model, define_nested, define_prior
from vistok.launch.shared.flags import Flags

FLAGS = Flags(__doc__, ['image, folder or -'], ['what to write'])
_CODEC = {
    'model': define_model(FLAGS),
    'prior': define_prior(FLAGS),
    'nested': define_nested(FLAGS),
    'codewords': FLAGS.integer('codewords', None, 'Size of a nested codebook to write with; default: the whole one.'),
    'packets': FLAGS.integer(
        'packets', None, 'Number of packets that ids are dealt out to, so that some may get lost.'
    ),
    'window': FLAGS.integer('window', None, 'Side of the squares that the networks see at once, in pixels.'),
}
_SIZE = {
    'bpp': FLAGS.number('bpp', None, 'Bits per pixel to come near to; needs grains, or nested codebooks.'),
    'max_bytes': FLAGS.integer('max_bytes', None, 'Bytes that no file may exceed; needs grains, or nested codebooks.'),
    'grain_ratios': FLAGS.numbers(
        'grain_ratios', None, 'Shares of the area of each grain, from coarse to fine, such as 0.1,0.4,0.5.'
    ),
}
_FORCE = FLAGS.force()


def main(source: str, out: str | None = None) -> int:
    """Compresses a file, a folder or standard input."""
    codec = functools.partial(vistok.codec, **{name: flag.value for name, flag in _CODEC.items()})
    size = {name: flag.value for name, flag in _SIZE.items()}
    return min(1, vistok.compress_files(source, out, codec=codec, **size, force=_FORCE.value))


if __name__ == '__main__':
    command.run(main, FLAGS)
