"""Groups of similar codewords: each codeword belongs to one cluster, and no cluster is empty."""

import dataclasses
import functools

import numpy as np
from jaxtyping import Float, Int

from vistok.errors import UserError


@dataclasses.dataclass(frozen=True)
class CodeClusters:
    """A partition of a codebook.

    Attributes:
      cluster_of: number of each codeword's cluster, int32.
      about: where it comes from.

    Raises:
      UserError: a cluster is empty.
    """

    cluster_of: Int[np.ndarray, ' K']
    about: dict[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if not len(self.cluster_of) or self.cluster_of.min() < 0 or not self.sizes.all():
            raise UserError(f'clusters are numbered from 0 and none is empty; their sizes are {self.sizes.tolist()}')

    @functools.cached_property
    def sizes(self) -> Int[np.ndarray, ' M']:
        """Codewords of each cluster."""
        return np.bincount(self.cluster_of)

    def describe(self) -> str:
        """Number and sizes, in one line."""
        sizes = self.sizes
        return (
            f'{len(sizes)} clusters of {len(self.cluster_of)} codewords: at least {sizes.min()}, median '
            f'{np.median(sizes):g}, at most {sizes.max()}'
        )


def equal_shares(distances: Float[np.ndarray, 'K M']) -> Int[np.ndarray, ' K']:
    """A near cluster for each codeword, where the sizes of clusters differ by one at most.

    Rounds of requests: a codeword without cluster asks the nearest one that has room, and each takes those that are
    nearest to it.  Not the best assignment there is, which takes time cubic in K.

    Args:
      distances: of each codeword to each centroid.

    Raises:
      UserError: there are fewer codewords than clusters.
    """
    count, clusters = distances.shape
    if count < clusters:
        raise UserError(f'{count} codewords cannot make {clusters} clusters')
    found = np.full(count, -1, np.int32)
    room = np.full(clusters, count // clusters)
    while (found < 0).any():
        if not room.any():
            room += 1  # for what is left, fewer than there are clusters
        free = np.flatnonzero(found < 0)
        wanted = np.where(room > 0, distances[free], np.inf).argmin(axis=1)
        nearness = distances[free, wanted]
        order = np.lexsort((nearness, wanted))  # by cluster, the nearest first
        rank = np.arange(len(free)) - np.searchsorted(wanted[order], wanted[order])
        taken = order[rank < room[wanted[order]]]
        found[free[taken]] = wanted[taken]
        room -= np.bincount(wanted[taken], minlength=clusters)
    return found
