"""Conversion of official weights into our files, and of our models into official files."""

import pathlib
from typing import Any

from vistok.errors import UserError
from vistok.experiments.loading import load, load_tokenizer
from vistok.experiments.official_models import OFFICIAL, export_variables, from_official, to_official
from vistok.experiments.saved_models import save_model
from vistok.generators.trained import TrainedGenerator
from vistok.tokenizers.trained import TrainedTokenizer
from vistok.weights.files import WRAPPERS, is_ours, load_variables, read_state_dict, save_variables, write_state_dict
from vistok.weights.rules import ConversionError


def convert(
    source: str | pathlib.Path,
    out: str | pathlib.Path,
    name: str | None = None,
    *,
    tokenizer: str | pathlib.Path | None = None,
    **arguments: Any,
) -> str:
    """Converts an official file into one of ours, which describes its model.

    Args:
      source: an official file.
      out: a `.safetensors` file to write, or an existing folder.
      name: what the weights are of, one of the names of `from_official`.
      tokenizer: for a generator, the tokenizer of its tokens; its fingerprint is kept in the file.
      **arguments: of the model, over those read from the weights, such as a generator's `grid`.

    Returns:
      One line that says what was used and what was not.

    Raises:
      UserError: a file that cannot be read or written, or weights that are not of `name`.
    """
    source, out = pathlib.Path(source), pathlib.Path(out)
    if name not in OFFICIAL:
        raise UserError(f'name what the weights are of, one of: {", ".join(OFFICIAL)}; got {name!r}')
    out = _inside(out, name)
    if out.suffix != '.safetensors':
        raise UserError(f'converted weights are .safetensors files, got --out={out}')
    if is_ours(source):
        raise UserError(f'{source} is converted already; --to_official converts it back')
    beside_model = ('discriminator',) if name in ('patchgan', 'stylegan_disc') else ()  # in training checkpoints
    state_dict = read_state_dict(source, (*beside_model, *WRAPPERS))
    if not state_dict:
        raise UserError(f'{source} holds no named tensors')
    opened = None if tokenizer is None else load_tokenizer(tokenizer)
    try:
        model = from_official(name, state_dict, tokenizer=opened, **arguments)
    except ConversionError:
        raise
    except (ValueError, TypeError) as error:  # sizes no model can have, arguments it does not take
        raise UserError(f'{source} does not fit {name}: {error}') from None
    if isinstance(model, TrainedTokenizer | TrainedGenerator):
        save_model(model, out, {'official': name, 'source': source.name})
    else:
        save_variables(out, name, model.variables)
    used = len(state_dict) - len(model.ignored)
    ignored = f'; {len(model.ignored)} ignored: {", ".join(model.ignored)}' if model.ignored else ', none ignored'
    return f'{out}: {name}, {used} of {len(state_dict)} entries used{ignored}'


def convert_to_official(source: str | pathlib.Path, out: str | pathlib.Path, name: str | None = None) -> str:
    """Converts a run folder or one of our files into an official file.

    Args:
      source: a run folder, one of its checkpoints, or one of our files.
      out: a `.safetensors` or `.pt` file to write, or an existing folder.
      name: official name of the layout; None takes the first that holds the model.

    Returns:
      One line that says what was written.

    Raises:
      UserError: a file that cannot be read or written, or a model that fits no official layout.
    """
    source, out = pathlib.Path(source), pathlib.Path(out)
    model: Any = load(source)
    if name is None and source.is_file():  # a converted file goes back to what it was
        name = load_variables(source).about.get('official')
    if isinstance(model, TrainedTokenizer | TrainedGenerator):
        state_dict = to_official(model, name=name)
        held = type(model.module if isinstance(model, TrainedTokenizer) else model.generator).__name__
    else:  # a network without a description, by the name that it was converted from
        held = load_variables(source).name
        if name not in (None, held):
            raise UserError(f'{source} holds {held}, not {name}')
        state_dict = export_variables(held, model.variables)
    out = _inside(out, f'{name or source.stem}_official')
    write_state_dict(out, state_dict)
    return f'{out}: {held}, {len(state_dict)} entries'


def _inside(out: pathlib.Path, stem: str) -> pathlib.Path:
    return out / f'{stem}.safetensors' if out.is_dir() else out
