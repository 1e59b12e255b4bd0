"""Augmentation and cropping: random crops and distortions for training, one fixed square crop for evaluation.

Each function maps 8-bit RGB to 8-bit RGB and takes all its randomness from the generator it is given, so that the same
generator state gives the same crop on every machine, in every thread.
"""

import dataclasses
import math
from typing import Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from vistok.data.images.rand_augment import check_magnitude, rand_augment
from vistok.data.images.random_boxes import Box, draw_place, draw_sides
from vistok.data.images.random_erasing import erase_at_random
from vistok.errors import UserError

Augmentation = Literal[
    'resize_crop', 'zoom_crop', 'random_resized_crop', 'shorter_side_crop', 'random_crop', 'centre_crop'
]

_ASPECT_LIMIT = 4 / 3  # of random resized crops, as everywhere in the literature


@dataclasses.dataclass(frozen=True)
class Distortions:
    """Settings of the augmentations of classifiers, beside crop and flip.

    Attributes:
      least_area: smallest share of an image's area that 'random_resized_crop' takes.
      rand_augment: magnitude of RandAugment, at most 10; 0: no RandAugment.
      erasing: probability of random erasing.

    Raises:
      UserError: a value out of range.
    """

    least_area: float = 0.2
    rand_augment: float = 0.0
    erasing: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.least_area <= 1:
            raise UserError(f'the smallest area of a crop must be above 0 and at most 1, got {self.least_area}')
        check_magnitude(self.rand_augment)
        if not 0 <= self.erasing <= 1:
            raise UserError(f'the probability of random erasing must be in [0, 1], got {self.erasing}')


NO_DISTORTIONS = Distortions()


class TooSmall(ValueError):  # noqa: N818 - it says what is wrong with the image
    """Error for images that are smaller than a crop of native pixels."""


def augment(
    image: UInt8[np.ndarray, 'h w 3'],
    rng: np.random.Generator,
    *,
    size: int,
    how: Augmentation,
    flip: bool,
    distortions: Distortions = NO_DISTORTIONS,
) -> UInt8[np.ndarray, '{size} {size} 3']:
    """Cuts one random training crop from an image, mirrors it or not, and distorts it.

    Args:
      image: RGB of any size.
      rng: the only source of randomness.
      size: side of the crop in pixels.
      how: 'resize_crop' (LlamaGen), 'zoom_crop', 'random_resized_crop' (MAGE, ADDP), 'centre_crop': see the functions
        of these names; 'shorter_side_crop' (taming-transformers): shorter side resized to `size`, then a random crop;
        'random_crop': of the pixels as they are.
      flip: mirrors every other image, at random.
      distortions: RandAugment and random erasing, in this order after the flip; by default none.

    Raises:
      TooSmall: a 'random_crop' larger than the image.
      UserError: `how` is none of the above.
    """
    if how == 'resize_crop':
        view = resize_crop(image, rng, size)
    elif how == 'zoom_crop':
        view = zoom_crop(image, rng, size)
    elif how == 'random_resized_crop':
        view = random_resized_crop(image, rng, size, distortions.least_area)
    elif how == 'shorter_side_crop':
        view = random_crop(resize_shorter_side(image, size), rng, size)
    elif how == 'random_crop':
        view = random_crop(image, rng, size)
    elif how == 'centre_crop':
        view = centre_crop(image, size)
    else:
        raise UserError(f'augmentation must be one of {Augmentation.__args__}, got {how!r}')
    view = view[:, ::-1] if flip and rng.random() < 0.5 else view
    if distortions.rand_augment:
        view = rand_augment(view, rng, distortions.rand_augment)
    return erase_at_random(view, rng, distortions.erasing) if distortions.erasing else view


def resize_crop(
    image: UInt8[np.ndarray, 'h w 3'], rng: np.random.Generator, size: int
) -> UInt8[np.ndarray, '{size} {size} 3']:
    """Resizes the shorter side to a random integer in [size, 1.25 size] (256 to 320 at 256), then crops at random.

    The recipe of LlamaGen (Sun et al. 2024) and of the papers built on it.  Small images are enlarged.
    """
    shorter_side = int(rng.integers(size, math.ceil(size / 0.8), endpoint=True))
    return random_crop(resize_shorter_side(image, shorter_side), rng, size)


