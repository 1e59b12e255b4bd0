"""Outputs of functions that write images, told apart by their names."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from vistok.errors import UserError

_OTHER_IMAGES = ('.bmp', '.gif', '.jpeg', '.jpg', '.tif', '.tiff', '.webp')


@dataclasses.dataclass(frozen=True)
class Outputs:
    """Files and folders to write, at most one of each kind.

    Attributes:
      sheet: `.png` file with all images.
      folder: folder with a file for each image.
      npz: `.npz` file with arrays.
    """

    sheet: Path | None = None
    folder: Path | None = None
    npz: Path | None = None


def split_outputs(paths: Sequence[str], *, npz: bool = True) -> Outputs:
    """Sorts paths to write: `.png` is a sheet, `.npz` holds arrays, all else is a folder.

    Args:
      paths: values of the flag; a folder may end with a slash.
      npz: whether the command can write arrays.

    Raises:
      UserError: there are none, two outputs are of one kind, or one is a file of another kind.
    """
    if not paths:
        raise UserError('name what to write, for example --out=images.png')
    found: dict[str, Path] = {}
    for text in paths:
        path = Path(text)
        suffix = '' if text.endswith('/') or path.is_dir() else path.suffix.lower()
        kind = {'.png': 'sheet', '.npz': 'npz'}.get(suffix, 'folder')
        if suffix in _OTHER_IMAGES or (kind == 'npz' and not npz):
            raise UserError(f'cannot write {text}: outputs are .png files{", .npz files" if npz else ""} and folders')
        if kind in found:
            raise UserError(f'{found[kind]} and {text} are both a {kind}: name one')
        found[kind] = path
    return Outputs(**found)
