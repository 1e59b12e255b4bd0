"""Makes a smaller file of a compressed image, with fewer codewords; needs neither the image nor a network.

    python launch/transcode.py photo.bin smaller.bin --weights=runs/vqgan_lc --codewords=256
    python launch/transcode.py photo.bin smaller.bin --weights=runs/vqgan_lc --max_bytes=1500

The result is the file that launch/compress.py --codewords=256 writes.  Of the weights, only the tables beside them are
read: those of launch/nest_codebook.py and, if there are any, of launch/fit_prior.py.
"""

import sys

from absl import flags

from vistok import cli

_WEIGHTS = flags.DEFINE_string('weights', None, 'What the file was written with; default: weights of the package.')
_NESTED = flags.DEFINE_string('nested', None, 'Tables of launch/nest_codebook.py; default: those beside the weights.')
_PRIOR = flags.DEFINE_string(
    'prior', None, "Tables of launch/fit_prior.py; default: those beside the weights; '': none."
)
_CODEWORDS = flags.DEFINE_integer('codewords', None, 'Codewords of the result.')
_MAX_BYTES = flags.DEFINE_integer('max_bytes', None, 'Bytes of the result at most; the most codewords that fit.')
_FORCE = flags.DEFINE_bool('force', False, 'Whether an existing file is replaced.')


def main(source: str, target: str) -> None:
    """Reads a bitstream, and writes another."""
    from pathlib import Path

    from vistok.compression.transcode import transcode
    from vistok.errors import UserError
    from vistok.experiments import image_files
    from vistok.experiments.codecs import SHIPPED, open_nested, open_tables

    if (_CODEWORDS.value is None) == (_MAX_BYTES.value is None):
        raise UserError('say how small, with one of --codewords and --max_bytes')
    weights = str(SHIPPED) if _WEIGHTS.value is None else _WEIGHTS.value
    nested, prior = open_nested(weights, _NESTED.value), open_tables(weights, _PRIOR.value)
    if nested is None:
        raise UserError(f'there are no nested codebooks beside {weights}: make them with launch/nest_codebook.py')
    if target != image_files.STANDARD:
        image_files.check_new(Path(target), force=_FORCE.value)
    data = sys.stdin.buffer.read() if source == image_files.STANDARD else Path(source).read_bytes()
    result = transcode(data, nested, codewords=_CODEWORDS.value, max_bytes=_MAX_BYTES.value, prior=prior)
    if target == image_files.STANDARD:
        sys.stdout.buffer.write(result)
        return
    image_files.write_new(Path(target), result, force=_FORCE.value)
    print(f'{source} -> {target}: {len(data)} bytes become {len(result)}')


if __name__ == '__main__':
    cli.run(main, positional=['bitstream or -', 'result or -'])
