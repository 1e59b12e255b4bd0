"""Encoding and decoding of images of any size by a tokenizer in overlapping windows."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from vistok.compression import pixel_formats
from vistok.compression.format.header import Header
from vistok.compression.format.time_limit import TimeLimit
from vistok.compression.pixel_formats import AlphaArray, ImageArray
from vistok.compression.windows import StripBlender, WindowAxis
from vistok.tokenizers.tokenizer import Tokens, TokenSpec, fit_to_grid

Progress = Callable[[int, int], None]
"""Callback that receives the number of finished windows and the number of all windows."""


@runtime_checkable
class ImageTokenizer(Protocol):
    """Interface of the tokenizers that a codec can use; `TrainedTokenizer` implements it."""

    @property
    def spec(self) -> TokenSpec:
        """Codebook sizes and token grid."""
        ...

    def encode(self, images: Any, *, grain_ratios: Sequence[float] | None = None) -> Tokens:
        """Encodes images `[b, h, w, 3]` in [-1, 1] as tokens.

        Args:
          images: sides are multiples of `spec.cell`.
          grain_ratios: shares of the area of each grain, from coarse to fine; only for tokenizers with several grains.
        """
        ...

    def decode(self, tokens: Tokens) -> Any:
        """Decodes tokens to images `[b, h, w, 3]`, which are not clipped to [-1, 1]."""
        ...


def encode_in_windows(
    tokenizer: ImageTokenizer,
    image: ImageArray,
    header: Header,
    *,
    grain_ratios: Sequence[float] | None = None,
    progress: Progress | None = None,
) -> Tokens:
    """Encodes an image window by window and keeps the tokens of each window's core.

    Args:
      tokenizer: encodes each window.
      image: uint8 or uint16 `[h, w, c]`.
      header: of the image; gives the grid and the sizes of windows.
      grain_ratios: shares of the area of each grain in every window, from coarse to fine.
      progress: called after each window.

    Returns:
      A batch of one, on the host.
    """
    vertical, horizontal = _axes(header)
    rows, columns = header.grid
    ids = np.zeros((1, rows, columns, len(header.codebook_sizes)), np.int32)
    grain = np.ones((1, rows, columns), np.int32) if len(header.grains) > 1 else None
    factor = header.downsample_factor
    options = {} if grain_ratios is None else {'grain_ratios': tuple(grain_ratios)}
    for number, (y, x) in enumerate(((y, x) for y in vertical for x in horizontal), 1):
        part = image[y.start * factor : y.stop * factor, x.start * factor : x.stop * factor]
        tokens = tokenizer.encode(fit_to_grid(pixel_formats.image_to_batch(part), tokenizer.spec), **options)
        ids[:, y.core, x.core] = np.asarray(tokens.ids)[:, y.core_inside, x.core_inside]
        if grain is not None:
            grain[:, y.core, x.core] = np.asarray(tokens.grain)[:, y.core_inside, x.core_inside]
        if progress is not None:
            progress(number, len(vertical) * len(horizontal))
    return Tokens(ids, grain)


def decode_in_windows(
    tokenizer: ImageTokenizer,
    tokens: Tokens,
    header: Header,
    *,
    alpha: AlphaArray | None = None,
    seconds: float = math.inf,
    progress: Progress | None = None,
) -> ImageArray:
    """Decodes tokens window by window and blends the overlapping pixels.

    Args:
      tokenizer: decodes each window.
      tokens: a batch of one.
      header: of the image; gives its size, its number format and the sizes of windows.
      alpha: alpha channel `[h, w, 1]` to join to the image.
      seconds: that it may take.
      progress: called after each window.

    Returns:
      The image, uint8 or uint16; without an alpha channel unless it is given.

    Raises:
      BitstreamError: it would take more seconds.
    """
    colours = 3 if header.channels > 2 else 1
    shape = (header.height, header.width, colours + (alpha is not None))
    image = np.empty(shape, np.uint8 if header.bit_depth == 8 else np.uint16)
    if alpha is not None:
        image[..., colours:] = alpha
    top, rows, limit = 0, header.conversion_rows, TimeLimit(seconds)

    def note(done: int, total: int) -> None:
        limit.check(done, total)
        if progress is not None:
            progress(done, total)

    for strip in _strips(tokenizer, tokens, header, note):
        for start in range(0, len(strip), rows):
            part = image[top + start : top + min(start + rows, len(strip)), :, :colours]
            part[:] = pixel_formats.pixels_to_image(strip[start : start + len(part), : header.width], header)
        top += len(strip)
        del strip  # frees its memory before the next one is made
    return image


def _axes(header: Header) -> tuple[WindowAxis, WindowAxis]:
    """Returns the windows along both axes of the grid."""
    factor, block = header.downsample_factor, max(header.grains)
    window, halo = header.window // factor, header.halo // factor
    rows, columns = header.grid
    return WindowAxis(rows, window, halo, block), WindowAxis(columns, window, halo, block)


def _strips(tokenizer: ImageTokenizer, tokens: Tokens, header: Header, progress: Progress) -> Iterator[np.ndarray]:
    """Yields finished rows of decoded pixels, one strip for each row of windows."""
    vertical, horizontal = _axes(header)
    scale = header.downsample_factor
    strips = StripBlender(vertical, scale, header.grid[1] * scale)
    across = [horizontal.compute_blend_weights(number, scale) for number in range(len(horizontal))]

    def windows(row: int) -> Iterator[tuple[slice, np.ndarray]]:
        y = vertical[row].window
        for number, (x, weights) in enumerate(zip(horizontal, across, strict=True), 1):
            grain = None if tokens.grain is None else tokens.grain[:, y, x.window]
            image = np.asarray(tokenizer.decode(Tokens(tokens.ids[:, y, x.window], grain)), np.float32)[0]
            progress(row * len(horizontal) + number, len(vertical) * len(horizontal))
            yield slice(x.start * scale, x.stop * scale), image * weights[:, None]

    for row in range(len(vertical)):
        yield strips.blend_row(row, windows(row))
