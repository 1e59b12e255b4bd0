"""Inception score (Salimans et al. 2016): confident predictions per image, diverse predictions over all images."""

import dataclasses
import itertools

import numpy as np
import scipy.special
from jaxtyping import Integer, Real

from vistok.errors import UserError


@dataclasses.dataclass(frozen=True)
class ScoreRule:
    """Division of the images into parts; published scores differ by it.

    Attributes:
      split_size: images in each consecutive part, the last one may be smaller; 0: `splits` decides.
      splits: number of parts, equal up to one image.
      shuffle_seed: images are shuffled first; None: their order counts.
    """

    split_size: int = 0
    splits: int = 1
    shuffle_seed: int | None = None

    def parts(self, count: int) -> list[Integer[np.ndarray, ' n']]:
        """Returns the indices of the images in each part."""
        order = np.arange(count)
        if self.shuffle_seed is not None:
            # The old generator, because the evaluator whose numbers these are used it.
            order = np.random.RandomState(self.shuffle_seed).permutation(count)
        if self.split_size:
            return [order[start : start + self.split_size] for start in range(0, count, self.split_size)]
        bounds = [count * i // self.splits for i in range(self.splits + 1)]
        parts = [order[start:stop] for start, stop in itertools.pairwise(bounds)]
        return [part for part in parts if len(part)]


@dataclasses.dataclass(frozen=True)
class InceptionScore:
    """Inception score with its standard deviation over the parts.

    Attributes:
      score: mean over the parts, from 1 to the number of classes.
      deviation: standard deviation over the parts.
    """

    score: float
    deviation: float


def inception_score(logits: Real[np.ndarray, 'n classes'], rule: ScoreRule) -> InceptionScore:
    """Computes `exp(mean KL(p(y|x) || p(y)))` in float64 for each part of the images, and averages over the parts.

    Args:
      logits: logits of each image, in the order of sampling.
      rule: division of the images into parts.

    Raises:
      UserError: there are no images.
    """
    if not len(logits):
        raise UserError('an inception score needs images, got none')
    scores = []
    for part in rule.parts(len(logits)):
        p = scipy.special.softmax(logits[part].astype(np.float64), axis=1)
        scores.append(np.exp(scipy.special.rel_entr(p, p.mean(axis=0)).sum(axis=1).mean()))
    return InceptionScore(float(np.mean(scores)), float(np.std(scores)))
