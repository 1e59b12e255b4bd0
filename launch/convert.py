"""Conversion of official PyTorch weights into ours, and of ours back.

    vistok convert --name=fqgan_dual --model=fqgan_dual_ds16.pt --out=fqgan_dual.safetensors
    vistok convert --name=llamagen_gpt --model=c2i_B_384.pt --grid=24,24 --out=gpt.safetensors
    vistok convert --to_official --model=runs/fqgan --out=fqgan_dual.pt

Sizes are read from the weights, so a name serves all models of its paper.  `.pt` files need PyTorch, `.safetensors`
files do not.  `--out` may be a folder.
"""

import vistok
from vistok.launch.shared import command
from vistok.launch.shared.flags import Flags

FLAGS = Flags(__doc__)
_NAME = FLAGS.string('name', None, 'Name of the official model; an unknown name lists the known ones.')
_MODEL = FLAGS.model('Weights file to read; with --to_official also a run folder.', old=['input'])
_OUT = FLAGS.out('File to write, or an existing folder.', old=['output'])
_TOKENIZER = FLAGS.string('tokenizer', None, 'Tokenizer of a generator, whose fingerprint its file then keeps.')
_GRID = FLAGS.numbers(
    'grid', None, "Rows and columns of a generator's token grid, such as 24,24, where the weights leave it open."
)
_TO_OFFICIAL = FLAGS.switch('to_official', 'Converts ours to official names, instead of official ones to ours.')


def main() -> None:
    """Converts, and says what was used and what was not."""
    message = 'name the files: --model=FILE --out=FILE'
    source, out = FLAGS.require(_MODEL, message), FLAGS.require(_OUT, message)
    if _TO_OFFICIAL.value:
        print(vistok.convert_to_official(source, out, _NAME.value))
        return
    grid = {'grid': tuple(map(int, _GRID.value))} if _GRID.value else {}
    print(vistok.convert(source, out, _NAME.value, tokenizer=_TOKENIZER.value, **grid))


if __name__ == '__main__':
    command.run(main, FLAGS)