def zoom_crop(
    image: UInt8[np.ndarray, 'h w 3'], rng: np.random.Generator, size: int
) -> UInt8[np.ndarray, '{size} {size} 3']:
    """Resizes the shorter side to between 1 and 4 times `size`, uniform in the zoom, then crops at random.

    From the whole image to a sixteenth of it: many different views of few photographs.
    """
    shorter_side = round(size * math.exp(rng.uniform(0, math.log(4))))
    return random_crop(resize_shorter_side(image, shorter_side), rng, size)


def random_resized_crop(
    image: UInt8[np.ndarray, 'h w 3'], rng: np.random.Generator, size: int, least_area: float = 0.2
) -> UInt8[np.ndarray, '{size} {size} 3']:
    """Crops a random rectangle and resizes it to a square of `size` pixels (bicubic).

    Its share of the image's area is uniform in [least_area, 1], the logarithm of its aspect ratio uniform between
    those of 3/4 and 4/3, its place uniform; the largest middle rectangle of an allowed ratio where ten draws do not fit
    into the image.  Szegedy et al., "Going Deeper with Convolutions", 2015, section 6; numbers as in torchvision.  The
    default share is that of masked autoencoders, MAGE and ADDP.
    """
    height, width = image.shape[:2]
    sides = draw_sides(rng, (least_area, 1.0), _ASPECT_LIMIT, (height, width))
    box = middle_box(height, width) if sides is None else draw_place(rng, sides, (height, width))
    return np.asarray(Image.fromarray(image[box.slices]).resize((size, size), Image.Resampling.BICUBIC))


def middle_box(height: int, width: int) -> Box:
    """Computes the largest middle rectangle of an image whose aspect ratio is between 3/4 and 4/3."""
    sides = min(height, round(width * _ASPECT_LIMIT)), min(width, round(height * _ASPECT_LIMIT))
    return Box((height - sides[0]) // 2, (width - sides[1]) // 2, *sides)


def random_crop(
    image: UInt8[np.ndarray, 'h w 3'], rng: np.random.Generator, size: int
) -> UInt8[np.ndarray, '{size} {size} 3']:
    """Crops a random square without resizing; every position is equally likely.

    Raises:
      TooSmall: the square is larger than the image.
    """
    height, width = image.shape[:2]
    if min(height, width) < size:
        raise TooSmall(f'the image has {width}x{height} pixels, less than the crop of {size}x{size}')
    top = int(rng.integers(height - size, endpoint=True))
    left = int(rng.integers(width - size, endpoint=True))
    return image[top : top + size, left : left + size]


def centre_crop(image: UInt8[np.ndarray, 'h w 3'], size: int) -> UInt8[np.ndarray, '{size} {size} 3']:
    """Resizes the shorter side to `size` and crops the central square, as ADM does (Dhariwal and Nichol 2021).

    Reconstruction figures in the literature are measured on this crop.
    """
    image = resize_shorter_side(image, size)
    top = (image.shape[0] - size) // 2
    left = (image.shape[1] - size) // 2
    return image[top : top + size, left : left + size]


def resize_shorter_side(image: UInt8[np.ndarray, 'h w 3'], size: int) -> UInt8[np.ndarray, 'H W 3']:
    """Resizes the shorter side to `size` pixels: halved by a box filter while at least twice as large, then bicubic."""
    height, width = image.shape[:2]
    shrunk = Image.fromarray(image)
    while min(shrunk.size) >= 2 * size:
        shrunk = shrunk.resize((shrunk.width // 2, shrunk.height // 2), Image.Resampling.BOX)
    scale = size / min(shrunk.size)
    resized = (round(shrunk.width * scale), round(shrunk.height * scale))
    if resized != (width, height):
        shrunk = shrunk.resize(resized, Image.Resampling.BICUBIC)
    return np.asarray(shrunk)
