"""Precision and recall of sets of features by nearest neighbours (Kynkäänniemi et al. 2019)."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Real
from tqdm import tqdm

from vistok.errors import UserError

_CHUNK = 2048


@dataclasses.dataclass(frozen=True)
class PrecisionRecall:
    """Precision and recall, both in [0, 1].

    Attributes:
      precision: share of the samples that lie in the ball of a reference image.
      recall: share of the reference images that lie in the ball of a sample.
    """

    precision: float
    recall: float


def precision_recall(
    samples: Real[np.ndarray, 'n d'],
    reference: Real[np.ndarray, 'm d'],
    *,
    neighbours: int = 3,
    half: bool = False,
    chunk: int = _CHUNK,
    progress: bool = False,
) -> PrecisionRecall:
    """Computes precision and recall of samples, with balls that reach to each image's k-th nearest neighbour.

    Args:
      samples: features of generated images.
      reference: features of real ones.  The value depends on how many there are.
      neighbours: k.
      half: distances are computed in float16, as ADM's evaluator does, and in float32 where that overflows.
      chunk: number of images per side of a block of distances; the memory is chunk * chunk distances.
      progress: shows a progress bar.

    Raises:
      UserError: a set has not more than k images.
    """
    for name, features in {'samples': samples, 'reference': reference}.items():
        if len(features) <= neighbours:
            raise UserError(f'{neighbours} neighbours need more than {neighbours} {name}, got {len(features)}')
    dtype = jnp.float16 if half else jnp.float32
    sample_chunks, reference_chunks = _chunks(samples, chunk), _chunks(reference, chunk)
    steps = (len(sample_chunks) + len(reference_chunks)) ** 2 - len(sample_chunks) * len(reference_chunks)
    with tqdm(total=steps, desc='precision and recall', unit='block', disable=not progress) as bar:
        sample_radii = _radii(sample_chunks, neighbours, dtype, bar)
        reference_radii = _radii(reference_chunks, neighbours, dtype, bar)
        inside = [np.zeros(len(c), bool) for c in sample_chunks]
        covered = [np.zeros(len(c), bool) for c in reference_chunks]
        for i, a in enumerate(sample_chunks):
            for j, b in enumerate(reference_chunks):
                distances = np.asarray(_distances(a, b, dtype))
                inside[i] |= (distances <= reference_radii[j]).any(axis=1)
                covered[j] |= (distances <= sample_radii[i][:, None]).any(axis=0)
                bar.update()
    return PrecisionRecall(float(np.concatenate(inside).mean()), float(np.concatenate(covered).mean()))


def _chunks(features: Real[np.ndarray, 'n d'], size: int) -> list[np.ndarray]:
    features = features.astype(np.float32)
    return [features[start : start + size] for start in range(0, len(features), size)]


def _radii(chunks: list[np.ndarray], neighbours: int, dtype: Any, bar: tqdm) -> list[np.ndarray]:
    """Computes each image's squared distance to its k-th neighbour; each is its own first, at distance 0."""
    radii = []
    for a in chunks:
        nearest = np.full((len(a), 0), np.inf, np.float32)
        for b in chunks:
            both = np.concatenate([nearest, np.asarray(_distances(a, b, dtype))], axis=1)
            nearest = (
                np.partition(both, neighbours, axis=1)[:, : neighbours + 1] if both.shape[1] > neighbours else both
            )
            bar.update()
        radii.append(nearest.max(axis=1))
    return radii


@functools.partial(jax.jit, static_argnums=2)
def _distances(a: Float[Array, 'n d'], b: Float[Array, 'm d'], dtype: Any) -> Float[Array, 'n m']:
    """Computes all pairwise squared distances in float32."""
    if dtype == jnp.float32:
        return _squared_distances(a, b)
    half = _squared_distances(a.astype(dtype), b.astype(dtype))
    finite: Bool[Array, ''] = jnp.isfinite(half).all()
    return jax.lax.cond(finite, lambda: half.astype(jnp.float32), lambda: _squared_distances(a, b))


def _squared_distances(a: Float[Array, 'n d'], b: Float[Array, 'm d']) -> Float[Array, 'n m']:
    products = jnp.matmul(a, b.T, precision=jax.lax.Precision.HIGHEST)
    return jnp.maximum(jnp.square(a).sum(1)[:, None] - 2 * products + jnp.square(b).sum(1), 0)
