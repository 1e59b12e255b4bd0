"""Clusters of a tokenizer's codewords: made, kept in files, and put into a fresh training state.

Guo et al., "Improving Autoregressive Image Generation through Coarse-to-Fine Token Prediction", 2025: k-means on the
codewords.
"""

import dataclasses
import math
import pathlib

import flax.traverse_util
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int
from ml_collections import ConfigDict

from vistok.clustering.kmeans import kmeans
from vistok.errors import UserError
from vistok.generators.autoregressive.clusters import CodeClusters, equal_shares
from vistok.tokenizers.tokenizer import Tokens
from vistok.tokenizers.trained import TrainedTokenizer
from vistok.training.initialise import place_like
from vistok.training.state import TrainState
from vistok.weights.files import is_ours, load_variables, save_variables

_FILE = 'code_clusters'
_BALANCED_ROUNDS = 20
_MOST_DISTANCES = 2**24


def codewords(tokenizer: TrainedTokenizer) -> Float[np.ndarray, 'K d']:
    """The codewords as the decoder gets them (of unit length where the quantizer compares directions).

    Raises:
      UserError: the tokenizer has several sub-codebooks.
    """
    sizes = tokenizer.spec.codebook_sizes
    if len(sizes) > 1:
        raise UserError(f'clusters are made of one codebook, this tokenizer has {len(sizes)}: {sizes}')
    ids = jnp.arange(sizes[0], dtype=jnp.int32).reshape(-1, 1, 1, 1)
    grain = jnp.ones(ids.shape[:3], jnp.int32) if len(tokenizer.spec.grains) > 1 else None
    return np.asarray(tokenizer.embed(Tokens(ids, grain)), np.float32).reshape(sizes[0], -1)


def clustered(
    vectors: Float[np.ndarray, 'K d'],
    count: int,
    *,
    used: Int[np.ndarray, ' u'] | None = None,
    balanced: bool = False,
    restarts: int = 10,
    seed: int = 0,
) -> CodeClusters:
    """Clusters of vectors by their distance; of several starts the best.

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
    found = min((kmeans(seen, count, seed=seed + i) for i in range(restarts)), key=lambda clusters: clusters.distance)
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
    """Squared, up to a constant for each vector."""
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
    """What `write_clusters` wrote.

    Raises:
      UserError: the file is missing, damaged, or holds something else.
    """
    if not path.is_file():
        raise UserError(f'there are no clusters {path}: make them with launch/cluster_codebook.py')
    if not is_ours(path) or (saved := load_variables(path)).name != _FILE:
        raise UserError(f'{path} holds no clusters that launch/cluster_codebook.py wrote')
    return CodeClusters(saved.variables['frozen']['cluster_of'], saved.about)


def wanted(config: ConfigDict) -> bool:
    """Whether `config` describes a generator over clusters."""
    return 'clusters' in config


def fill(state: TrainState, config: ConfigDict, tokenizer: TrainedTokenizer) -> TrainState:
    """A fresh state with clusters of the codebook in it: those of the file that `config.clusters` names, or new ones.

    Raises:
      UserError: the file holds clusters of another tokenizer, or another number of them.
    """
    if config.clusters.file:
        clusters = read_clusters(pathlib.Path(config.clusters.file))
        theirs = clusters.about['tokenizer']
        if theirs != tokenizer.fingerprint:
            raise UserError(
                f'{config.clusters.file} holds clusters of the tokenizer with the fingerprint {theirs[:16]}…, this run '
                f'has the one with {tokenizer.fingerprint[:16]}…: make them again with launch/cluster_codebook.py'
            )
        if len(clusters.sizes) != config.model.clusters:
            raise UserError(
                f'{config.clusters.file} holds {len(clusters.sizes)} clusters, config.model.clusters is '
                f'{config.model.clusters}'
            )
    else:
        clusters = clustered(
            codewords(tokenizer), config.model.clusters, balanced=config.clusters.balanced, seed=config.train.seed
        )
    return _with_frozen(state, ('cluster_of',), clusters)


def shares_output_vectors(config: ConfigDict) -> bool:
    """Whether `config` describes a generator whose ids share output vectors."""
    return bool(config.model.get('output_vectors', 0))


def fill_output_vectors(state: TrainState, config: ConfigDict, tokenizer: TrainedTokenizer) -> TrainState:
    """A fresh state where the ids of similar codewords share an output vector (`OutputVectors`).

    Raises:
      UserError: the codebook has fewer different codewords than there are vectors.
    """
    count = config.model.output_vectors
    clusters = clustered(codewords(tokenizer), count, restarts=1, seed=config.train.seed)
    return _with_frozen(state, ('output_0', 'vector_of'), clusters)


def _with_frozen(state: TrainState, path: tuple[str, ...], clusters: CodeClusters) -> TrainState:
    """With the clusters in a frozen variable of the generator."""
    flat = flax.traverse_util.flatten_dict(state.model_state['generator'])
    flat['frozen', *path] = place_like(clusters.cluster_of, flat['frozen', *path])
    own = flax.traverse_util.unflatten_dict(flat)
    return dataclasses.replace(state, model_state={**state.model_state, 'generator': own})
