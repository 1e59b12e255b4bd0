"""Files of weights: official checkpoints are read and written, our own `.safetensors` files too.

Ours are `.safetensors` files of flat names ('params/encoder/...') with the model's name in the header.
"""

import argparse
import dataclasses
import io
import os
import pathlib
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import flax.traverse_util
import numpy as np
import safetensors
import safetensors.numpy

from vistok.errors import UserError
from vistok.files import write_file

_FORMAT = 'vistok'
_FORMATS = (_FORMAT, 'tesserax')  # what files say that this project wrote, the second under its earlier name
WRAPPERS = ('ema', 'model', 'state_dict')
"""Names of the entries of training checkpoints that hold the weights, in the order of the official loaders."""
_PREFIXES = ('module.', '_orig_mod.')  # left behind by data-parallel and compiled modules


@dataclasses.dataclass(frozen=True)
class SavedVariables:
    """Contents of one of our weights files.

    Attributes:
      name: the model's name, as `vistok.from_official` knows it.
      variables: collections of nested dicts of arrays.
      about: metadata, such as the origin of the weights.
    """

    name: str
    variables: dict[str, Any]
    about: dict[str, str] = dataclasses.field(default_factory=dict)


def is_ours(path: str | os.PathLike[str]) -> bool:
    """Returns whether `save_variables` wrote the file."""
    path = _existing(path)
    return path.suffix == '.safetensors' and _header(path).get('format') in _FORMATS


def read_name(path: str | os.PathLike[str]) -> str:
    """Reads the name of the model, or of other contents, from the header of one of our files."""
    return _header(_existing(path)).get('name', '')


def save_variables(
    path: str | os.PathLike[str], name: str, variables: Mapping[str, Any], about: Mapping[str, str] | None = None
) -> None:
    """Writes variables and metadata as one file, atomically."""
    flat = {
        key: np.asarray(value, order='C')  # ascontiguousarray would give scalars an axis
        for key, value in flax.traverse_util.flatten_dict(dict(variables), sep='/').items()
    }
    _write(path, safetensors.numpy.save(flat, metadata={**(about or {}), 'format': _FORMAT, 'name': name}))


def load_variables(path: str | os.PathLike[str]) -> SavedVariables:
    """Reads a file that `save_variables` wrote.

    Raises:
      UserError: the file is missing, damaged or not one of ours.
    """
    path = _existing(path)
    header = _header(path)
    if header.get('format') not in _FORMATS:
        raise UserError(f'{path} was not written by vistok')
    flat = safetensors.numpy.load_file(path)
    about = {key: value for key, value in header.items() if key not in ('format', 'name')}
    return SavedVariables(header['name'], flax.traverse_util.unflatten_dict(flat, sep='/'), about)


def write_state_dict(path: str | os.PathLike[str], state_dict: Mapping[str, np.ndarray]) -> None:
    """Writes official names and layouts as `.safetensors`, or as `.pt` (needs torch) under 'model'.

    Raises:
      UserError: the suffix is neither.
    """
    path = pathlib.Path(path)
    if path.suffix == '.safetensors':
        _write(path, safetensors.numpy.save({name: np.ascontiguousarray(x) for name, x in state_dict.items()}))
    elif path.suffix in ('.pt', '.pth', '.ckpt'):
        torch = _torch(path)
        buffer = io.BytesIO()
        torch.save({'model': {name: torch.from_numpy(np.array(x)) for name, x in state_dict.items()}}, buffer)
        _write(path, buffer.getvalue())
    else:
        raise UserError(f'cannot write {path}: the name must end in .safetensors or .pt')


def read_state_dict(path: str | os.PathLike[str], wrappers: Sequence[str] = WRAPPERS) -> dict[str, np.ndarray]:
    """Reads official weights from a `.safetensors` file or a PyTorch checkpoint (`.pt`, `.pth`, `.ckpt`, `.bin`).

    Args:
      path: path of the file.
      wrappers: names of the entries that may hold the weights of a training checkpoint; the first one found is read.

    Returns:
      The named tensors: none if the file holds nothing of the kind, such as a checkpoint without any of `wrappers`.

    Raises:
      UserError: the file is missing, damaged, of another kind, or needs torch and torch is not installed.
    """
    path = _existing(path)
    if path.suffix == '.safetensors':
        _header(path)
        return _without_prefix(safetensors.numpy.load_file(path))
    torch, loaded = _torch_load(path)
    tensors = {name: x for name, x in _unwrap(loaded, wrappers).items() if isinstance(x, torch.Tensor)}
    return _without_prefix({name: _numpy(torch, x) for name, x in tensors.items()})


def read_tensor(path: str | os.PathLike[str]) -> np.ndarray:
    """Reads a PyTorch file that holds a single tensor without a name.

    Raises:
      UserError: the file is missing, damaged or of another kind, or torch is not installed.
    """
    path = _existing(path)
    torch, loaded = _torch_load(path)
    if not isinstance(loaded, torch.Tensor):
        raise UserError(f'{path} holds no single tensor but a {type(loaded).__name__}')
    return _numpy(torch, loaded)


def _torch_load(path: pathlib.Path) -> tuple[Any, Any]:
    """Loads a PyTorch file; returns the module torch and the contents."""
    if path.suffix not in ('.pt', '.pth', '.ckpt', '.bin'):
        raise UserError(f'cannot read {path}: known are .safetensors, .pt, .pth, .ckpt and .bin')
    torch = _torch(path)
    try:
        # Official trainers store their flags beside the weights; a plain record of values is harmless.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch, torch.load(path, map_location='cpu', weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, zipfile.BadZipFile, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f'{path} is damaged, or holds other objects than tensors (then save its state dict alone): {reason}'
        ) from None


def _unwrap(loaded: Any, wrappers: Sequence[str]) -> dict[str, Any]:
    while isinstance(loaded, dict):
        inner = next((loaded[key] for key in wrappers if isinstance(loaded.get(key), dict)), None)
        if inner is None:
            return loaded
        loaded = inner
    return {}


def _without_prefix(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    for prefix in _PREFIXES:
        if weights and all(name.startswith(prefix) for name in weights):
            weights = {name.removeprefix(prefix): x for name, x in weights.items()}
    return weights


def _numpy(torch: Any, tensor: Any) -> np.ndarray:
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).detach().contiguous().numpy()


def _torch(path: pathlib.Path) -> Any:
    try:
        import torch
    except ImportError:
        raise UserError(f'{path.suffix} files need PyTorch: install it, or convert to .safetensors first') from None
    return torch


def _existing(path: str | os.PathLike[str]) -> pathlib.Path:
    path = pathlib.Path(path)
    if not path.is_file():
        raise UserError(f'there is no file {path}')
    return path


def _header(path: pathlib.Path) -> dict[str, str]:
    try:
        with safetensors.safe_open(path, 'np') as file:
            return file.metadata() or {}
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f'{path} is damaged or no safetensors file: {error}') from None


def _write(path: str | os.PathLike[str], data: bytes) -> None:
    path = pathlib.Path(path)
    if not path.parent.is_dir():
        raise UserError(f'there is no folder {path.parent}')
    write_file(path, data)
