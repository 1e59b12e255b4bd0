"""Transcoding of a bitstream to fewer codewords, without the image and without a network.

    vistok transcode photo.bin smaller.bin --model=runs/vqgan_lc --codewords=256
    vistok transcode photo.bin smaller.bin --model=runs/vqgan_lc --max_bytes=1500

The result is the file that `vistok compress --codewords=256` writes.  Of the weights, only the tables beside them are
read: those of `vistok nest_codebook` and, if there are any, of `vistok fit_prior`.
"""

import vistok
from vistok.launch.shared import command
from vistok.launch.shared.codec_flags import define_limits, define_model, define_nested, define_prior
from vistok.launch.shared.flags import Flags

FLAGS = Flags(__doc__, ['bitstream or -', 'result or -'])
_OPTIONS = {
    'model': define_model(FLAGS),
    'nested': define_nested(FLAGS),
    'prior': define_prior(FLAGS),
    'codewords': FLAGS.integer('codewords', None, 'Number of codewords of the result.'),
    'max_bytes': FLAGS.integer('max_bytes', None, 'Bytes of the result at most; takes the most codewords that fit.'),
    'force': FLAGS.force(),
}

_LIMITS = define_limits(FLAGS)


def main(source: str, out: str) -> None:
    """Reads a bitstream and writes another."""
    report = vistok.transcode(source, out, **{name: flag.value for name, flag in _OPTIONS.items()}, limits=_LIMITS())
    if out != '-':
        print(report)


if __name__ == '__main__':
    command.run(main, FLAGS)
