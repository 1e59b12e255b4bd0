"""Image folders and .zip files, with or without class folders, with or without split folders.

Layouts, all of them also below one common outer folder:
  image.jpg                                one class
  <class>/.../image.jpg                    a class is a first-level folder
  train/..., validation/... (or val, valid, test)   the same within each split

Without a validation folder every twentieth image is held out, chosen by a hash of its name, so that adding images
moves none of the others between the splits.
"""

import hashlib
import logging
import os
import threading
import zipfile
from pathlib import Path

from vistok.data.images.decode import decode_image
from vistok.data.images.source import BadImage, ImageRecord, Split
from vistok.errors import UserError

EXTENSIONS = ('.bmp', '.gif', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp')
_VALIDATION_FOLDERS = ('validation', 'val', 'valid', 'test')  # the first that exists is used
_HOLD_OUT = 20  # one image in so many
_MAX_BYTES = 1 << 29  # of one file; more is no image, or a decompression bomb


class ImageFolder:
    """One split of a folder or .zip file of images, sorted by name and decoded on access.

    Args:
      path: path of the folder or .zip file.
      split: 'train' or 'validation'; None: all images, without a look at split folders.

    Raises:
      UserError: the path is missing or neither folder nor .zip, or the split has no images.
    """

    def __init__(self, path: str | os.PathLike[str], split: Split | None) -> None:
        self.name = str(path) if split is None else f'{path} ({split})'
        self._files = _open(Path(path))
        names = sorted(n for n in self._files.names() if _is_image(n))
        if not names:
            raise UserError(f'{path} holds no images; allowed extensions are {", ".join(EXTENSIONS)}')
        if split is None:
            root, self._names = _outer_folders(names), names
            self.class_names = _class_names(names, root, path)
        else:
            splits, root = _split(names, path)
            self.class_names = _class_names([n for part in splits.values() for n in part], root, path)
            self._names = splits[split]
        labels = {name: label for label, name in enumerate(self.class_names)}
        self._labels = [labels.get(_class_name(name, root) or '', 0) for name in self._names]

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> ImageRecord:
        name = self._names[index]
        return ImageRecord(decode_image(self.read(index), name), self._labels[index], name)

    def read(self, index: int) -> bytes:
        """Returns the bytes of one image file, undecoded.

        Raises:
          BadImage: it cannot be read.
        """
        return self._files.read(self._names[index])

    def label(self, index: int) -> int:
        """Returns the class label of one image."""
        return self._labels[index]

    def file_name(self, index: int) -> str:
        """Returns the name of one image, relative to the folder, with '/' between the parts."""
        return self._names[index]


def _is_image(name: str) -> bool:
    hidden = name.startswith(('.', '__MACOSX/')) or '/.' in name
    return name.lower().endswith(EXTENSIONS) and not hidden


def _outer_folders(names: list[str]) -> int:
    """Counts the leading folders that all images share."""
    parts = [name.split('/') for name in names]
    depth = 0
    while all(len(p) > depth + 1 for p in parts) and len({p[depth] for p in parts}) == 1:
        depth += 1
    return depth


def _split(names: list[str], path: str | os.PathLike[str]) -> tuple[dict[Split, list[str]], int]:
    """Assigns images to splits; returns the names in each, and how many leading folders of a name are not its class."""
    parts = [name.split('/') for name in names]
    depth = _outer_folders(names)
    first = {p[depth] for p in parts if len(p) > depth + 1}
    if 'train' not in first:
        return _hold_out(names, path), depth
    train = [n for n, p in zip(names, parts, strict=True) if p[depth] == 'train']
    found = [folder for folder in _VALIDATION_FOLDERS if folder in first]
    if not found:
        return _hold_out(train, path), depth + 1
    validation = [n for n, p in zip(names, parts, strict=True) if p[depth] == found[0]]
    if unused := len(names) - len(train) - len(validation):
        logging.info('%s: %d images are outside of %r and %r and not used', path, unused, 'train', found[0])
    return {'train': train, 'validation': validation}, depth + 1


def _hold_out(names: list[str], path: str | os.PathLike[str]) -> dict[Split, list[str]]:
    if len(names) < 2:
        raise UserError(f'{path} holds one image, {names[0]}; at least two are needed, one of them for validation')
    rank = {name: int.from_bytes(hashlib.sha1(name.encode(), usedforsecurity=False).digest()[:8]) for name in names}
    held_out = {name for name in names if rank[name] % _HOLD_OUT == 0}
    if not held_out:
        held_out = {min(names, key=rank.__getitem__)}
    elif len(held_out) == len(names):
        held_out.remove(min(names, key=rank.__getitem__))
    return {'train': [n for n in names if n not in held_out], 'validation': [n for n in names if n in held_out]}


def _class_name(name: str, depth: int) -> str | None:
    parts = name.split('/')[depth:]
    return parts[0] if len(parts) > 1 else None


def _class_names(names: list[str], depth: int, path: str | os.PathLike[str]) -> tuple[str, ...]:
    found = {_class_name(name, depth) for name in names}
    if found == {None}:
        return ('picture',)
    if None in found:
        stray = next(name for name in names if _class_name(name, depth) is None)
        raise UserError(f'{path} has class folders, but {stray} is in none of them; move it into one or remove it')
    return tuple(sorted(name for name in found if name is not None))


def _open(path: Path) -> '_Directory | _Zip':
    if path.is_dir():
        return _Directory(path)
    if path.suffix.lower() == '.zip' and path.is_file():
        return _Zip(path)
    if path.exists():
        raise UserError(f'{path} is neither a folder nor a .zip file of images ({", ".join(EXTENSIONS)})')
    raise UserError(f'{path} does not exist; expected a folder or a .zip file of images ({", ".join(EXTENSIONS)})')


class _Directory:
    def __init__(self, path: Path) -> None:
        self._path = path

    def names(self) -> list[str]:
        names = []
        for folder, _, files in os.walk(self._path, followlinks=True):
            inner = Path(folder).relative_to(self._path).as_posix()
            names += files if inner == '.' else [f'{inner}/{file}' for file in files]
        return names

    def read(self, name: str) -> bytes:
        file = self._path / name
        try:
            if file.stat().st_size > _MAX_BYTES:
                raise BadImage(name, f'the file is larger than {_MAX_BYTES} bytes')
            return file.read_bytes()
        except OSError as error:
            raise BadImage(name, f'the file cannot be read ({error.strerror})') from error


class _Zip:
    def __init__(self, path: Path) -> None:
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError) as error:
            raise UserError(f'{path} cannot be opened as a .zip file: {error}') from None
        # One handle for all threads: counting its open members is not atomic.  Under the lock bytes are only copied
        # or inflated, a small part of the time that decoding takes.
        self._lock = threading.Lock()

    def names(self) -> list[str]:
        return list(self._zip.NameToInfo)

    def read(self, name: str) -> bytes:
        try:
            with self._lock:
                if self._zip.NameToInfo[name].file_size > _MAX_BYTES:
                    raise BadImage(name, f'the file is larger than {_MAX_BYTES} bytes')
                return self._zip.read(name)
        except BadImage:
            raise
        except Exception as error:  # damaged, encrypted, or packed in a way this Python does not know
            raise BadImage(name, f'the file cannot be read from the .zip ({error})') from error
