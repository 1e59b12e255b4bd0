"""Work that can be killed at any moment and goes on later: fixed settings, and files that are whole or absent."""

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vistok.errors import UserError


def keep_settings(path: Path, settings: Mapping[str, Any], whose: str) -> None:
    """Notes the settings of work that begins, or compares those of work that goes on.

    Args:
      path: of the JSON file that holds them; its folder is made.
      settings: JSON values.
      whose: 'the unfinished extraction in tokens/', for the message.

    Raises:
      UserError: they differ from those noted, or cannot be noted; the sentence names the first difference.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            write_file(path, json.dumps(settings, indent=2).encode())
        noted = json.loads(path.read_text())
    except OSError as error:
        raise UserError(f'{path} cannot be written: {error.strerror or error}') from error
    except ValueError as error:
        raise UserError(f'{path} is damaged: {error}') from error
    check_settings(noted, settings, whose)


def check_settings(noted: Mapping[str, Any], settings: Mapping[str, Any], whose: str) -> None:
    """Compares settings, as `keep_settings` does.

    Raises:
      UserError: they differ.
    """
    ours = json.loads(json.dumps(settings))
    for key in sorted({*noted, *ours}):
        if noted.get(key) != ours.get(key):
            raise UserError(
                f'{whose} has other settings ({key} is {noted.get(key)} there, {ours.get(key)} here): '
                'remove it or name another place'
            )


def write_arrays(path: Path, **arrays: np.ndarray) -> None:
    """Writes arrays as .npz, see `write_file`."""
    named: Any = arrays
    _write(path, lambda file: np.savez_compressed(file, **named))


def write_file(path: Path, data: bytes) -> None:
    """Writes a file; a reader sees all of it or none, also after a crash of the machine."""
    _write(path, lambda file: file.write(data))


def _write(path: Path, fill: Any) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f'.{path.name}.')
    try:
        with os.fdopen(handle, 'wb') as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
