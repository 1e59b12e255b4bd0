"""Visualization: 8-bit conversion, sheets of reconstructions and samples, maps of grains, PNG files."""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from jaxtyping import Float, Integer, UInt8
from PIL import Image, ImageDraw, ImageFont

from vistok.errors import UserError
from vistok.files import write_atomically

_GAP = 6
_CAPTION = 15  # height of a caption line
_LABEL = 16  # width of the row labels, which stand upright
_SHEET_WIDTH = 1400
_NAME_WIDTH = 110  # of the names before the rows of a sheet of classes
_SMALLEST_SIDE = 128  # smaller images are enlarged to about this
_WHITE, _BLACK, _GREY = (255, 255, 255), (0, 0, 0), (110, 110, 110)
_GRAIN_COLOURS = ((230, 97, 0), (0, 140, 110), (40, 80, 190))  # of the sides 1, 2, 4; larger ones start again


_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


_Array = TypeVar('_Array', np.ndarray, jax.Array)


def to_uint8(images: Float[_Array, '*b h w c']) -> UInt8[_Array, '*b h w c']:
    """Converts images from [-1, 1] to 8 bits.

    Args:
      images: floating-point arrays of NumPy or JAX.

    Returns:
      `floor(127.5 x + 128)`, clipped to 0 .. 255, in an array of the same kind; NaN becomes mid-grey (128).
    """
    xp: Any = images.__array_namespace__()
    images = xp.clip(xp.nan_to_num(images, nan=0.0, posinf=1.0, neginf=-1.0), -1.0, 1.0)
    return (127.5 * images + 128.0).astype(xp.uint8)


