"""Random rectangles of given area and aspect ratio, as random resized crops and random erasing take them."""

import math
from typing import NamedTuple

import numpy as np


class Box(NamedTuple):
    """Rectangle of pixels: its first row and column, and its sides."""

    top: int
    left: int
    height: int
    width: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns, as an index of an image."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)


def box_sides(area: float, aspect: float) -> tuple[int, int]:
    """Computes the height and width in whole pixels of a rectangle of so many pixels and so much width over height."""
    return round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))


def draw_sides(
    rng: np.random.Generator, shares: tuple[float, float], aspect_limit: float, image: tuple[int, int], margin: int = 0
) -> tuple[int, int] | None:
    """Draws the height and width of a rectangle: area uniform, logarithm of the aspect ratio uniform.

    Args:
      rng: source of randomness.
      shares: least and greatest share of the area of the image.
      aspect_limit: greatest ratio of the longer to the shorter side, at least 1.
      image: height and width of the image.
      margin: pixels that the rectangle must at least be smaller in either direction.

    Returns:
      The sides, or None where ten draws in a row were too high or too wide.
    """
    for _ in range(10):
        area = rng.uniform(*shares) * image[0] * image[1]
        aspect = math.exp(rng.uniform(-math.log(aspect_limit), math.log(aspect_limit)))
        height, width = box_sides(area, aspect)
        if height <= image[0] - margin and width <= image[1] - margin:
            return height, width
    return None


def draw_place(rng: np.random.Generator, sides: tuple[int, int], image: tuple[int, int]) -> Box:
    """Draws the place of a rectangle in an image; every place is equally likely."""
    top, left = (int(rng.integers(whole - side, endpoint=True)) for side, whole in zip(sides, image, strict=True))
    return Box(top, left, *sides)
