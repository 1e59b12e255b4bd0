"""Images of any size through networks that see one square at a time.

Every row and column of the token grid belongs to the core of exactly one window.  Windows reach beyond their core by a
halo, so that what a network makes of the core's edge is like what it makes of its middle.  A window at the border of
the grid is moved inwards instead of being cut: all windows have one shape, and the network is compiled once.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float


@dataclasses.dataclass(frozen=True)
class Span:
    """A window along one axis, in grid cells: it sees [start, stop), and [core_start, core_stop) is its own."""

    start: int
    stop: int
    core_start: int
    core_stop: int

    @property
    def window(self) -> slice:
        """What it sees."""
        return slice(self.start, self.stop)

    @property
    def core(self) -> slice:
        """What is its own."""
        return slice(self.core_start, self.core_stop)

    @property
    def core_inside(self) -> slice:
        """The core within what it sees."""
        return slice(self.core_start - self.start, self.core_stop - self.start)


def spans(cells: int, window: int, halo: int, unit: int = 1) -> list[Span]:
    """Windows along an axis.

    Args:
      cells: length of the axis; a multiple of `unit`, as the other lengths are.
      window: the most that a window sees.
      halo: the most that it sees beyond its core on either side.
      unit: cores begin and end at multiples of it.
    """
    if cells <= window:
        return [Span(0, cells, 0, cells)]
    blocks, core = cells // unit, (window - 2 * halo) // unit
    count = -(-blocks // core)
    borders = [unit * (blocks * i // count) for i in range(count + 1)]
    found = []
    for core_start, core_stop in itertools.pairwise(borders):
        start = min(max(core_start - halo, 0), cells - window)
        found.append(Span(start, start + window, core_start, core_stop))
    return found


def blend_weights(axis: Sequence[Span], halo: int, scale: int) -> list[Float[np.ndarray, ' p']]:
    """How much each pixel of each window counts; over all windows the weights of a pixel add up to 1.

    Neighbours fade into each other linearly over `halo` cells on both sides of the border between their cores.

    Args:
      axis: the windows, as `spans` gives them.
      halo: as there.
      scale: pixels per cell.
    """
    weights = []
    for span in axis:
        centres = np.arange(span.start * scale, span.stop * scale) + 0.5
        rising = _ramp(centres, span.core_start, halo, scale) if span.core_start else np.ones_like(centres)
        falling = _ramp(centres, span.core_stop, halo, scale) if span is not axis[-1] else np.zeros_like(centres)
        weights.append((rising - falling).astype(np.float32))
    return weights


def _ramp(centres: np.ndarray, border: int, halo: int, scale: int) -> np.ndarray:
    """From 0 to 1 around a border."""
    distance = centres - border * scale
    return np.clip(0.5 + distance / (2 * halo * scale), 0, 1) if halo else (distance > 0).astype(np.float64)


class Strips:
    """Adds up blended windows and gives back rows of pixels as soon as nothing more is added to them.

    Args:
      axis: windows along the vertical axis.
      halo: as in `spans`.
      scale: pixels per cell.
      width: of the image in pixels, whole cells.
    """

    def __init__(self, axis: Sequence[Span], halo: int, scale: int, width: int) -> None:
        self._axis, self._halo, self._scale, self._width = axis, halo, scale, width
        self._weights = blend_weights(axis, halo, scale)
        self._given = 0
        self._sum = np.zeros((0, width, 3), np.float32)

    def rows(self, number: int, windows: Iterator[tuple[slice, Float[np.ndarray, 'H w 3']]]) -> np.ndarray:
        """The next finished rows `[n, width, 3]`, given all windows of one row of windows.

        Args:
          number: of the row of windows, from 0 upwards.
          windows: columns of pixels and the weighted pixels there, for each.
        """
        span, weights = self._axis[number], self._weights[number]
        hidden = self._given - span.start * self._scale  # rows that are finished, where this window counts nothing
        total = np.zeros((span.stop * self._scale - self._given, self._width, 3), np.float32)
        total[: len(self._sum)] = self._sum
        for columns, pixels in windows:
            total[:, columns] += weights[hidden:, None, None] * pixels[hidden:]
        last = number == len(self._axis) - 1
        finished = span.stop if last else max(span.core_stop - self._halo, 0)
        count = finished * self._scale - self._given
        self._given, self._sum = finished * self._scale, total[count:].copy()  # a view would keep all of it
        return total[:count]
