"""Conversion between integer images (one to four channels, 8 or 16 bits) and RGB in [-1, 1]; lossless alpha coding.

A grey channel is repeated three times for the tokenizer, and decoded as the luma of the decoded colours.  Values of b
bits are mapped linearly from [0, 2^b - 1] to [-1, 1] and back with rounding, so that 16 bits are not reduced to 8.  The
alpha channel is coded losslessly, and colours below transparent pixels are compressed like all others.
"""

import zlib

import numpy as np
from jaxtyping import Float, UInt8, UInt16

from vistok.compression.format.header import BitstreamError, Header
from vistok.errors import UserError

ImageArray = UInt8[np.ndarray, 'h w c'] | UInt16[np.ndarray, 'h w c']
AlphaArray = UInt8[np.ndarray, 'h w 1'] | UInt16[np.ndarray, 'h w 1']
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def check_image(image: np.ndarray) -> None:
    """Checks that an array is an image of 1 to 4 channels and 8 or 16 bits; raises UserError otherwise."""
    sound = image.ndim == 3 and 1 <= image.shape[-1] <= 4 and image.dtype in (np.uint8, np.uint16)
    if not sound or not image.size:
        raise UserError(f'an image is uint8 or uint16 [h, w, 1 to 4], got {image.dtype} of shape {tuple(image.shape)}')


def image_to_batch(image: ImageArray) -> Float[np.ndarray, '1 h w 3']:
    """Converts the grey or RGB channels of an image to a batch of one in [-1, 1]."""
    colours = image[..., :3] if image.shape[-1] > 2 else np.repeat(image[..., :1], 3, axis=-1)
    most = np.iinfo(image.dtype).max
    return (colours.astype(np.float32) * np.float32(2 / most) - 1)[None]


def pixels_to_image(image: Float[np.ndarray, 'h w 3'], header: Header) -> ImageArray:
    """Converts decoded RGB to the integers of the header's format, without an alpha channel."""
    image = np.clip(np.nan_to_num(image, nan=0.0), -1, 1)
    if header.channels < 3:
        image = (image @ _LUMA)[..., None]
    most = (1 << header.bit_depth) - 1
    return np.floor((image + 1) * (most / 2) + 0.5).astype(np.uint8 if header.bit_depth == 8 else np.uint16)


def pack_alpha(image: ImageArray) -> bytes:
    """Compresses the last channel losslessly: row differences, big-endian byte planes, zlib."""
    alpha = image[..., -1]
    differences = np.diff(alpha, axis=0, prepend=alpha[:1] * 0)
    planes = differences.astype(differences.dtype.newbyteorder('>')).view(np.uint8).reshape(*alpha.shape, -1)
    return zlib.compress(np.ascontiguousarray(np.moveaxis(planes, -1, 0)).tobytes(), 9)


def unpack_alpha(data: bytes, header: Header) -> AlphaArray:
    """Decompresses the alpha channel `[h, w, 1]` that `pack_alpha` compressed.

    Raises:
      BitstreamError: the data is damaged or of another size.
    """
    depth = header.bit_depth // 8
    size = header.width * header.height * depth
    unpacker = zlib.decompressobj()
    try:
        plain = unpacker.decompress(data, size + 1)
    except zlib.error as error:
        raise BitstreamError(f'the transparency is damaged: {error}') from None
    if len(plain) != size or not unpacker.eof or unpacker.unused_data:
        raise BitstreamError(f'the transparency is damaged: {len(plain)} bytes instead of {size}')
    planes = np.frombuffer(plain, np.uint8).reshape(depth, header.height, header.width, 1)
    alpha = planes[0].astype(np.uint8 if depth == 1 else np.uint16)
    for plane in planes[1:]:
        alpha <<= 8
        alpha |= plane
    return np.add.accumulate(alpha, axis=0, out=alpha)
