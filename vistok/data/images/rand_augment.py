"""RandAugment: two random distortions of colour or shape, of a common magnitude.

Cubuk et al., "RandAugment: Practical automated data augmentation with a reduced search space", 2019, with the
operations, ranges and chances of timm's policy 'rand-m9-mstd0.5-inc1', which the fine-tuning recipes of masked
autoencoders use: fifteen operations, all of which grow stronger with the magnitude.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageEnhance, ImageOps

from vistok.errors import UserError

GREATEST_MAGNITUDE = 10.0
DEVIATION = 0.5  # of the magnitude, around the chosen one
COUNT = 2  # operations that are drawn for an image
PROBABILITY = 0.5  # of each to be carried out
_FILL = (124, 116, 104)  # mean of ImageNet's pixels, where an operation moves the border of the image into view


@dataclasses.dataclass(frozen=True)
class Operation:
    """Distortion of an image.

    Attributes:
      argument: function from the magnitude in [0, 10] and a sign, 1 or -1, to the argument of `apply`.
      apply: function from an image and an argument to an image of the same size.
    """

    argument: Callable[[float, int], float | int]
    apply: Callable[[Image.Image, Any], Image.Image]


def rand_augment(
    image: UInt8[np.ndarray, 'h w 3'], rng: np.random.Generator, magnitude: float = 9.0
) -> UInt8[np.ndarray, 'h w 3']:
    """Perturbs an image by up to two random operations.

    Two operations are drawn with replacement, and each is carried out with probability 1/2, with a magnitude from a
    normal distribution around `magnitude`, of deviation 0.5, clipped to [0, 10].

    Raises:
      UserError: the magnitude is not in [0, 10].
    """
    check_magnitude(magnitude)
    distorted = Image.fromarray(image)
    names = tuple(OPERATIONS)
    for number in rng.integers(len(names), size=COUNT):
        if rng.random() >= PROBABILITY:
            continue
        drawn = float(np.clip(rng.normal(magnitude, DEVIATION), 0, GREATEST_MAGNITUDE))
        operation = OPERATIONS[names[number]]
        distorted = operation.apply(distorted, operation.argument(drawn, 1 if rng.random() < 0.5 else -1))
    return np.asarray(distorted)


def check_magnitude(magnitude: float) -> None:
    """Raises UserError unless the magnitude is in [0, 10]."""
    if not 0 <= magnitude <= GREATEST_MAGNITUDE:
        raise UserError(f'the magnitude of rand_augment must be in [0, 10], got {magnitude}')


def _scale_and_sign(greatest: float) -> Callable[[float, int], float]:
    return lambda magnitude, sign: sign * magnitude / GREATEST_MAGNITUDE * greatest


def _compute_factor(magnitude: float, sign: int) -> float:
    """Returns a factor of an enhancement, where 1 changes nothing: down to 0.1 or up to 1.9."""
    return max(0.1, 1 + sign * magnitude / GREATEST_MAGNITUDE * 0.9)


def _need_nothing(magnitude: float, sign: int) -> int:
    del magnitude, sign
    return 0


def _move(image: Image.Image, matrix: tuple[float | int, ...]) -> Image.Image:
    """Moves pixels: the output at (x, y) is the input at (ax + by + c, dx + ey + f)."""
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC, fillcolor=_FILL)


def _rotate(image: Image.Image, degrees: float) -> Image.Image:
    return image.rotate(degrees, Image.Resampling.BICUBIC, fillcolor=_FILL)


def _solarize_add(image: Image.Image, added: int) -> Image.Image:
    """Makes the darker half of the values brighter."""
    return image.point([min(255, value + added) if value < 128 else value for value in range(256)] * 3)


OPERATIONS: dict[str, Operation] = {
    'auto_contrast': Operation(_need_nothing, lambda image, _: ImageOps.autocontrast(image)),
    'equalize': Operation(_need_nothing, lambda image, _: ImageOps.equalize(image)),
    'invert': Operation(_need_nothing, lambda image, _: ImageOps.invert(image)),
    'rotate': Operation(_scale_and_sign(30.0), _rotate),  # degrees
    'posterize': Operation(lambda magnitude, _: 4 - int(magnitude / 10 * 4), ImageOps.posterize),  # bits that are kept
    'solarize': Operation(  # values from which on the image is inverted
        lambda magnitude, _: 256 - int(magnitude / 10 * 256), ImageOps.solarize
    ),
    'solarize_add': Operation(lambda magnitude, _: int(magnitude / 10 * 110), _solarize_add),
    'color': Operation(_compute_factor, lambda image, factor: ImageEnhance.Color(image).enhance(factor)),
    'contrast': Operation(_compute_factor, lambda image, factor: ImageEnhance.Contrast(image).enhance(factor)),
    'brightness': Operation(_compute_factor, lambda image, factor: ImageEnhance.Brightness(image).enhance(factor)),
    'sharpness': Operation(_compute_factor, lambda image, factor: ImageEnhance.Sharpness(image).enhance(factor)),
    'shear_x': Operation(_scale_and_sign(0.3), lambda image, slope: _move(image, (1, slope, 0, 0, 1, 0))),
    'shear_y': Operation(_scale_and_sign(0.3), lambda image, slope: _move(image, (1, 0, 0, slope, 1, 0))),
    'translate_x': Operation(  # share of the width
        _scale_and_sign(0.45), lambda image, share: _move(image, (1, 0, share * image.width, 0, 1, 0))
    ),
    'translate_y': Operation(
        _scale_and_sign(0.45), lambda image, share: _move(image, (1, 0, 0, 0, 1, share * image.height))
    ),
}
"""The operations by name; sizes are of magnitude 10."""
