"""`NestedCodebooks` by k-means of k-means, in which a codeword counts as often as it occurs.

Floating point is allowed here: what comes out is integers.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from sklearn.cluster import KMeans, MiniBatchKMeans

from vistok.compression.nested.codebooks import NestedCodebooks, NestedTable
from vistok.errors import UserError

_LARGE = 1 << 15  # codebooks of more codewords are clustered from samples
_UNSEEN = 0.1  # what every codeword counts for beyond its occurrences: those never seen go somewhere near as well


@dataclasses.dataclass(frozen=True)
class _Points:
    """What the next level is made of: the codewords of this one as the means of all that they stand for."""

    means: Float[np.ndarray, 'n d']
    weights: Float[np.ndarray, ' n']


def fit_nested(
    codewords: Sequence[Float[np.ndarray, '_ _']],
    usage: Sequence[Int[np.ndarray, ' _']],
    sizes: Sequence[int],
    weights: bytes,
    *,
    restarts: int = 3,
    seed: int = 0,
) -> NestedCodebooks:
    """Clusters the codewords of each sub-codebook, then the clusters, and so on.

    Args:
      codewords: of each sub-codebook, `[K, d]`, as the decoder gets them.
      usage: how often each occurs.
      sizes: codewords of each level, falling; the same for all sub-codebooks.
      weights: fingerprint of the weights that the codebook is part of.
      restarts: of k-means, of which the best is taken.
      seed: of k-means.

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
        points, cluster_of_all = _Points(vectors, mass), np.arange(len(vectors))
        tables = []
        for size in sizes:
            cluster_of = _clustered(points, size, restarts, seed)
            cluster_of_all = cluster_of[cluster_of_all]
            points = _merged(points, cluster_of, size)
            offsets = np.square(vectors - points.means[cluster_of_all]).sum(1)
            tables.append(NestedTable(cluster_of, _nearest_members(cluster_of_all, offsets, size)))
            about[f'mean_squared_distance/{j}/{size}'] = f'{np.average(offsets, weights=mass):.6g}'
        columns.append(tables)
    return NestedCodebooks(weights, tuple(zip(*columns, strict=True)), about)


def _clustered(points: _Points, size: int, restarts: int, seed: int) -> Int[np.ndarray, ' n']:
    """Cluster of each point, none of them empty, numbered by their first points."""
    kind = KMeans if len(points.means) <= _LARGE else MiniBatchKMeans
    found = kind(size, n_init=restarts, random_state=seed).fit(points.means, sample_weight=points.weights)
    labels = found.labels_.astype(np.int32)
    error = np.square(points.means - found.cluster_centers_[labels]).sum(1)
    while len(empty := np.setdiff1d(np.arange(size), labels)):  # samples may leave some; the farthest points go there
        alone = np.bincount(labels, minlength=size)[labels] == 1
        farthest = int(np.argmax(np.where(alone, -1.0, error)))
        labels[farthest], error[farthest] = empty[0], 0.0
    _, first = np.unique(labels, return_index=True)
    return np.argsort(np.argsort(first)).astype(np.int32)[labels]


def _merged(points: _Points, cluster_of: Int[np.ndarray, ' n'], size: int) -> _Points:
    weights = np.bincount(cluster_of, weights=points.weights, minlength=size)
    sums = np.zeros((size, points.means.shape[1]))
    np.add.at(sums, cluster_of, points.means * points.weights[:, None])
    return _Points(sums / weights[:, None], weights)


def _nearest_members(cluster_of: Int[np.ndarray, ' K'], offsets: Float[np.ndarray, ' K'], size: int) -> np.ndarray:
    """The codeword of each cluster that is nearest to its mean."""
    order = np.lexsort((offsets, cluster_of))
    return order[np.searchsorted(cluster_of[order], np.arange(size))].astype(np.int32)
