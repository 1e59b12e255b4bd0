"""Overlapping windows over the token grid, and linear blending of the pixels where they overlap.

The cores of the windows partition the token grid.  Windows extend beyond their core by a halo, which gives a network
context around the edges of the core.  A window at the border of the grid is moved inwards instead of being cut: all
windows have one shape, and the network is compiled once.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float


@dataclasses.dataclass(frozen=True)
class WindowSpan:
    """Window along one axis, in grid cells: [start, stop), of which [core_start, core_stop) is the core."""

    start: int
    stop: int
    core_start: int
    core_stop: int

    @property
    def window(self) -> slice:
        """Cells of the window."""
        return slice(self.start, self.stop)

    @property
    def core(self) -> slice:
        """Cells of the core."""
        return slice(self.core_start, self.core_stop)

    @property
    def core_inside(self) -> slice:
        """Cells of the core, relative to the start of the window."""
        return slice(self.core_start - self.start, self.core_stop - self.start)


@dataclasses.dataclass(frozen=True)
class WindowAxis(Sequence[WindowSpan]):
    """Sequence of the windows along an axis, which are computed when asked for: there may be millions.

    Attributes:
      cells: length of the axis, in cells; a multiple of `unit`, as the other lengths are.
      window: largest length of a window.
      halo: largest extension of a window beyond its core on either side.
      unit: cores begin and end at multiples of it.
    """

    cells: int
    window: int
    halo: int
    unit: int = 1

    def __len__(self) -> int:
        core = (self.window - 2 * self.halo) // self.unit
        return 1 if self.cells <= self.window else -(-self.cells // self.unit // core)

    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return [self[i] for i in range(len(self))[number]]
        i, length = range(len(self))[number], min(self.window, self.cells)
        core_start, core_stop = (self.unit * (self.cells // self.unit * n // len(self)) for n in (i, i + 1))
        start = min(max(core_start - self.halo, 0), self.cells - length)
        return WindowSpan(start, start + length, core_start, core_stop)

    def compute_blend_weights(self, number: int, scale: int) -> Float[np.ndarray, ' p']:
        """Computes the blending weights of the pixels of a window, which add up to 1 over all windows.

        Neighbours are blended linearly over `halo` cells on both sides of the border between their cores.

        Args:
          number: of the window, counted from 0.
          scale: pixels per cell.
        """
        span = self[number]
        centres = np.arange(span.start * scale, span.stop * scale) + 0.5
        rising, falling = np.ones_like(centres), np.zeros_like(centres)
        if span.core_start:
            rising = _compute_ramp(centres, span.core_start, self.halo, scale)
        if span.core_stop < self.cells:
            falling = _compute_ramp(centres, span.core_stop, self.halo, scale)
        return (rising - falling).astype(np.float32)


def _compute_ramp(centres: np.ndarray, border: int, halo: int, scale: int) -> np.ndarray:
    """Returns weights that rise linearly from 0 to 1 around a border."""
    distance = centres - border * scale
    return np.clip(0.5 + distance / (2 * halo * scale), 0, 1) if halo else (distance > 0).astype(np.float64)


class StripBlender:
    """Blending of windows, row by row, that keeps only unfinished rows of pixels in memory.

    Args:
      axis: windows along the vertical axis.
      scale: pixels per cell.
      width: of the image in pixels, a multiple of `scale`.
    """

    def __init__(self, axis: WindowAxis, scale: int, width: int) -> None:
        self._axis, self._scale, self._width = axis, scale, width
        self._finished = 0
        self._sum = np.zeros((0, width, 3), np.float32)

    def blend_row(self, number: int, windows: Iterator[tuple[slice, Float[np.ndarray, 'H w 3']]]) -> np.ndarray:
        """Blends one row of windows and returns the next finished rows of pixels `[n, width, 3]`.

        Args:
          number: of the row of windows, counted from 0.
          windows: for each window, its columns of pixels and its horizontally weighted pixels.
        """
        span, weights = self._axis[number], self._axis.compute_blend_weights(number, self._scale)
        hidden = self._finished - span.start * self._scale  # returned rows, in which this window has the weight 0
        total = np.zeros((span.stop * self._scale - self._finished, self._width, 3), np.float32)
        total[: len(self._sum)] = self._sum
        for columns, pixels in windows:
            total[:, columns] += weights[hidden:, None, None] * pixels[hidden:]
        last = number == len(self._axis) - 1
        finished = span.stop if last else max(span.core_stop - self._axis.halo, 0)
        count = finished * self._scale - self._finished
        self._finished, self._sum = finished * self._scale, total[count:].copy()  # a view would keep all of it
        return total[:count]
