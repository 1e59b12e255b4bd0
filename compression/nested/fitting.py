"""Fitting of nested codebooks by repeated k-means, with codewords weighted by their occurrences.

Floating-point arithmetic is safe here, since only the resulting integers are stored.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from vistok.clustering.kmeans import kmeans
from vistok.compression.nested.codebooks import NestedCodebooks, NestedTable
from vistok.errors import UserError

_LARGE = 1 << 15  # codebooks of more codewords are clustered once, and in few iterations
_FEW_ITERATIONS = 20
_UNSEEN = 0.1  # pseudo-count, with which codewords that never occur join a near cluster as well


@dataclasses.dataclass(frozen=True)
class _WeightedPoints:
    """Codewords of a level as the means of their members, weighted by occurrences."""

    means: Float[np.ndarray, 'n d']
    weights: Float[np.ndarray, ' n']


def fit_nested(
    codewords: Sequence[Float[np.ndarray, '_ _']],
    usage: Sequence[Int[np.ndarray, ' _']],
    sizes: Sequence[int],
    weights_fingerprint: bytes,
    *,
    restarts: int = 3,
    seed: int = 0,
) -> NestedCodebooks:
    """Clusters the codewords of each sub-codebook, then the clusters, and so on.

    Args:
      codewords: of each sub-codebook, `[K, d]`, as the decoder receives them.
      usage: occurrences of each codeword.
      sizes: codewords of each level, falling; the same for all sub-codebooks.
      weights_fingerprint: 8 bytes that identify the weights that the codebook is part of.
      restarts: runs of k-means, of which the best is taken.
      seed: seed of k-means.

    Raises:
      UserError: sizes do not fall, or there are fewer different codewords.
    """
    different = min(len(np.unique(vectors, axis=0)) for vectors in codewords)
    smallest = min(len(vectors) for vectors in codewords)
    if not sizes or list(sizes) != sorted(set(sizes), reverse=True) or sizes[-1] < 1 or sizes[0] >= smallest:
        raise UserError(f'sizes of levels fall from below {smallest} to 1 at least, got {list(sizes)}')
    if sizes[0] > different:
        raise UserError(f'{different} different codewords cannot make {sizes[0]} clusters')
    columns, about = [], {'sizes': ','.join(map(str, sizes)), 'restarts': str(restarts), 'seed': str(seed)}
    for j, (vectors, counts) in enumerate(zip(codewords, usage, strict=True)):
        vectors, mass = vectors.astype(np.float64), counts + _UNSEEN
        points, cluster_of_all = _WeightedPoints(vectors, mass), np.arange(len(vectors))
        tables = []
        for size in sizes:
            cluster_of = _cluster(points, size, restarts, seed)
            cluster_of_all = cluster_of[cluster_of_all]
            points = _merge_points(points, cluster_of, size)
            offsets = np.square(vectors - points.means[cluster_of_all]).sum(1)
            tables.append(NestedTable(cluster_of, _nearest_members(cluster_of_all, offsets, size)))
            about[f'mean_squared_distance/{j}/{size}'] = f'{np.average(offsets, weights=mass):.6g}'
        columns.append(tables)
    return NestedCodebooks(weights_fingerprint, tuple(zip(*columns, strict=True)), about)


def _cluster(points: _WeightedPoints, size: int, restarts: int, seed: int) -> Int[np.ndarray, ' n']:
    """Clusters points by k-means; clusters are not empty and numbered by their first points."""
    restarts, iterations = (restarts, 100) if len(points.means) <= _LARGE else (1, _FEW_ITERATIONS)
    found = kmeans(points.means, size, weights=points.weights, seed=seed, restarts=restarts, iterations=iterations)
    labels = found.cluster_of
    error = np.square(points.means - found.centroids[labels]).sum(1)
    # The last iteration may leave some clusters empty; they take the farthest points.
    while len(empty := np.setdiff1d(np.arange(size), labels)):
        alone = np.bincount(labels, minlength=size)[labels] == 1
        farthest = int(np.argmax(np.where(alone, -1.0, error)))
        labels[farthest], error[farthest] = empty[0], 0.0
    _, first = np.unique(labels, return_index=True)
    return np.argsort(np.argsort(first)).astype(np.int32)[labels]


def _merge_points(points: _WeightedPoints, cluster_of: Int[np.ndarray, ' n'], size: int) -> _WeightedPoints:
    weights = np.bincount(cluster_of, weights=points.weights, minlength=size)
    sums = np.zeros((size, points.means.shape[1]))
    np.add.at(sums, cluster_of, points.means * points.weights[:, None])
    return _WeightedPoints(sums / weights[:, None], weights)


def _nearest_members(cluster_of: Int[np.ndarray, ' K'], offsets: Float[np.ndarray, ' K'], size: int) -> np.ndarray:
    """Returns the codeword of each cluster that is nearest to its mean."""
    order = np.lexsort((offsets, cluster_of))
    return order[np.searchsorted(cluster_of[order], np.arange(size))].astype(np.int32)
