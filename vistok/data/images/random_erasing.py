"""Random erasing: a rectangle of each image becomes noise.

Zhong et al., "Random Erasing Data Augmentation", 2017, with the ranges and the noise of timm's mode 'pixel', which the
fine-tuning recipes of masked autoencoders use.
"""

import numpy as np
from jaxtyping import UInt8

from vistok.data.images.random_boxes import Box, draw_place, draw_sides

AREA_SHARES = (0.02, 1 / 3)
ASPECT_LIMIT = 1 / 0.3
PIXEL_MEAN = np.array([0.485, 0.456, 0.406])  # of ImageNet, in [0, 1]
PIXEL_DEVIATION = np.array([0.229, 0.224, 0.225])


def erase_at_random(
    image: UInt8[np.ndarray, 'h w 3'], rng: np.random.Generator, probability: float
) -> UInt8[np.ndarray, 'h w 3']:
    """Replaces one rectangle by noise, in a share `probability` of the images.

    The noise has the mean and deviation of ImageNet's pixels, each pixel and channel by itself.  Bytes cannot hold the
    values outside of the range of pixels, about 3 % of them, which are clipped.
    """
    if rng.random() >= probability:
        return image
    box = draw_hole(rng, image.shape[0], image.shape[1])
    if box is None:
        return image
    noise = PIXEL_MEAN + PIXEL_DEVIATION * rng.standard_normal((box.height, box.width, 3))
    erased = image.copy()
    erased[box.slices] = np.clip(np.rint(255 * noise), 0, 255).astype(np.uint8)
    return erased


def draw_hole(rng: np.random.Generator, height: int, width: int) -> Box | None:
    """Draws a rectangle smaller than the image in both directions; None where ten draws did not fit."""
    sides = draw_sides(rng, AREA_SHARES, ASPECT_LIMIT, (height, width), margin=1)
    return None if sides is None else draw_place(rng, sides, (height, width))
