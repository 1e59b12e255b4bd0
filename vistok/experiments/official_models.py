"""Official weights by name: models from official files, and official files from models."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import numpy as np

from vistok.errors import UserError
from vistok.experiments import registry
from vistok.generators.convert.official import OFFICIAL as GENERATORS
from vistok.generators.trained import TrainedGenerator
from vistok.tokenizers.convert.official import OFFICIAL as TOKENIZERS
from vistok.tokenizers.trained import TrainedTokenizer
from vistok.weights.files import read_state_dict, write_state_dict
from vistok.weights.official import Official, find_entry
from vistok.weights.rules import ConversionError, StateDict

OFFICIAL: dict[str, Official] = {
    **TOKENIZERS,
    **GENERATORS,
    # Files of ADDP and MAGE may hold the tokenizer, which is another model's.
    **{
        name: dataclasses.replace(GENERATORS[name], inside={'tokenizer': ('vqgan.', TOKENIZERS['maskgit_vqgan'])})
        for name in ('addp', 'mage')
    },
}
"""Importers and exporters of official weights, by name."""


def from_official(
    name: str,
    weights: StateDict | str | os.PathLike[str],
    *,
    tokenizer: TrainedTokenizer | None = None,
    **arguments: Any,
) -> Any:
    """Builds a model with official weights.

    Args:
      name: what the weights are of, one of `OFFICIAL`; sizes are read from the shapes.
      weights: an official file (`.pt`, `.pth`, `.ckpt`, `.bin`, `.safetensors`), or its arrays by official name, in
        PyTorch's layouts.
      tokenizer: for a generator, the tokenizer of its tokens.
      **arguments: of the model, over those read from the weights (`dtype`, `remat`, `entropy_weight`; an FQGAN with
        `teachers=('', '')` drops the heads that predict the teachers' features; a generator's `grid` where the
        weights leave it open).

    Returns:
      A tokenizer with its parameters (`encode`, `decode`), a generator with its (`sample`, `loss`), or a network with
      its variables (call it).

    Raises:
      ConversionError: an unknown name, or weights that do not fit.
      UserError: there is no such file, or the tokenizer is of other tokens.
    """
    importer = find_entry(OFFICIAL, name)
    state_dict = weights if isinstance(weights, Mapping) else read_state_dict(weights)
    model = importer.read(state_dict, **arguments)
    return model if tokenizer is None else model.with_tokenizer(tokenizer)


def export_variables(name: str, variables: Mapping[str, Any]) -> dict[str, Any]:
    """Converts our variables to the official state dict of a name: names and layouts of PyTorch, every value as it is.

    Raises:
      ConversionError: an unknown name, or variables of another model.
    """
    return find_entry(OFFICIAL, name).write(variables)


def to_official(
    model: TrainedTokenizer | TrainedGenerator, path: str | os.PathLike[str] | None = None, *, name: str | None = None
) -> dict[str, Any]:
    """Converts a model to official weights, and writes them as a file if a path is given.

    Args:
      model: a tokenizer or generator, trained here or converted.
      path: of the file, `.safetensors` or `.pt` (needs PyTorch).
      name: official name of the layout; None takes the first that holds the model.

    Returns:
      Arrays by official name.

    Raises:
      UserError: no official layout is known of such a model, or none has a place for this one.
    """
    module: Any = model.module if isinstance(model, TrainedTokenizer) else model.generator
    layouts = (name,) if name else registry.find_model(registry.describe_model(module)['name']).official
    if not layouts:
        raise UserError(f'no official layout is known of a {type(module).__name__}')
    reasons = []
    for layout in layouts:
        try:
            state_dict = export_variables(layout, model.variables)
            _check_export(layout, state_dict, model)
        except (ConversionError, KeyError) as error:
            reasons.append(f'not {layout}: {str(error).splitlines()[0]}')
            continue
        if path is not None:
            write_state_dict(path, state_dict)
        return state_dict
    raise UserError(f'this {type(module).__name__} fits no official layout: {"; ".join(reasons)}')


_NOT_IN_FILES = ('dtype', 'remat', 'weight', 'dropout', 'temperature', 'decay', 'restart', 'smoothing', 'teachers')


def _check_export(layout: str, state_dict: StateDict, model: TrainedTokenizer | TrainedGenerator) -> None:
    """Reads exported weights again, as the official code would understand them.

    Raises:
      ConversionError: they come back as another model; the sentence names the first difference.
    """
    again = from_official(layout, state_dict)
    if isinstance(model, TrainedTokenizer):
        here, there = (registry.describe_model(each.module) for each in (model, again))
        for key, value in here.items():
            if not key.endswith(_NOT_IN_FILES) and registry.hashable(there.get(key)) != registry.hashable(value):
                raise ConversionError(f'such files stand for {key} {there.get(key)}, this model has {value}')
    ours, theirs = (flax.traverse_util.flatten_dict(dict(each.variables), sep='/') for each in (model, again))
    for path, value in ours.items():
        if path not in theirs or not np.array_equal(np.asarray(value), np.asarray(theirs[path])):
            raise ConversionError(f'such files have no place for {path}')
