"""Fréchet distance of two Gaussians, from streamed moments (Heusel et al. 2017, section 2)."""

import dataclasses

import numpy as np
import scipy.linalg
from jaxtyping import Float, Real

from vistok.errors import UserError


@dataclasses.dataclass(frozen=True)
class Gaussian:
    """Mean and covariance of features.

    Attributes:
      mean: float64.
      covariance: float64, divided by one less than the number of images.
      count: number of images; 0 if unknown.
    """

    mean: Float[np.ndarray, ' d']
    covariance: Float[np.ndarray, 'd d']
    count: int = 0


class Moments:
    """Streaming first and second moments of features in float64; the memory does not grow with the number of images."""

    def __init__(self) -> None:
        self._count = 0
        self._origin = np.zeros(0)
        self._sum = np.zeros(0)
        self._products = np.zeros((0, 0))

    def add(self, features: Real[np.ndarray, 'n d']) -> None:
        """Adds the features of n images.

        Raises:
          UserError: they have another width than those before.
        """
        if not len(features):
            return
        x = features.astype(np.float64)
        if self._count == 0:
            d = x.shape[1]
            # Sums of differences from some point amid the features lose nothing where the mean is large.
            self._origin, self._sum, self._products = x.mean(axis=0), np.zeros(d), np.zeros((d, d))
        if x.shape[1] != len(self._sum):
            raise UserError(f'expected features of width {len(self._sum)}, got {x.shape[1]}')
        x -= self._origin
        self._count += len(x)
        self._sum += x.sum(axis=0)
        self._products += x.T @ x

    def gaussian(self) -> Gaussian:
        """Returns mean and covariance of all features so far; raises UserError below two images."""
        if self._count < 2:
            raise UserError(f'a covariance needs at least 2 images, got {self._count}')
        mean = self._sum / self._count
        covariance = (self._products - self._count * np.outer(mean, mean)) / (self._count - 1)
        return Gaussian(self._origin + mean, covariance, self._count)


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """Computes the Fréchet distance `|m_a - m_b|^2 + Tr(S_a + S_b - 2 (S_a S_b)^(1/2))` of two Gaussians.

    The last trace is the sum of the roots of the eigenvalues of `S_a^(1/2) S_b S_a^(1/2)`, which are real and not
    negative: nothing has to be added to a singular covariance.

    Raises:
      UserError: the features differ in width.
    """
    if a.mean.shape != b.mean.shape:
        raise UserError(f'the features differ in width: {len(a.mean)} and {len(b.mean)}')
    root = _root(a.covariance)
    eigenvalues = scipy.linalg.eigvalsh(root @ b.covariance @ root)
    difference = a.mean - b.mean
    return float(
        difference @ difference + np.trace(a.covariance) + np.trace(b.covariance) - 2 * _sum_of_roots(eigenvalues)
    )


def frechet_error(
    features: Real[np.ndarray, 'n d'], reference: Gaussian, resamples: int, rng: np.random.Generator
) -> float:
    """Estimates the standard error of the distance over the choice of the n images, by the bootstrap (Efron 1979).

    A distance of few images is also too large on average, which this does not show.

    Args:
      features: features of n images.
      reference: taken as exact.
      resamples: number of bootstrap samples (n of the n images, with replacement).
      rng: draws them.
    """
    x = features.astype(np.float64)
    root, trace = _root(reference.covariance), np.trace(reference.covariance)
    projected = x @ root
    distances = []
    for _ in range(resamples):
        chosen = rng.integers(len(x), size=len(x))
        drawn, weighted = x[chosen], _centre(projected[chosen]) / np.sqrt(len(x) - 1)
        difference = drawn.mean(axis=0) - reference.mean
        # Products of the shorter side: both ways have the same eigenvalues other than 0.
        products = weighted @ weighted.T if len(x) < x.shape[1] else weighted.T @ weighted
        cross = _sum_of_roots(scipy.linalg.eigvalsh(products))
        distances.append(difference @ difference + drawn.var(axis=0, ddof=1).sum() + trace - 2 * cross)
    return float(np.std(distances, ddof=1))


def _root(covariance: Float[np.ndarray, 'd d']) -> Float[np.ndarray, 'd d']:
    values, vectors = scipy.linalg.eigh(covariance)
    return (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T


def _sum_of_roots(eigenvalues: Float[np.ndarray, ' d']) -> float:
    return float(np.sqrt(np.clip(eigenvalues, 0, None)).sum())


def _centre(x: Float[np.ndarray, 'n d']) -> Float[np.ndarray, 'n d']:
    return x - x.mean(axis=0)