def reconstruction_sheet(
    originals: Float[np.ndarray, 'n h w 3'],
    reconstructions: Float[np.ndarray, 'n h w 3'],
    captions: Sequence[str] | None = None,
    grain: Integer[np.ndarray, 'm gh gw'] | None = None,
) -> UInt8[np.ndarray, 'H W 3']:
    """Draws a sheet with every original above its reconstruction.

    Args:
      originals: images in [-1, 1].
      reconstructions: reconstructions of the same images, in order; values outside [-1, 1] are clipped.
      captions: a short line below each pair ('31.2 dB'); cut where it is wider than the image.
      grain: side of the block that each token belongs to, on a grid that divides the images.  A third row then shows
        the grains as colours over the original, with the share of each in a line below.

    Returns:
      The sheet.  Small images are enlarged by a whole factor without smoothing, so that each pixel stays a pixel.

    Raises:
      UserError: there is no image, or captions or maps and images differ in number.
    """
    count, height, width = originals.shape[:3]
    if count == 0:
        raise UserError('a sheet needs at least one image, got none')
    if captions is not None and len(captions) != count:
        raise UserError(f'expected one caption for each of {count} images, got {len(captions)}')
    if grain is not None and len(grain) != count:
        raise UserError(f'expected one map of grains for each of {count} images, got {len(grain)}')
    factor = max(1, round(_SMALLEST_SIDE / min(height, width)))
    tile_h, tile_w = height * factor, width * factor
    columns = min(count, max(1, (_SHEET_WIDTH - _LABEL - _GAP) // (tile_w + _GAP)))
    columns = -(-count // -(-count // columns))  # spread the images evenly over the bands
    bands = -(-count // columns)
    rows = {'original': to_uint8(originals), 'reconstruction': to_uint8(reconstructions)}
    if grain is not None:
        rows['grains'] = _over_grey(rows['original'], grain)
    lines_y = len(rows) * (tile_h + 2)
    band_h = lines_y + _CAPTION * ((captions is not None) + (grain is not None)) + _GAP
    sheet = Image.new('RGB', (_LABEL + columns * (tile_w + _GAP) + _GAP, bands * band_h + _GAP), _WHITE)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=11)
    for band in range(bands):
        for row, text in enumerate(rows):
            sheet.paste(_upright(text, tile_h, font), (2, _GAP + band * band_h + row * (tile_h + 2)))
    for i, tiles in enumerate(zip(*rows.values(), strict=True)):
        band, column = divmod(i, columns)
        x, y = _LABEL + _GAP + column * (tile_w + _GAP), _GAP + band * band_h
        for row, pixels in enumerate(tiles):
            tile = Image.fromarray(pixels).resize((tile_w, tile_h), Image.Resampling.NEAREST)
            sheet.paste(tile, (x, y + row * (tile_h + 2)))
        if captions:
            draw.text((x, y + lines_y + 1), _cut(captions[i], tile_w, font), fill=_BLACK, font=font)
        if grain is not None:
            _write_shares(draw, (x, y + band_h - _GAP - _CAPTION + 1), grain[i], font)
    return np.asarray(sheet)


def class_sheet(images: UInt8[np.ndarray, 'r c h w 3'], names: Sequence[str]) -> UInt8[np.ndarray, 'H W 3']:
    """Draws a sheet with one row of images per class, after the name of the class.

    Args:
      images: c images of each of r classes.
      names: names of the classes; cut where they are too long.

    Returns:
      The sheet.  Small images are enlarged by a whole factor without smoothing.

    Raises:
      UserError: there is no image, or names and rows differ in number.
    """
    rows, columns, height, width = images.shape[:4]
    if not rows * columns:
        raise UserError('a sheet needs at least one image, got none')
    if len(names) != rows:
        raise UserError(f'expected one name for each of {rows} rows, got {len(names)}')
    factor = max(1, round(_SMALLEST_SIDE / 2 / min(height, width)))
    tile_h, tile_w = height * factor, width * factor
    font = ImageFont.load_default(size=11)
    margin = _GAP + min(_NAME_WIDTH, max(math.ceil(font.getlength(name)) for name in names)) + _GAP
    sheet = Image.new('RGB', (margin + columns * (tile_w + 2) + _GAP, rows * (tile_h + 2) + 2 * _GAP), _WHITE)
    draw = ImageDraw.Draw(sheet)
    for row, (name, row_images) in enumerate(zip(names, images, strict=True)):
        y = _GAP + row * (tile_h + 2)
        draw.text((_GAP, y + tile_h / 2), _cut(name, _NAME_WIDTH, font), fill=_BLACK, font=font, anchor='lm')
        for column, pixels in enumerate(row_images):
            tile = Image.fromarray(pixels).resize((tile_w, tile_h), Image.Resampling.NEAREST)
            sheet.paste(tile, (margin + column * (tile_w + 2), y))
    return np.asarray(sheet)


def _colour(side: int) -> tuple[int, int, int]:
    return _GRAIN_COLOURS[(side.bit_length() - 1) % len(_GRAIN_COLOURS)]


def _over_grey(images: UInt8[np.ndarray, 'n h w 3'], grain: Integer[np.ndarray, 'n gh gw']) -> np.ndarray:
    """Blends the colour of each grain with the image in grey."""
    for axis in (1, 2):
        grain = grain.repeat(images.shape[axis] // grain.shape[axis], axis)
    colours = np.zeros_like(images)
    for side in np.unique(grain):
        colours[grain == side] = _colour(int(side))
    return (0.5 * images.mean(-1, keepdims=True) + 0.5 * colours).astype(np.uint8)


def _write_shares(draw: ImageDraw.ImageDraw, place: tuple[int, int], grain: np.ndarray, font: _Font) -> None:
    """Writes the share of each grain that occurs, from coarse to fine, in the grain's colour."""
    x, y = place
    for side in sorted(map(int, np.unique(grain)), reverse=True):
        text = f'{side}: {np.mean(grain == side):.0%}'
        draw.text((x, y), text, fill=_colour(side), font=font)
        x += int(font.getlength(text + '   '))


def _upright(text: str, length: int, font: _Font) -> Image.Image:
    """Draws `text` upwards, centred on a strip of the given length."""
    strip = Image.new('RGB', (length, _LABEL - 2), _WHITE)
    ImageDraw.Draw(strip).text((length / 2, _LABEL / 2 - 1), text, fill=_GREY, font=font, anchor='mm')
    return strip.rotate(90, expand=True)


def _cut(text: str, width: int, font: _Font) -> str:
    while text and font.getlength(text) > width:
        text = text[:-1]
    return text


def save_png(path: str | os.PathLike[str], image: UInt8[np.ndarray, 'h w 3']) -> None:
    """Writes a PNG file atomically; makes its folder."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: Image.fromarray(image).save(file, format='PNG'))
