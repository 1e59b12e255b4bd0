"""k-means clustering of any number of vectors: no buffer grows with n * k, and they may lie on disk.

Lloyd's algorithm (1982) from the seeds of Arthur and Vassilvitskii, "k-means++: The Advantages of Careful Seeding"
(2007).  For many clusters the seeds are drawn in rounds of several, as in Bahmani et al., "Scalable K-Means++" (2012).
"""

import dataclasses
import functools
import math
from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from vistok.clustering.nearest import nearest_codeword
from vistok.errors import UserError

_ROWS_AT_ONCE = 2**15
_ROUNDS = 256  # of seeding; up to so many clusters, each seed is drawn by itself as in k-means++


@dataclasses.dataclass(frozen=True)
class Clusters:
    """Result of k-means clustering.

    Attributes:
      centroids: means of the clusters, float32, `[k, d]`.
      counts: vectors of each, int64, `[k]`.
      distance: mean squared distance of the vectors to their centroids.
      iterations: updates of the centroids.
    """

    centroids: Float[np.ndarray, 'k d']
    counts: Int[np.ndarray, ' k']
    distance: float
    iterations: int


@flax.struct.dataclass
class _Sums:
    vectors: Float[Array, 'k d']
    counts: Int[Array, ' k']


def kmeans(
    vectors: Float[np.ndarray, 'n d'],
    k: int,
    *,
    seed: int = 0,
    iterations: int = 100,
    tolerance: float = 1e-4,
    on_iteration: Callable[[], None] = lambda: None,
) -> Clusters:
    """Clusters vectors by Euclidean distance; the same input and seed give the same centroids in the same order.

    A cluster that loses its last vector starts again at the vector farthest from its centroid, so that no centroid is
    wasted while there are k different vectors.

    Args:
      vectors: any floating type; read in pieces, so they may be mapped from a file.
      k: number of clusters.
      seed: of the first centroids.
      iterations: updates of the centroids at most.
      tolerance: the centroids stand still when their summed squared movement is at most this part of the vectors'
        variance, as scikit-learn has it.
      on_iteration: called after each pass over the vectors.

    Raises:
      UserError: fewer vectors than clusters, or vectors that are not finite.
    """
    if not 1 <= k <= len(vectors):
        raise UserError(f'{len(vectors)} vectors cannot make {k} clusters')
    variance = _variance(vectors)
    centroids = _seeds(vectors, k, np.random.default_rng(seed))
    done = 0
    while True:
        sums, distances = _assign(vectors, centroids)
        on_iteration()
        counts = np.asarray(sums.counts).astype(np.int64)
        moved = np.asarray(sums.vectors) / np.maximum(counts, 1)[:, None]
        empty = np.flatnonzero(counts == 0)
        moved[empty] = centroids[empty]
        fresh = _farthest(vectors, distances, len(empty))
        moved[empty[: len(fresh)]] = fresh
        if done == iterations or np.square(moved - centroids).sum(dtype=np.float64) <= tolerance * variance:
            return Clusters(centroids, counts, float(distances.mean(dtype=np.float64)), done)
        centroids, done = moved, done + 1


def _variance(vectors: Float[np.ndarray, 'n d']) -> float:
    """Averages over the channels the variance over the vectors."""
    total, square = 0.0, 0.0
    for start in range(0, len(vectors), _ROWS_AT_ONCE):
        piece = np.asarray(vectors[start : start + _ROWS_AT_ONCE], np.float64)
        if not np.isfinite(piece).all():
            raise UserError('vectors to be clustered must be finite')
        total, square = total + piece.sum(0), square + np.square(piece).sum(0)
    return float(np.mean(square / len(vectors) - np.square(total / len(vectors))))


def _seeds(vectors: Float[np.ndarray, 'n d'], k: int, rng: np.random.Generator) -> Float[np.ndarray, 'k d']:
    """Draws the first centroids, each by its squared distance to those drawn before (k-means++)."""
    at_once = math.ceil(k / _ROUNDS)
    chosen = [int(rng.integers(len(vectors)))]
    distances = np.full(len(vectors), np.inf, np.float32)
    fresh = chosen
    while len(chosen) < k:
        padded = np.resize(fresh, at_once)  # one shape, one program; the first round has a single vector
        _, to_fresh = _assign(vectors, np.asarray(vectors[padded], np.float32))
        distances = np.minimum(distances, to_fresh)
        # The largest of log(weight) + Gumbel noise are draws without replacement; weight 0 comes last.
        with np.errstate(divide='ignore'):
            keys = np.log(distances) + rng.gumbel(size=len(vectors))
        fresh = _largest(keys, min(at_once, k - len(chosen)), without=chosen)
        chosen += fresh
    return np.asarray(vectors[chosen], np.float32)


def _largest(keys: Float[np.ndarray, ' n'], count: int, without: list[int]) -> list[int]:
    """Selects positions of the largest keys apart from some; ties, such as copies of a chosen vector, by position."""
    taken = set(without)
    candidates = np.argsort(-keys, kind='stable')[: count + len(taken)]
    return [int(i) for i in candidates if int(i) not in taken][:count]


def _farthest(
    vectors: Float[np.ndarray, 'n d'], distances: Float[np.ndarray, ' n'], count: int
) -> Float[np.ndarray, 'm d']:
    """Selects at most `count` different vectors, those farthest from their centroids first, none that is a centroid."""
    found: dict[bytes, np.ndarray] = {}
    for i in np.argsort(-distances, kind='stable') if count else ():
        if len(found) == count or distances[i] == 0:
            break
        row = np.asarray(vectors[i], np.float32)
        found.setdefault(row.tobytes(), row)
    return np.stack(list(found.values())) if found else np.zeros((0, vectors.shape[1]), np.float32)


def _assign(
    vectors: Float[np.ndarray, 'n d'], centroids: Float[np.ndarray, 'k d']
) -> tuple[_Sums, Float[np.ndarray, ' n']]:
    """Computes sums and counts of the vectors of each centroid, and each vector's squared distance to its own."""
    at_once = min(_ROWS_AT_ONCE, 1 << max(0, len(vectors) - 1).bit_length())  # few shapes, few programs
    on_device = jnp.asarray(centroids)
    sums = _Sums(jnp.zeros_like(on_device), jnp.zeros(len(centroids), jnp.int32))
    distances = np.empty(len(vectors), np.float32)
    for start in range(0, len(vectors), at_once):
        piece = np.asarray(vectors[start : start + at_once], np.float32)
        rows = np.zeros((at_once, piece.shape[1]), np.float32)
        rows[: len(piece)] = piece
        sums, found = _add(sums, rows, np.arange(at_once) < len(piece), on_device)
        distances[start : start + len(piece)] = np.asarray(found)[: len(piece)]
    return sums, distances


@functools.partial(jax.jit, donate_argnums=0)
def _add(
    sums: _Sums, rows: Float[Array, 'r d'], real: Bool[Array, ' r'], centroids: Float[Array, 'k d']
) -> tuple[_Sums, Float[Array, ' r']]:
    ids = nearest_codeword(rows, centroids)
    added = _Sums(
        sums.vectors.at[ids].add(jnp.where(real[:, None], rows, 0)), sums.counts.at[ids].add(real.astype(jnp.int32))
    )
    return added, jnp.sum((rows - centroids[ids]) ** 2, axis=-1)
