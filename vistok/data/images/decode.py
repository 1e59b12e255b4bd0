"""Image decoding: bytes of an image file to upright 8-bit RGB, with a stated rule for every pixel format.

Grey is replicated to three channels.  Transparency is composited over white.  16-bit grey is divided by 257 and
rounded.  CMYK and the other colour models are converted by Pillow.  The EXIF orientation is applied, so that images
stand upright; a damaged EXIF block is ignored.  Of an animation the first frame counts.  All else is a `BadImage`.
"""

import contextlib
import io

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from vistok.data.images.source import BadImage

MAX_PIXELS = 89_478_485
"""Larger images are refused unread: 256 MiB of RGB, Pillow's own limit for what may be a decompression bomb."""


def decode_image(data: bytes, name: str) -> UInt8[np.ndarray, 'h w 3']:
    """Decodes a JPEG, PNG, WebP, BMP, GIF, TIFF ... file to 8-bit RGB.

    Args:
      data: bytes of the file.
      name: name of the image, for error messages.

    Returns:
      The upright image, RGB, read-only.

    Raises:
      BadImage: empty, truncated, damaged, too large, or not an image.
    """
    if not data:
        raise BadImage(name, 'the file is empty')
    try:
        with Image.open(io.BytesIO(data)) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise BadImage(name, _too_large(f'{width}x{height}'))
            image.load()
            _make_upright(image)
            return np.asarray(_to_rgb(image, name))
    except BadImage:
        raise
    except UnidentifiedImageError:
        raise BadImage(name, 'the file is not an image in a known format') from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise BadImage(name, _too_large('it')) from None
    except Exception as error:  # decoders fail in many ways on damaged bytes, and none of them may stop a run
        raise BadImage(name, f'the file cannot be decoded ({error})') from error


def _too_large(what: str) -> str:
    return f'{what} is above the limit of {MAX_PIXELS} pixels'


def _make_upright(image: Image.Image) -> None:
    # A damaged EXIF block says nothing about the pixels.
    with contextlib.suppress(Exception):
        ImageOps.exif_transpose(image, in_place=True)


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode.startswith('I'):  # 'I;16', 'I;16B' ... and 'I', the form some files with 16-bit grey open as
        image = _from_16_bit(image, name)
    elif image.mode == 'F':
        raise BadImage(name, 'images of floating-point values have no fixed range')
    # A palette entry or a colour can be declared transparent without an alpha channel.
    if image.has_transparency_data:
        image = image.convert('RGBA')
        return Image.alpha_composite(Image.new('RGBA', image.size, 'white'), image).convert('RGB')
    return image if image.mode == 'RGB' else image.convert('RGB')


def _from_16_bit(image: Image.Image, name: str) -> Image.Image:
    values = np.array(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise BadImage(name, f'grey values go from {values.min()} to {values.max()}, outside of 16 bits')
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))  # round(v / 257): 257 is odd, so no ties
