"""Files that survive interruption: atomic writes, and settings that resumed work must share."""

import json
import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from vistok.errors import UserError


def keep_settings(path: Path, settings: Mapping[str, Any], whose: str) -> None:
    """Writes the settings of new work, or compares them with those of the work that is resumed.

    Args:
      path: JSON file of the settings; its folder is created.
      settings: JSON values.
      whose: subject of the error message, such as 'the unfinished extraction in tokens/'.

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
    """Compares settings with those of earlier work.

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


def write_atomically(path: Path, fill: Callable[[BinaryIO], object]) -> None:
    """Writes a file so that readers see all of it or none, also after a crash of the machine.

    Like every new file, it may be read by whom the umask of the process allows.

    Args:
      path: path of the file, in an existing folder.
      fill: function that writes the contents to a seekable binary file.
    """
    temporary = path.with_name(f'.{path.name}.{secrets.token_hex(6)}')
    descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR | getattr(os, 'O_BINARY', 0), 0o666)
    try:
        with os.fdopen(descriptor, 'w+b') as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_file(path: Path, data: bytes) -> None:
    """Writes bytes as a file atomically, see `write_atomically`."""
    write_atomically(path, lambda file: file.write(data))


def write_text(path: Path, text: str) -> None:
    """Writes text as a UTF-8 file atomically, see `write_atomically`."""
    write_file(path, text.encode())


def write_arrays(path: Path, **arrays: np.ndarray) -> None:
    """Writes arrays as a compressed .npz file atomically, see `write_atomically`."""
    named: Any = arrays
    write_atomically(path, lambda file: np.savez_compressed(file, **named))
