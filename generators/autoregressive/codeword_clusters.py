"""Codeword clusters of coarse-to-fine generators: k-means, equal sizes, files, and their initializer.

Guo et al., "Improving Autoregressive Image Generation through Coarse-to-Fine Token Prediction", 2025: k-means on the
codewords.
"""

import dataclasses
import functools
import math
import pathlib
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from vistok.clustering.kmeans import kmeans
from vistok.errors import UserError
from vistok.tokenizers.tokenizer import Tokens
from vistok.tokenizers.trained import TrainedTokenizer
from vistok.training.initialization import InitialData
from vistok.weights.files import is_ours, load_variables, save_variables

_FILE = 'code_clusters'
_BALANCED_ROUNDS = 20
_MOST_DISTANCES = 2**24


@dataclasses.dataclass(frozen=True)
class CodeClusters:
    """Partition of a codebook into clusters.

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
        """Number of codewords in each cluster."""
        return np.bincount(self.cluster_of)

    def describe(self) -> str:
        """Describes number and sizes of the clusters in one line."""
        sizes = self.sizes
        return (
            f'{len(sizes)} clusters of {len(self.cluster_of)} codewords: at least {sizes.min()}, median '
            f'{np.median(sizes):g}, at most {sizes.max()}'
        )


def equal_shares(distances: Float[np.ndarray, 'K M']) -> Int[np.ndarray, ' K']:
    """Assigns each codeword to a near cluster, such that the sizes of clusters differ by one at most.

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


def codeword_vectors(tokenizer: TrainedTokenizer) -> Float[np.ndarray, 'K d']:
    """Returns the codewords as the decoder receives them (of unit length where the quantizer compares directions).

    Raises:
      UserError: the tokenizer has several sub-codebooks.
    """
    sizes = tokenizer.spec.codebook_sizes
    if len(sizes) > 1:
        raise UserError(f'clusters are made of one codebook, this tokenizer has {len(sizes)}: {sizes}')
    ids = jnp.arange(sizes[0], dtype=jnp.int32).reshape(-1, 1, 1, 1)
    grain = jnp.ones(ids.shape[:3], jnp.int32) if len(tokenizer.spec.grains) > 1 else None
    return np.asarray(tokenizer.embed(Tokens(ids, grain)), np.float32).reshape(sizes[0], -1)


