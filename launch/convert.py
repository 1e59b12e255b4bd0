"""Converts official PyTorch weights into ours, and ours back.

    vistok convert --name=fqgan_dual --model=fqgan_dual_ds16.pt --out=fqgan_dual.safetensors
    vistok convert --to_official --model=fqgan_dual.safetensors --out=fqgan_dual.pt

Sizes are read from the weights, so a name serves all models of its paper.  `.pt` files need PyTorch, `.safetensors`
files do not.  `--out` may be a folder.
"""

import pathlib

from vistok.errors import UserError
from vistok.launch.shared import command
from vistok.launch.shared.flags import Flags

FLAGS = Flags(__doc__)
_NAME = FLAGS.string('name', None, 'Name of the official model; an unknown name lists the known ones.')
_MODEL = FLAGS.model('Weights file to read.', old=['input'])
_OUT = FLAGS.out('File to write, or an existing folder.', old=['output'])
_TO_OFFICIAL = FLAGS.switch('to_official', 'Converts ours to official names, instead of official ones to ours.')


def main() -> None:
    """Converts, and says what was used and what was not."""
    message = 'name the files: --model=FILE --out=FILE'
    source, target = (pathlib.Path(FLAGS.required(flag, message)) for flag in (_MODEL, _OUT))
    print(
        write_official(source, target, _NAME.value) if _TO_OFFICIAL.value else write_ours(source, target, _NAME.value)
    )


def write_ours(source: pathlib.Path, target: pathlib.Path, name: str | None) -> str:
    """Reads official weights, writes our file, and returns an account of it.

    Raises:
      UserError: a file that cannot be read or written, or weights that are not of `name`.
    """
    from vistok.experiments.official_models import OFFICIAL, from_official
    from vistok.weights.files import WRAPPERS, is_ours, read_state_dict, save_variables
    from vistok.weights.rules import ConversionError

    if name not in OFFICIAL:
        raise UserError(f'name the model with --name, one of: {", ".join(OFFICIAL)}; got {name!r}')
    target = _inside(target, name)
    if target.suffix != '.safetensors':
        raise UserError(f'converted weights are .safetensors files, got --out={target}')
    if is_ours(source):
        raise UserError(f'{source} is converted already; --to_official converts it back')
    beside_model = ('discriminator',) if name in ('patchgan', 'stylegan_disc') else ()  # in training checkpoints
    state_dict = read_state_dict(source, (*beside_model, *WRAPPERS))
    if not state_dict:
        raise UserError(f'{source} holds no named tensors')
    try:
        model = from_official(name, state_dict)
    except ConversionError:
        raise
    except ValueError as error:  # sizes no model can have
        raise UserError(f'{source} does not fit {name}: {error}') from None
    save_variables(target, name, model.variables)
    used = len(state_dict) - len(model.ignored)
    ignored = f'; {len(model.ignored)} ignored: {", ".join(model.ignored)}' if model.ignored else ', none ignored'
    return f'{target}: {name}, {used} of {len(state_dict)} entries used{ignored}'


def write_official(source: pathlib.Path, target: pathlib.Path, name: str | None) -> str:
    """Reads our file, writes official names and layouts, and returns an account of it.

    Raises:
      UserError: a file that cannot be read or written, or one of another name.
    """
    from vistok.experiments.official_models import to_official
    from vistok.weights.files import load_variables, write_state_dict

    saved = load_variables(source)
    if name not in (None, saved.name):
        raise UserError(f'{source} holds {saved.name}, not {name}')
    target = _inside(target, f'{saved.name}_official')
    state_dict = to_official(saved.name, saved.variables)
    write_state_dict(target, state_dict)
    return f'{target}: {saved.name}, {len(state_dict)} entries'


def _inside(target: pathlib.Path, stem: str) -> pathlib.Path:
    return target / f'{stem}.safetensors' if target.is_dir() else target


if __name__ == '__main__':
    command.run(main, FLAGS)
