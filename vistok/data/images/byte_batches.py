"""Batches of 8-bit images for metrics: from `.npz` files of samples, folders, and every other source."""

import abc
import contextlib
import dataclasses
import json
import pathlib
import zipfile
from collections.abc import Iterator
from typing import IO, Any

import numpy as np
from jaxtyping import Integer, UInt8

from vistok.data.images.folder import ImageFolder
from vistok.data.images.pipeline import EvaluationBatches, evaluation_batches, open_source
from vistok.data.images.source import ImageSource, Split
from vistok.errors import UserError
from vistok.visualization import to_uint8


@dataclasses.dataclass(frozen=True)
class ByteBatch:
    """Batch of 8-bit images with optional labels.

    Attributes:
      images: RGB.
      labels: their classes; None where they are not known.
    """

    images: UInt8[np.ndarray, 'n h w 3']
    labels: Integer[np.ndarray, ' n'] | None


class ByteBatches(abc.ABC):
    """Iterable over a set of 8-bit images: every image once, in order; can be iterated again.

    Attributes:
      name: name of the set of images.
      image_size: side of the images in pixels.
      batch_size: number of images per batch; smaller for the last batch and for those with unreadable images.
      settings: sampling settings, if the file states them.
    """

    def __init__(self, name: str, image_size: int, batch_size: int, settings: dict[str, Any] | None = None) -> None:
        if batch_size < 1:
            raise UserError(f'the batch size must be at least 1, got {batch_size}')
        self.name, self.image_size, self.batch_size, self.settings = name, image_size, batch_size, settings or {}

    @abc.abstractmethod
    def __len__(self) -> int:
        """Returns the number of images."""

    @abc.abstractmethod
    def __iter__(self) -> Iterator[ByteBatch]: ...

    @property
    def skipped(self) -> dict[str, str]:
        """Names of the unreadable images so far, with the reasons."""
        return {}


class SampleFile(ByteBatches):
    """`.npz` file of samples in ADM's format, read in pieces because it may be larger than the memory.

    `arr_0` holds the images, uint8 `[n, h, w, 3]`; 'labels' (ADM: `arr_1`) their classes; 'settings', a string of
    JSON, how they were sampled.  The last two may be missing.

    Raises:
      UserError: the file is missing or damaged, or holds no images.
    """

    def __init__(self, path: pathlib.Path, batch_size: int) -> None:
        self._path = path
        try:
            with path.open('rb') as file, np.load(file) as arrays:  # a damaged file is closed, too
                names = set(arrays.files)
                label_name = next((name for name in ('labels', 'arr_1') if name in names), None)
                self._labels = arrays[label_name].reshape(-1) if label_name else None
                settings = json.loads(arrays['settings'].item()) if 'settings' in names else {}
            if 'arr_0' not in names:
                raise UserError(f'{path} holds no images (arr_0); it has {", ".join(sorted(names))}')
            with _images_of(path) as (_, self._shape):
                pass
        except UserError:
            raise
        except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise UserError(f'{path} is missing, damaged or no .npz file: {error}') from None
        if self._labels is not None and len(self._labels) != self._shape[0]:
            raise UserError(f'{path} holds {self._shape[0]} images but {len(self._labels)} labels')
        if self._shape[1] != self._shape[2]:
            raise UserError(f'{path}: images must be square, got {self._shape[1]}x{self._shape[2]} pixels')
        super().__init__(str(path), self._shape[1], batch_size, settings)

    def __len__(self) -> int:
        return self._shape[0]

    def __iter__(self) -> Iterator[ByteBatch]:
        count, *image = self._shape
        with _images_of(self._path) as (file, _):
            for start in range(0, count, self.batch_size):
                n = min(self.batch_size, count - start)
                data = file.read(n * int(np.prod(image)))
                images = np.frombuffer(data, np.uint8).reshape(n, *image)
                yield ByteBatch(images, None if self._labels is None else self._labels[start : start + n])


@contextlib.contextmanager
def _images_of(path: pathlib.Path) -> Iterator[tuple[IO[bytes], tuple[int, ...]]]:
    """Opens the array `arr_0` inside the file; returns the stream behind its header, and its shape."""
    with zipfile.ZipFile(path) as archive, archive.open('arr_0.npy') as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file)
        if dtype != np.uint8 or len(shape) != 4 or shape[-1] != 3 or fortran:
            raise UserError(f'{path}: arr_0 must be uint8 [n, h, w, 3], got {dtype} {list(shape)}')
        yield file, shape


class SourceImages(ByteBatches):
    """Centre crops (ADM's) of the images of a source."""

    def __init__(self, source: ImageSource, image_size: int, batch_size: int) -> None:
        super().__init__(source.name, image_size, batch_size)
        self._source = source
        self._batches: EvaluationBatches = evaluation_batches(source, image_size=image_size, batch_size=batch_size)

    def __len__(self) -> int:
        return len(self._source)

    def __iter__(self) -> Iterator[ByteBatch]:
        for batch in self._batches:
            mask = batch['mask']
            labels = batch['label'][mask] if len(self._source.class_names) > 1 else None
            yield ByteBatch(to_uint8(batch['image'][mask]), labels)

    @property
    def skipped(self) -> dict[str, str]:
        return self._batches.skipped


def open_byte_batches(
    spec: str,
    *,
    split: Split | None = None,
    data_dir: str | None = None,
    image_size: int | None = None,
    batch_size: int = 64,
) -> ByteBatches:
    """Opens a set of images as 8-bit batches.

    Args:
      spec: an `.npz` file of samples, or what `open_source` takes.
      split: split of a source; None: all images of a folder, the training split of any other source.
      data_dir: folder of the TFDS datasets.
      image_size: side of the centre crops; None: of the shorter side of the first image.  A file of samples is taken
        as it is.
      batch_size: number of images per batch.

    Raises:
      UserError: there is no such set, it has no images, or a file of samples is not of that size.
    """
    path = pathlib.Path(spec)
    if path.suffix == '.npz':
        batches = SampleFile(path, batch_size)
        if image_size not in (None, batches.image_size):
            raise UserError(f'{path} holds images of {batches.image_size} pixels a side, not of {image_size}')
        return batches
    is_set = spec.startswith(('embedded:', 'tfds:'))
    if is_set or split is not None:
        source = open_source(spec, split or 'train', data_dir=data_dir)
    else:
        source = ImageFolder(path, None)
    return SourceImages(source, image_size or min(source[0].image.shape[:2]), batch_size)
