"""Static priors of nested codebooks, derived from the prior of the whole codebook."""

import numpy as np
from jaxtyping import Int

from vistok.compression.nested.codebooks import NestedCodebooks
from vistok.compression.priors.prior import CodebookTables, StaticPrior
from vistok.errors import UserError
from vistok.tokenizers.tokenizer import Tokens

_MOST = (1 << 31) - 1


def coarsen_prior(prior: StaticPrior, nested: NestedCodebooks, level: int) -> StaticPrior:
    """Computes the prior of a level by adding up counts, in integer arithmetic, which is equal on all machines.

    The count of an id of the level is the sum of the counts of its members.  A cluster of contexts is mapped to the
    cluster of the ids that received most of its mass, and counts of merged clusters are added.

    Raises:
      UserError: the tables are those of another codebook.
    """
    if prior.codebook_sizes != nested.sizes(0):
        raise UserError(f'a prior of codebooks {prior.codebook_sizes} is none of {nested.sizes(0)}')
    tables: list[CodebookTables] = []
    before = np.zeros(1, np.int64)
    for j, table in enumerate(prior.tables):
        size = nested.sizes(level)[j]
        every = np.arange(len(table.clusters), dtype=np.int32)[None, :, None, None]
        ids = np.zeros((*every.shape[:3], len(prior.tables)), np.int32)
        ids[..., [j]] = every
        level_id = np.asarray(nested.coarsen(Tokens(ids), 0, level).ids)[0, :, 0, j]
        counts = np.zeros((len(table.counts), size), np.int64)
        np.add.at(counts.T, level_id, table.counts.T)

        mass = np.zeros((size, 1 + table.contexts.shape[-1]), np.int64)
        np.add.at(mass, (level_id, table.clusters), 1 + table.counts.sum(0, dtype=np.int64))
        home = mass.argmax(1)  # the cluster with most of each id's mass
        present = np.unique(home)
        cluster = 1 + np.searchsorted(present, home[mass.argmax(0)])
        cluster[present] = 1 + np.arange(len(present))
        cluster[0] = 0  # the context outside of the tile stays 0

        other = before if j else cluster
        shape = (len(counts), len(present) + 1, int(other.max()) + 1, len(present))
        contexts = np.zeros(shape, np.int64)
        g, left, above, own = np.indices(table.contexts.shape)
        np.add.at(contexts, (g, cluster[left], other[above], cluster[own + 1] - 1), table.contexts)
        tables.append(CodebookTables(cluster[home].astype(np.int32), _halve_to_fit(contexts), _halve_to_fit(counts)))
        before = cluster
    return StaticPrior(tuple(tables), prior.grains)


def _halve_to_fit(counts: Int[np.ndarray, '...']) -> Int[np.ndarray, '...']:
    """Halves counts until they fit into 32 bits, as only their ratios matter."""
    while counts.max() > _MOST:
        counts = counts >> 1
    return counts.astype(np.int32)
