"""Pictures for people: 8-bit conversion, a sheet of originals and reconstructions, PNG files."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

_GAP = 6
_CAPTION = 15  # height of a caption line
_LABEL = 16  # width of the row labels, which stand upright
_SHEET_WIDTH = 1400
_SMALLEST_SIDE = 128  # smaller pictures are enlarged to about this
_WHITE, _BLACK, _GREY = (255, 255, 255), (0, 0, 0), (110, 110, 110)


def to_uint8(images: Float[np.ndarray, '*b h w c']) -> UInt8[np.ndarray, '*b h w c']:
    """Images in [-1, 1] as bytes: `floor(127.5 x + 128)`, clipped; what is not a number becomes mid-grey."""
    images = np.clip(np.nan_to_num(images, nan=0.0, posinf=1.0, neginf=-1.0), -1.0, 1.0)
    return (127.5 * images + 128.0).astype(np.uint8)


def reconstruction_sheet(
    originals: Float[np.ndarray, 'n h w 3'],
    reconstructions: Float[np.ndarray, 'n h w 3'],
    captions: Sequence[str] | None = None,
) -> UInt8[np.ndarray, 'H W 3']:
    """One picture with every original above its reconstruction.

    Args:
      originals: images in [-1, 1].
      reconstructions: of the same images, in the same order; values outside [-1, 1] are clipped.
      captions: a short line below each pair ('31.2 dB'); cut where it is wider than the picture.

    Returns:
      The sheet.  Small pictures are enlarged by a whole factor without smoothing, so that each pixel stays a pixel.

    Raises:
      ValueError: there is no picture, or captions and pictures differ in number.
    """
    count, height, width = originals.shape[:3]
    if count == 0:
        raise ValueError('a sheet needs at least one picture, got none')
    if captions is not None and len(captions) != count:
        raise ValueError(f'expected one caption for each of {count} pictures, got {len(captions)}')
    factor = max(1, round(_SMALLEST_SIDE / min(height, width)))
    tile_h, tile_w = height * factor, width * factor
    columns = min(count, max(1, (_SHEET_WIDTH - _LABEL - _GAP) // (tile_w + _GAP)))
    columns = -(-count // -(-count // columns))  # spread the pictures evenly over the bands
    bands = -(-count // columns)
    band_h = 2 * tile_h + 2 + (_CAPTION if captions else 0) + _GAP
    sheet = Image.new('RGB', (_LABEL + columns * (tile_w + _GAP) + _GAP, bands * band_h + _GAP), _WHITE)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=11)
    for band in range(bands):
        for row, text in enumerate(('original', 'reconstruction')):
            sheet.paste(_upright(text, tile_h, font), (2, _GAP + band * band_h + row * (tile_h + 2)))
    for i, pair in enumerate(zip(to_uint8(originals), to_uint8(reconstructions), strict=True)):
        band, column = divmod(i, columns)
        x, y = _LABEL + _GAP + column * (tile_w + _GAP), _GAP + band * band_h
        for row, pixels in enumerate(pair):
            tile = Image.fromarray(pixels).resize((tile_w, tile_h), Image.Resampling.NEAREST)
            sheet.paste(tile, (x, y + row * (tile_h + 2)))
        if captions:
            draw.text((x, y + 2 * tile_h + 3), _cut(captions[i], tile_w, font), fill=_BLACK, font=font)
    return np.asarray(sheet)


def _upright(text: str, length: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> Image.Image:
    """`text` written upwards, centred on a strip of the given length."""
    strip = Image.new('RGB', (length, _LABEL - 2), _WHITE)
    ImageDraw.Draw(strip).text((length / 2, _LABEL / 2 - 1), text, fill=_GREY, font=font, anchor='mm')
    return strip.rotate(90, expand=True)


def _cut(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    while text and font.getlength(text) > width:
        text = text[:-1]
    return text


def save_png(path: str | os.PathLike[str], picture: UInt8[np.ndarray, 'h w 3']) -> None:
    """Writes a PNG file, and its folder; a reader sees the old file or the new one, never half of one."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f'.{path.name}.')
    try:
        with os.fdopen(descriptor, 'wb') as file:
            Image.fromarray(picture).save(file, format='PNG')
        os.chmod(temporary, 0o644)  # mkstemp makes files that only their owner can read
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
