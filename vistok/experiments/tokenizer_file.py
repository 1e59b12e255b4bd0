"""A tokenizer of any kind as one file, from which it can be rebuilt: arguments and variables."""

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from vistok.errors import UserError
from vistok.experiments import registry
from vistok.tokenizers.tokenizer import Tokenizer
from vistok.tokenizers.trained import AnyArray, TrainedTokenizer
from vistok.weights.files import SavedVariables, load_variables, save_variables

TOKENIZER = 'tokenizer.safetensors'
"""Where run folders of generators, and folders of tokens, keep the tokenizer."""
_ENTRY = 'model'  # of the file's header: the arguments, as JSON


def describe(module: Tokenizer) -> dict[str, Any]:
    """`config.model` of a tokenizer.

    Raises:
      UserError: its class has no name in the table of tokenizers.
    """
    name = next((name for name, cls in registry.TOKENIZERS.items() if cls is type(module)), None)
    if name is None:
        raise UserError(f'a {type(module).__name__} is none of the tokenizers {", ".join(registry.TOKENIZERS)}')
    arguments = {key: getattr(module, key) for key in module.__dataclass_fields__ if key not in ('parent', 'name')}
    dtype = jnp.dtype(arguments.pop('dtype', jnp.float32)).name
    return {'name': name, **arguments, 'dtype': dtype}


def write_tokenizer(
    path: str | os.PathLike[str], tokenizer: TrainedTokenizer, about: Mapping[str, str] | None = None
) -> None:
    """Writes a `.safetensors` file that `vistok.load` reads, and what is said `about` it."""
    model = describe(tokenizer.module)
    variables = jax.tree.map(np.asarray, tokenizer.variables)
    save_variables(path, model['name'], variables, {**(about or {}), _ENTRY: json.dumps(model)})


def halved(tokenizer: TrainedTokenizer) -> TrainedTokenizer:
    """The tokenizer with its float32 values rounded to float16: half the file.

    `rebuilt` makes float32 of them again, so that a model computes as always, with the rounded values.

    Raises:
      UserError: a value is too large for float16.
    """

    def half(value: AnyArray) -> np.ndarray:
        array = np.asarray(value)
        if array.dtype != np.float32:
            return array
        if (largest := float(np.abs(array).max(initial=0))) > float(np.finfo(np.float16).max):
            raise UserError(f'the weights hold {largest:g}, too large for float16')
        return array.astype(np.float16)

    return dataclasses.replace(tokenizer, variables=jax.tree.map(half, tokenizer.variables))


def is_described(saved: SavedVariables) -> bool:
    """Whether one of our files says how its model is built."""
    return _ENTRY in saved.about


def rebuilt(saved: SavedVariables) -> TrainedTokenizer:
    """The tokenizer of a file that `write_tokenizer` wrote."""
    config = ConfigDict({'model': json.loads(saved.about[_ENTRY])})
    return TrainedTokenizer(registry.tokenizer(config), jax.tree.map(_whole, saved.variables))


def _whole(value: np.ndarray) -> jax.Array:
    return jnp.asarray(value, jnp.float32 if value.dtype == np.float16 else None)


def read_tokenizer(path: str | os.PathLike[str]) -> TrainedTokenizer:
    """The tokenizer of a file that `write_tokenizer` wrote.

    Raises:
      UserError: the file is missing, damaged or of another kind.
    """
    saved = load_variables(path)
    if not is_described(saved):
        raise UserError(f'{path} holds {saved.name}, but not how it is built')
    return rebuilt(saved)
