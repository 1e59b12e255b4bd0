"""Decompression of bitstreams into images.

    vistok decompress photo.bin again.png
    vistok decompress compressed/ images/ --model=runs/fqgan
    vistok decompress - --model=runs/fqgan < photo.bin > photo.png
    vistok decompress photo.bin --partial --restore=runs/maskgit       what is lost is made up

It needs the weights, and the prior, that the file was written with; their fingerprints are in it.
"""

import functools

import vistok
from vistok.launch.shared import command
from vistok.launch.shared.codec_flags import define_limits, define_model, define_nested, define_prior
from vistok.launch.shared.flags import Flags

FLAGS = Flags(__doc__, ['bitstream, folder or -'], ['what to write'])
_CODEC = {'model': define_model(FLAGS), 'prior': define_prior(FLAGS), 'nested': define_nested(FLAGS)}
_LIMITS = define_limits(FLAGS)
_OPTIONS = {
    'partial': FLAGS.switch('partial', 'Makes up the ids of packets that are missing or damaged.'),
    'restore': FLAGS.string(
        'restore',
        None,
        'Run folder of a maskgit on the same tokens that restores lost ids; default: the nearest known.',
    ),
    'force': FLAGS.force(),
}


def main(source: str, out: str | None = None) -> int:
    """Decompresses a file, a folder or standard input."""
    codec = functools.partial(vistok.codec, **{name: flag.value for name, flag in _CODEC.items()}, limits=_LIMITS())
    options = {name: flag.value for name, flag in _OPTIONS.items()}
    return min(1, vistok.decompress_files(source, out, codec=codec, **options))


if __name__ == '__main__':
    command.run(main, FLAGS)
