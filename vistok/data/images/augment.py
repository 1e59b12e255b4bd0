"""Augmentation and cropping: random square crops for training, one fixed square crop for evaluation.

Each function maps 8-bit RGB to 8-bit RGB and takes all its randomness from the generator it is given, so that the same
generator state gives the same crop on every machine, in every thread.
"""

import math
from typing import Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from vistok.errors import UserError

Augmentation = Literal['resize_crop', 'zoom_crop', 'shorter_side_crop', 'random_crop', 'centre_crop']


class TooSmall(ValueError):  # noqa: N818 - it says what is wrong with the image
    """Error for images that are smaller than a crop of native pixels."""


def augment(
    image: UInt8[np.ndarray, 'h w 3'],
    rng: np.random.Generator,
    *,
    size: int,
    how: Augmentation,
    flip: bool,
) -> UInt8[np.ndarray, '{size} {size} 3']:
    """Cuts one random training crop from an image.

    Args:
      image: RGB of any size.
      rng: the only source of randomness.
      size: side of the crop in pixels.
      how: 'resize_crop' (LlamaGen), 'zoom_crop', 'centre_crop': see the functions of these names;
        'shorter_side_crop' (taming-transformers): shorter side resized to `size`, then a random crop; 'random_crop': of
        the pixels as they are.
      flip: mirrors every other image, at random.

    Raises:
      TooSmall: a 'random_crop' larger than the image.
      UserError: `how` is none of the above.
    """
    if how == 'resize_crop':
        view = resize_crop(image, rng, size)
    elif how == 'zoom_crop':
        view = zoom_crop(image, rng, size)
    elif how == 'shorter_side_crop':
        view = random_crop(resize_shorter_side(image, size), rng, size)
    elif how == 'random_crop':
        view = random_crop(image, rng, size)
    elif how == 'centre_crop':
        view = centre_crop(image, size)
    else:
        raise UserError(f'augmentation must be one of {Augmentation.__args__}, got {how!r}')
    return view[:, ::-1] if flip and rng.random() < 0.5 else view


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