def cluster_codewords(
    vectors: Float[np.ndarray, 'K d'],
    count: int,
    *,
    used: Int[np.ndarray, ' u'] | None = None,
    balanced: bool = False,
    restarts: int = 10,
    seed: int = 0,
) -> CodeClusters:
    """Computes clusters of codewords by k-means; the best of several starts.

    Args:
      vectors: the codewords.
      count: number of clusters.
      used: rows that k-means sees; the others join the nearest cluster.  None: all.
      balanced: whether sizes may differ by one at most; codewords then go to near centroids with room
        (`equal_shares`), and centroids to the means of their codewords, in turn.
      restarts: of k-means.
      seed: of the first start; the others count on.

    Raises:
      UserError: fewer different codewords than clusters.
    """
    seen = vectors if used is None else vectors[used]
    if not 1 <= count <= len(np.unique(seen, axis=0)):
        raise UserError(f'{len(np.unique(seen, axis=0))} different codewords cannot make {count} clusters')
    found = kmeans(seen, count, seed=seed, restarts=restarts)
    centroids = found.centroids.astype(np.float64)
    # Some codewords at a time: the distances of a large codebook to many centroids would not fit into memory.
    rows = max(1, _MOST_DISTANCES // count)
    parts = [vectors[start : start + rows] for start in range(0, len(vectors), rows)]
    cluster_of = np.concatenate([_distances(part, centroids).argmin(axis=1) for part in parts]).astype(np.int32)
    if balanced:
        cluster_of, least = equal_shares(_distances(vectors, centroids)), math.inf
        shares = cluster_of
        for _ in range(_BALANCED_ROUNDS):
            centroids = _means(vectors, shares, count)
            spread = _spread(vectors, shares, centroids)
            if spread >= least:
                break
            cluster_of, least = shares, spread
            shares = equal_shares(_distances(vectors, centroids))
    about = {
        'clusters': str(count),
        'balanced': str(balanced),
        'restarts': str(restarts),
        'seed': str(seed),
        'mean_squared_distance': f'{_spread(vectors, cluster_of, _means(vectors, cluster_of, count)):.6g}',
        'seen_by_k_means': str(len(seen)),
    }
    return CodeClusters(cluster_of, about)


def _distances(vectors: Float[np.ndarray, 'K d'], centroids: Float[np.ndarray, 'M d']) -> Float[np.ndarray, 'K M']:
    """Computes squared distances up to a constant for each vector."""
    return np.square(centroids).sum(1) - 2 * vectors.astype(np.float64) @ centroids.T


def _means(
    vectors: Float[np.ndarray, 'K d'], cluster_of: Int[np.ndarray, ' K'], count: int
) -> Float[np.ndarray, 'M d']:
    sums = np.zeros((count, vectors.shape[1]))
    np.add.at(sums, cluster_of, vectors)
    return sums / np.maximum(np.bincount(cluster_of, minlength=count), 1)[:, None]


def _spread(
    vectors: Float[np.ndarray, 'K d'], cluster_of: Int[np.ndarray, ' K'], centroids: Float[np.ndarray, 'M d']
) -> float:
    return float(np.square(vectors - centroids[cluster_of]).sum(1).mean())


def write_clusters(path: pathlib.Path, clusters: CodeClusters, tokenizer: TrainedTokenizer) -> None:
    """Writes clusters with their origin and the tokenizer's fingerprint."""
    about = clusters.about | {'tokenizer': tokenizer.fingerprint}
    save_variables(path, _FILE, {'frozen': {'cluster_of': clusters.cluster_of}}, about)


def read_clusters(path: pathlib.Path) -> CodeClusters:
    """Reads clusters from a file that `write_clusters` wrote.

    Raises:
      UserError: the file is missing, damaged, or holds something else.
    """
    if not path.is_file():
        raise UserError(f'there are no clusters {path}: make them with launch/cluster_codebook.py')
    if not is_ours(path) or (saved := load_variables(path)).name != _FILE:
        raise UserError(f'{path} holds no clusters that launch/cluster_codebook.py wrote')
    return CodeClusters(saved.variables['frozen']['cluster_of'], saved.about)


@dataclasses.dataclass(frozen=True)
class CodewordClusters:
    """Initializer that groups the tokenizer's codewords into the clusters of a coarse-to-fine generator.

    Its settings are `file`, the path of clusters that were made before ('' makes new ones), and `balanced`.

    Attributes:
      path: path of the table with each codeword's cluster.
    """

    path: str
    option: str = 'clusters'

    def arrays(self, model: Any, settings: Any, data: InitialData) -> dict[str, np.ndarray]:
        """Returns the cluster of each codeword.

        Raises:
          UserError: the file holds clusters of another tokenizer, or another number of them.
        """
        if settings['file']:
            clusters = read_clusters(pathlib.Path(settings['file']))
            theirs = clusters.about['tokenizer']
            if theirs != data.tokenizer.fingerprint:
                raise UserError(
                    f'{settings["file"]} holds clusters of the tokenizer with the fingerprint {theirs[:16]}…, this run '
                    f'has the one with {data.tokenizer.fingerprint[:16]}…: make them again with '
                    'launch/cluster_codebook.py'
                )
            if len(clusters.sizes) != model.clusters:
                raise UserError(
                    f'{settings["file"]} holds {len(clusters.sizes)} clusters, config.model.clusters is '
                    f'{model.clusters}'
                )
        else:
            vectors = codeword_vectors(data.tokenizer)
            clusters = cluster_codewords(vectors, model.clusters, balanced=settings['balanced'], seed=data.seed)
        return {self.path: clusters.cluster_of}


@dataclasses.dataclass(frozen=True)
class SharedOutputVectors:
    """Initializer that lets the ids of similar codewords share an output vector (`vq_logits`).

    Attributes:
      path: path of the table with each id's output vector.
    """

    path: str
    option: str = ''

    def arrays(self, model: Any, settings: Any, data: InitialData) -> dict[str, np.ndarray]:
        """Returns the output vector of each id; nothing for a model whose ids have vectors of their own.

        Raises:
          UserError: the codebook has fewer different codewords than there are output vectors.
        """
        del settings
        if not model.output_vectors:
            return {}
        vectors = codeword_vectors(data.tokenizer)
        return {self.path: cluster_codewords(vectors, model.output_vectors, restarts=1, seed=data.seed).cluster_of}
