"""Converts official PyTorch weights into ours, and ours back.

    python launch/convert.py --name=fqgan_dual --input=fqgan_dual_ds16.pt --output=fqgan_dual.safetensors
    python launch/convert.py --to_official --input=fqgan_dual.safetensors --output=fqgan_dual.pt

Sizes are read from the weights, so a name serves all models of its paper.  `.pt` files need PyTorch, `.safetensors`
files do not.  `--output` may be a folder.
"""

from absl import flags

from vistok import cli
from vistok.errors import UserError

_NAME = flags.DEFINE_string('name', None, 'What the official weights are of; an unknown name lists the known ones.')
_INPUT = flags.DEFINE_string('input', None, 'File to read.')
_OUTPUT = flags.DEFINE_string('output', None, 'File to write, or an existing folder.')
_TO_OFFICIAL = flags.DEFINE_bool('to_official', False, 'From ours to official names, instead of from official to ours.')


def main() -> None:
    """Converts, and says what was used and what was not."""
    if not _INPUT.value or not _OUTPUT.value:
        raise UserError('name the files: --input=FILE --output=FILE')
    from vistok.experiments.conversion import convert, convert_to_official

    act = convert_to_official if _TO_OFFICIAL.value else convert
    print(act(_INPUT.value, _OUTPUT.value, _NAME.value))


if __name__ == '__main__':
    cli.run(main)
