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
from jaxtyping import Array, Float, Int

from vistok.clustering.nearest import nearest_codeword
from vistok.errors import UserError

_ROWS_AT_ONCE = 2**15
_ROUNDS = 256  # of seeding; up to so many clusters, each seed is drawn by itself as in k-means++


@dataclasses.dataclass(frozen=True)
class Clusters:
    """Result of k-means clustering.

    Attributes:
      centroids: means of the clusters, `[k, d]`.
      counts: vectors of each, int64, `[k]`.
      cluster_of: number of each vector's cluster, int32, `[n]`.
      distance: (weighted) mean squared distance of the vectors to their centroids.
      iterations: updates of the centroids.
    """

    centroids: Float[np.ndarray, 'k d']
    counts: Int[np.ndarray, ' k']
    cluster_of: Int[np.ndarray, ' n']
    distance: float
    iterations: int


@flax.struct.dataclass
class _Sums:
    vectors: Float[Array, 'k d']
    weights: Float[Array, ' k']
    counts: Int[Array, ' k']


def kmeans(
    vectors: Float[np.ndarray, 'n d'],
    k: int,
    *,
    weights: Float[np.ndarray, ' n'] | None = None,
    seed: int = 0,
    restarts: int = 1,
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
      weights: positive weight of each vector in the means and in the distance; None: 1.
      seed: seed of the first centroids; restart i has the seed `seed + i`.
      restarts: runs, of which the one with the smallest distance is returned.
      iterations: updates of the centroids at most.
      tolerance: the centroids stand still when their summed squared movement is at most this part of the vectors'
        variance, as scikit-learn has it.
      on_iteration: called after each pass over the vectors.

    Raises:
      UserError: fewer vectors than clusters, or vectors that are not finite.
    """
    if not 1 <= k <= len(vectors):
        raise UserError(f'{len(vectors)} vectors cannot make {k} clusters')
    least_movement = tolerance * _variance(vectors, weights)
    runs = (
        _run(vectors, k, weights, np.random.default_rng(seed + i), iterations, least_movement, on_iteration)
        for i in range(restarts)
    )
    return min(runs, key=lambda clusters: clusters.distance)


def _run(
    vectors: Float[np.ndarray, 'n d'],
    k: int,
    weights: Float[np.ndarray, ' n'] | None,
    rng: np.random.Generator,
    iterations: int,
    least_movement: float,
    on_iteration: Callable[[], None],
) -> Clusters:
    """Runs Lloyd's algorithm once, until the centroids move by at most `least_movement` (squared and summed)."""
    centroids = _seeds(vectors, k, rng, weights)
    done = 0
    while True:
        sums, cluster_of, distances = _assign(vectors, centroids, weights)
        on_iteration()
        counts = np.asarray(sums.counts).astype(np.int64)
        # Counts are exact however many there are; sums of weights are float32.
        totals = counts if weights is None else np.asarray(sums.weights).astype(np.float64)
        moved = np.asarray(sums.vectors) / np.where(counts == 0, 1, totals)[:, None]
        empty = np.flatnonzero(counts == 0)
        moved[empty] = centroids[empty]
        fresh = _farthest(vectors, distances, len(empty))
        moved[empty[: len(fresh)]] = fresh
        if done == iterations or np.square(moved - centroids).sum(dtype=np.float64) <= least_movement:
            distance = float(np.average(distances.astype(np.float64), weights=weights))
            return Clusters(centroids, counts, cluster_of, distance, done)
        centroids, done = moved, done + 1


def _variance(vectors: Float[np.ndarray, 'n d'], weights: Float[np.ndarray, ' n'] | None) -> float:
    """Averages over the channels the variance over the vectors."""
    total, square = np.zeros(vectors.shape[1]), np.zeros(vectors.shape[1])
    mass = 0.0
    for start in range(0, len(vectors), _ROWS_AT_ONCE):
        piece = np.asarray(vectors[start : start + _ROWS_AT_ONCE], np.float64)
        if not np.isfinite(piece).all():
            raise UserError('vectors to be clustered must be finite')
        if weights is None:
            total, square, mass = total + piece.sum(0), square + np.square(piece).sum(0), mass + len(piece)
        else:
            own = weights[start : start + _ROWS_AT_ONCE].astype(np.float64)
            total, square, mass = total + own @ piece, square + own @ np.square(piece), mass + own.sum()
    return float(np.mean(square / mass - np.square(total / mass)))


def _seeds(
    vectors: Float[np.ndarray, 'n d'], k: int, rng: np.random.Generator, weights: Float[np.ndarray, ' n'] | None = None
) -> Float[np.ndarray, 'k d']:
    """Draws the first centroids, each by its squared distance to those drawn before (k-means++)."""
    at_once = math.ceil(k / _ROUNDS)
    if weights is None:
        chosen = [int(rng.integers(len(vectors)))]
    else:
        chosen = [int(rng.choice(len(vectors), p=weights / weights.sum()))]
    distances = np.full(len(vectors), np.inf, np.float32)
    fresh = chosen
    while len(chosen) < k:
        padded = np.resize(fresh, at_once)  # one shape, one program; the first round has a single vector
        _, _, to_fresh = _assign(vectors, np.asarray(vectors[padded], np.float32))
        distances = np.minimum(distances, to_fresh)
        # The largest of log(weight) + Gumbel noise are draws without replacement; weight 0 comes last.
        with np.errstate(divide='ignore'):
            keys = np.log(distances if weights is None else distances * weights) + rng.gumbel(size=len(vectors))
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
    vectors: Float[np.ndarray, 'n d'],
    centroids: Float[np.ndarray, 'k d'],
    weights: Float[np.ndarray, ' n'] | None = None,
) -> tuple[_Sums, Int[np.ndarray, ' n'], Float[np.ndarray, ' n']]:
    """Assigns each vector to its nearest centroid; returns sums per centroid, assignments and squared distances."""
    at_once = min(_ROWS_AT_ONCE, 1 << max(0, len(vectors) - 1).bit_length())  # few shapes, few programs
    on_device = jnp.asarray(centroids)
    sums = _Sums(jnp.zeros_like(on_device), jnp.zeros(len(centroids)), jnp.zeros(len(centroids), jnp.int32))
    cluster_of, distances = np.empty(len(vectors), np.int32), np.empty(len(vectors), np.float32)
    for start in range(0, len(vectors), at_once):
        piece = np.asarray(vectors[start : start + at_once], np.float32)
        rows = np.zeros((at_once, piece.shape[1]), np.float32)
        rows[: len(piece)] = piece
        mass = np.zeros(at_once, np.float32)  # 0 for padding
        mass[: len(piece)] = 1 if weights is None else weights[start : start + at_once]
        sums, ids, found = _add(sums, rows, mass, on_device)
        cluster_of[start : start + len(piece)] = np.asarray(ids)[: len(piece)]
        distances[start : start + len(piece)] = np.asarray(found)[: len(piece)]
    return sums, cluster_of, distances


@functools.partial(jax.jit, donate_argnums=0)
def _add(
    sums: _Sums, rows: Float[Array, 'r d'], weights: Float[Array, ' r'], centroids: Float[Array, 'k d']
) -> tuple[_Sums, Int[Array, ' r'], Float[Array, ' r']]:
    ids = nearest_codeword(rows, centroids)
    total = _Sums(
        sums.vectors.at[ids].add(weights[:, None] * rows),
        sums.weights.at[ids].add(weights),
        sums.counts.at[ids].add((weights > 0).astype(jnp.int32)),
    )
    return total, ids, jnp.sum((rows - centroids[ids]) ** 2, axis=-1)
