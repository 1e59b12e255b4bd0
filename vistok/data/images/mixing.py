"""Mixtures of two images with the mixture of their labels: mixup and CutMix.

Zhang et al., "mixup: Beyond Empirical Risk Minimization", 2017; Yun et al., "CutMix: Regularization Strategy to Train
Strong Classifiers with Localizable Features", 2019; chosen between and corrected at borders as in timm
0.9.2, which ADDP's code uses.
"""

import dataclasses
import math

import numpy as np
from jaxtyping import Float

from vistok.data.images.random_boxes import Box
from vistok.errors import UserError


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Rule by which two images are mixed.

    Attributes:
      share: share of an image in its mixture, and of its label.
      box: pixels that come from the other image (CutMix); None: all pixels are averaged (mixup).
    """

    share: float
    box: Box | None = None

    def apply(self, images: Float[np.ndarray, '2 h w c']) -> Float[np.ndarray, '2 h w c']:
        """Mixes either image with the other one."""
        if self.box is None:
            share = np.float32(self.share)
            return share * images + (1 - share) * images[::-1]
        rows, columns = self.box.slices
        mixed = images.copy()
        mixed[:, rows, columns] = images[::-1, rows, columns]
        return mixed


@dataclasses.dataclass(frozen=True)
class Mixing:
    """Distribution of the mixtures of a training set.

    Attributes:
      mixup: parameter of the symmetric beta distribution of mixup's share; 0: no mixup.
      cutmix: likewise of CutMix.
      switch: probability of CutMix where there are both.
      group: number of successive images that are mixed in the same way, an even one; the published code draws once for
        all images of a device.

    Raises:
      UserError: a value out of range.
    """

    mixup: float = 0.0
    cutmix: float = 0.0
    switch: float = 0.5
    group: int = 2

    def __post_init__(self) -> None:
        for name in ('mixup', 'cutmix'):
            if getattr(self, name) < 0:
                raise UserError(f'{name} must be at least 0, got {getattr(self, name)}')
        if not 0 <= self.switch <= 1:
            raise UserError(f'the probability of switching from mixup to cutmix must be in [0, 1], got {self.switch}')
        if self.group < 2 or self.group % 2:
            raise UserError(f'the number of images that are mixed alike must be even and at least 2, got {self.group}')

    def __bool__(self) -> bool:
        """Returns whether anything is mixed at all."""
        return self.mixup > 0 or self.cutmix > 0

    def draw(self, rng: np.random.Generator, height: int, width: int) -> Mixture:
        """Draws a mixture of images of a size in pixels."""
        cut = self.cutmix > 0 and (self.mixup == 0 or rng.random() < self.switch)
        parameter = self.cutmix if cut else self.mixup
        share = float(rng.beta(parameter, parameter))
        if not cut:
            return Mixture(share)
        return cut_mixture(share, (height, width), (int(rng.integers(height)), int(rng.integers(width))))


NO_MIXING = Mixing()


def cut_mixture(share: float, image: tuple[int, int], centre: tuple[int, int]) -> Mixture:
    """Computes the rectangle of CutMix around a centre, and the share that is left of the image.

    Args:
      share: wanted share; the rectangle has the proportions of the image and 1 - share of its area.
      image: height and width.
      centre: row and column; what would lie outside of the image is cut off, and leaves the share larger.
    """
    ratio = math.sqrt(1 - share)
    starts, ends = [], []
    for middle, side in zip(centre, image, strict=True):
        half = int(side * ratio) // 2
        starts.append(max(middle - half, 0))
        ends.append(min(middle + half, side))
    box = Box(starts[0], starts[1], ends[0] - starts[0], ends[1] - starts[1])
    return Mixture(1 - box.height * box.width / (image[0] * image[1]), box)
