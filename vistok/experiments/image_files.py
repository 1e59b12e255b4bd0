"""Image files and bitstreams on disk: images with all their channels, files written whole or not at all.

Images are read like those of data sets (`vistok/data/images/decode.py`), but grey stays grey, transparency stays,
and 16-bit grey keeps its bits.  16-bit colour is read at 8 bits, because Pillow gives no more of it.
"""

import io
import itertools
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from vistok.compression.format.header import Limits
from vistok.compression.pixel_formats import ImageArray
from vistok.data.images.folder import EXTENSIONS
from vistok.errors import UserError
from vistok.files import write_file

MAX_PIXELS = Limits().pixels
IMAGES = EXTENSIONS
STANDARD = '-'
"""The name of standard input and standard output."""
_MODES = {1: 'L', 2: 'LA', 3: 'RGB', 4: 'RGBA'}


def read_image(data: bytes, name: str) -> ImageArray:
    """Reads the upright image of a file, uint8 or uint16 `[h, w, channels]`.

    Raises:
      UserError: the bytes are no image, damaged, or too large.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # Pillow warns of large images and odd metadata
            with Image.open(io.BytesIO(data)) as image:
                if image.width * image.height > MAX_PIXELS:
                    size = f'{image.width}x{image.height}'
                    raise UserError(f'{name}: {size} is above the limit of {MAX_PIXELS} pixels')
                image.load()
                upright = ImageOps.exif_transpose(image)
                return _array(upright, name)
    except UserError:
        raise
    except Exception as error:  # decoders fail in many ways on damaged bytes
        raise UserError(f'{name} is no image that can be read ({error})') from None


def _array(image: Image.Image, name: str) -> ImageArray:
    if image.mode.startswith('I'):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise UserError(f'{name}: grey values go from {values.min()} to {values.max()}, outside of 16 bits')
        return values.astype(np.uint16)[..., None]
    if image.mode == 'F':
        raise UserError(f'{name}: images of floating-point values have no fixed range')
    grey = image.mode in ('1', 'L', 'LA', 'La')
    mode = ('LA' if grey else 'RGBA') if image.has_transparency_data else ('L' if grey else 'RGB')
    array = np.asarray(image.convert(mode))
    return array[..., None] if array.ndim == 2 else array


def image_bytes(pixels: ImageArray, kind: str) -> bytes:
    """Encodes an image as the bytes of a file.

    16 bits survive where the format and Pillow have them, for grey; else values are divided by 257 and rounded.

    Args:
      pixels: uint8 or uint16 `[h, w, channels]`.
      kind: extension of the file, with its dot.

    Raises:
      UserError: no such format, or one that cannot hold the image.
    """
    channels = pixels.shape[-1]
    deep = pixels.dtype == np.uint16 and channels == 1 and kind.lower() in ('.png', '.tif', '.tiff')
    if pixels.dtype == np.uint16 and not deep:
        pixels = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    pixels = pixels[..., 0] if channels == 1 else pixels
    image = Image.fromarray(pixels) if deep else Image.fromarray(pixels, _MODES[channels])
    file = io.BytesIO()
    try:
        image.save(file, Image.registered_extensions()[kind.lower()])
    except (KeyError, OSError, ValueError) as error:
        raise UserError(f'an image of {channels} channels cannot be written as {kind!r}: {error}') from None
    return file.getvalue()


def write_new(path: Path, data: bytes, *, force: bool) -> None:
    """Writes a file: all of it or, when the disk is full or the process ends, nothing.

    Raises:
      UserError: it exists already and `force` is not given.
    """
    check_new(path, force=force)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, data)


def check_new(path: Path, *, force: bool) -> None:
    """Raises a UserError if there is such a file already, unless `force`, or such a folder."""
    if path.is_dir():
        raise UserError(f'{path} is a folder')
    if path.exists() and not force:
        raise UserError(f'{path} exists already: name another file, or replace it by --force')


def pair_files(source: str, out: str | None, extensions: tuple[str, ...], suffix: str) -> list[tuple[Path, Path]]:
    """Pairs files to read with files to write: one file, or every file of a folder that has one of the extensions.

    Args:
      source: a file or a folder.
      out: a file or, for a folder, a folder; default: beside what is read.
      extensions: of the files to take from a folder.
      suffix: extension of what is written, unless `out` names a file.

    Raises:
      UserError: there is no such file, nothing to read in the folder, or two files would become one.
    """
    path = Path(source)
    if path.is_file():
        return [(path, Path(out) if out else path.with_suffix(suffix))]
    if not path.is_dir():
        raise UserError(f'there is no file or folder {source}')
    names = sorted(p for p in path.rglob('*') if p.suffix.lower() in extensions and not p.name.startswith('.'))
    if not names:
        raise UserError(f'{source} holds nothing to read; known are {", ".join(extensions)}')
    root = Path(out) if out else path
    pairs = [(name, (root / name.relative_to(path)).with_suffix(suffix)) for name in names]
    for (a, target), (b, following) in itertools.pairwise(pairs):
        if target == following:
            raise UserError(f'{a} and {b} would both become {target}')
    return pairs
