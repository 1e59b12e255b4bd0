"""Fitting of static priors to the tokens of images.

Floating-point arithmetic is safe here, since coding uses only the resulting integers.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from vistok.clustering.kmeans import kmeans
from vistok.compression.priors.prior import CodebookTables, StaticPrior
from vistok.errors import UserError
from vistok.tokenizers.tokenizer import Tokens, TokenSpec

CLUSTERS = (1, 8, 16, 32)
_HELD_OUT = 4  # one image in four is held out, to select the number of clusters
_STRENGTH = 16.0  # pseudo-count of the backoff distribution, in tokens
_ID_STRENGTH = 0.25  # pseudo-count per id of the distribution over all grains, in tokens
_UNITS = 256  # counts are stored in units of 1/256 token
_MOST = float((1 << 31) - 1)


@dataclasses.dataclass(frozen=True)
class _Contexts:
    """Tokens in coding order with their contexts; ids count from 1, 0 stands for positions outside of the image."""

    level: Int[np.ndarray, ' n']
    ids: Int[np.ndarray, 'n k']
    left: Int[np.ndarray, 'n k']
    above: Int[np.ndarray, 'n k']


def fit_prior(
    tokens: Sequence[Tokens],
    codewords: Sequence[Float[np.ndarray, '_ _']],
    spec: TokenSpec,
    clusters: Sequence[int] = CLUSTERS,
) -> StaticPrior:
    """Counts tokens in their contexts; held-out images select the number of context clusters.

    Args:
      tokens: of each image, a batch of one.
      codewords: of each sub-codebook, `[K, d]`; near codewords share a context cluster.
      spec: of the tokens.
      clusters: numbers of clusters to select from.

    Raises:
      UserError: there are fewer than two images.
    """
    if len(tokens) < 2:
        raise UserError(f'a prior needs the tokens of at least two images, got {len(tokens)}')
    images = [_collect_contexts(image, spec) for image in tokens]
    last = len(images) - 1
    counted = _concatenate([p for i, p in enumerate(images) if i % _HELD_OUT != last % _HELD_OUT])
    held_out = _concatenate([p for i, p in enumerate(images) if i % _HELD_OUT == last % _HELD_OUT])
    everything, tables = _concatenate(images), list[CodebookTables]()
    for j, vectors in enumerate(codewords):
        candidates: dict[float, np.ndarray] = {}
        usage = np.bincount(counted.ids[:, j] - 1, minlength=len(vectors))
        for number in clusters:
            labels = _cluster(vectors, usage, number)
            table = _count_tables(counted, j, labels, tables[:j], len(spec.grains))
            candidates.setdefault(_compute_bits(held_out, j, table, tables[:j]), labels)
        best = candidates[min(candidates)]
        tables.append(_count_tables(everything, j, best, tables[:j], len(spec.grains)))
    return StaticPrior(tuple(tables), spec.grains)


def _collect_contexts(tokens: Tokens, spec: TokenSpec) -> _Contexts:
    ids = np.asarray(tokens.ids[0]).astype(np.int64) + 1
    sides = np.ones(ids.shape[:2], np.int64) if tokens.grain is None else np.asarray(tokens.grain[0]).astype(np.int64)
    around = np.pad(ids, ((1, 0), (1, 0), (0, 0)))
    y, x = np.indices(sides.shape)
    first = (y % sides == 0) & (x % sides == 0)
    return _Contexts(
        np.searchsorted(spec.grains, sides[first]), ids[first], around[1:, :-1][first], around[:-1, 1:][first]
    )


def _concatenate(images: Sequence[_Contexts]) -> _Contexts:
    return _Contexts(*(np.concatenate([getattr(p, f.name) for p in images]) for f in dataclasses.fields(_Contexts)))


def _cluster(vectors: Float[np.ndarray, 'K d'], usage: Int[np.ndarray, ' K'], number: int) -> Int[np.ndarray, ' K']:
    """Clusters codewords by k-means, numbered from 1; into fewer clusters where fewer codewords differ."""
    number = min(number, len(np.unique(vectors, axis=0)))
    if number < 2:
        return np.ones(len(vectors), np.int32)
    found = kmeans(vectors, number, weights=usage + 0.1)
    return np.unique(found.cluster_of, return_inverse=True)[1].astype(np.int32) + 1


def _count_tables(
    contexts: _Contexts, j: int, clusters: Int[np.ndarray, ' K'], previous: Sequence[CodebookTables], levels: int
) -> CodebookTables:
    k, own = len(clusters), int(clusters.max())
    left, other, here = _find_clusters(contexts, j, clusters, previous)
    others = 1 + (int(previous[-1].clusters.max()) if previous else own)
    joint = np.zeros((levels, own + 1, others, own))
    np.add.at(joint, (contexts.level, left, other, here - 1), 1)
    unconditional = _normalize(joint.sum((1, 2)), np.full(own, 1 / own))[:, None, None]
    by_left = _normalize(joint.sum(2)[:, :, None], unconditional)
    by_other = _normalize(joint.sum(1)[:, None], unconditional)
    both = by_left * by_other / unconditional  # as if both contexts were independent given the symbol
    both /= both.sum(-1, keepdims=True)

    counts = np.zeros((levels, k))
    np.add.at(counts, (contexts.level, contexts.ids[:, j] - 1), 1)
    over_grains = counts.sum(0) + 0.5
    return CodebookTables(
        clusters.astype(np.int32),
        _round_counts(joint + _STRENGTH * both),
        _round_counts(counts + _ID_STRENGTH * k * over_grains / over_grains.sum()),
    )


def _find_clusters(
    contexts: _Contexts, j: int, clusters: Int[np.ndarray, ' K'], previous: Sequence[CodebookTables]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the clusters of the left neighbour, of the other context, and of the id itself."""
    table = np.concatenate([[0], clusters])
    other = previous[-1].clusters[contexts.ids[:, j - 1] - 1] if previous else table[contexts.above[:, j]]
    return table[contexts.left[:, j]], other, table[contexts.ids[:, j]]


def _normalize(counts: np.ndarray, guess: np.ndarray) -> np.ndarray:
    """Normalizes counts along the last axis, with `guess` as backoff distribution."""
    return (counts + _STRENGTH * guess) / (counts.sum(-1, keepdims=True) + _STRENGTH)


def _round_counts(counts: np.ndarray) -> Int[np.ndarray, '...']:
    return np.minimum(np.rint(_UNITS * counts), _MOST).astype(np.int32)


def _compute_bits(contexts: _Contexts, j: int, table: CodebookTables, previous: Sequence[CodebookTables]) -> float:
    """Computes the ideal code length of tokens under a table, in bits."""
    left, other, here = _find_clusters(contexts, j, table.clusters, previous)
    ids, g = contexts.ids[:, j] - 1, contexts.level
    chosen = table.contexts[g, left, other] + 1e-3
    cost = -np.log2(chosen[np.arange(len(here)), here - 1] / chosen.sum(-1))
    of_cluster = np.stack([table.counts[:, m].sum(-1) for m in table.members], axis=-1)
    return float(np.sum(cost - np.log2((table.counts[g, ids] + 1e-3) / (of_cluster[g, here] + 1e-3))))
