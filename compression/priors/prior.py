"""Priors: probability models of ids given the preceding tokens of a tile.

A prior passes the ids of a tile in a fixed order through a coder of `entropy_coder`, each with an integer frequency
table.  The same loop encodes, decodes and counts bits, so that encoder and decoder have the same tables by
construction.  `StaticPrior` has counted tables; `NetworkPrior` takes them from a generator.
"""

import dataclasses
import functools
import hashlib
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int, Integer

from vistok.compression.entropy.entropy_coder import FrequencyTable, SymbolCoder
from vistok.compression.format.header import FINGERPRINT_BYTES, Feature, Header
from vistok.errors import UserError
from vistok.tokenizers.tokenizer import TokenSpec
from vistok.weights.files import load_variables, save_variables

_NAME = 'prior'


@runtime_checkable
class Prior(Protocol):
    """Interface of probability models of ids.

    Attributes:
      kind: number in the header of a bitstream.
      portable: True if every machine computes the same tables; otherwise an encoder verifies what it wrote by decoding.
      codebook_sizes: of the tokens.
      grains: of the tokens.
      feature: optional field that a header needs besides kind and fingerprint.
    """

    @property
    def kind(self) -> int: ...

    @property
    def portable(self) -> bool: ...

    @property
    def codebook_sizes(self) -> tuple[int, ...]: ...

    @property
    def grains(self) -> tuple[int, ...]: ...

    @property
    def feature(self) -> Feature | None: ...

    @property
    def fingerprint(self) -> bytes:
        """Digest of the prior, 8 bytes."""
        ...

    def check(self, header: Header) -> None:
        """Raises BitstreamError if a file of this prior cannot be decoded on this machine."""
        ...

    def code(
        self, coder: SymbolCoder, ids: Integer[np.ndarray, 'h w k'], grain: Integer[np.ndarray, 'h w'] | None
    ) -> None:
        """Codes the ids of a tile; a decoder writes them into `ids`.

        Args:
          coder: encoder, decoder or bit counter of `entropy_coder`.
          ids: one id per position and sub-codebook, repeated over the block of a coarse token; zeros for decoding.
          grain: side of the block of each position; None for 1 everywhere.
        """
        ...


def iterate_tokens(shape: Sequence[int], grain: Integer[np.ndarray, 'h w'] | None) -> Iterator[tuple[int, int, int]]:
    """Yields row, column and grain of each token, in raster order of the upper left corners of blocks."""
    height, width = shape[:2]
    if grain is None:
        yield from ((y, x, 1) for y in range(height) for x in range(width))
        return
    for y, row in enumerate(grain):
        for x, side in enumerate(row.tolist()):
            if y % side == 0 and x % side == 0:
                yield y, x, side


@dataclasses.dataclass(frozen=True, eq=False)
class CodebookTables:
    """Counts of the ids of one sub-codebook.

    An id is coded as its cluster, given two context clusters, and then as its rank among the ids of the cluster.  The
    contexts are the cluster of the left neighbour, and that of the upper neighbour or, except for the first
    sub-codebook, of the preceding sub-codebook's id at the same position.  Positions outside have cluster 0.

    Attributes:
      clusters: cluster of each id, from 1.
      contexts: `[grain, left, other, cluster]` for clusters from 1 and, as contexts, from 0.
      counts: `[grain, id]`.
    """

    clusters: Int[np.ndarray, ' K']
    contexts: Int[np.ndarray, 'g m n c']
    counts: Int[np.ndarray, 'g K']

    @functools.cached_property
    def members(self) -> list[np.ndarray]:
        """Ids of each cluster in rising order; none for cluster 0."""
        return [np.flatnonzero(self.clusters == c) for c in range(self.contexts.shape[-1] + 1)]

    @functools.cached_property
    def ranks(self) -> list[int]:
        """Rank of each id among those of its cluster."""
        ranks = np.zeros(len(self.clusters), np.int64)
        for ids in self.members:
            ranks[ids] = np.arange(len(ids))
        return ranks.tolist()

    @functools.cached_property
    def _cache(self) -> dict[tuple[int, ...], FrequencyTable]:
        return {}

    def cluster_table(self, grain: int, left: int, other: int) -> FrequencyTable:
        """Returns the frequency table of clusters in a context; symbol 0 is cluster 1."""
        key = (grain, left, other)
        if key not in self._cache:
            self._cache[key] = FrequencyTable(self.contexts[key])
        return self._cache[key]

    def member_table(self, grain: int, cluster: int) -> FrequencyTable:
        """Returns the frequency table of the ids of a cluster."""
        key = (grain, cluster)
        if key not in self._cache:
            self._cache[key] = FrequencyTable(self.counts[grain, self.members[cluster]])
        return self._cache[key]


@dataclasses.dataclass(frozen=True, eq=False)
class StaticPrior:
    """Prior with tables counted on a set of images, in contexts of the grain and the neighbours' clusters.

    With one cluster per sub-codebook there are no contexts, only one table per grain and sub-codebook.

    Attributes:
      tables: counts of each sub-codebook.
      grains: rising.
    """

    tables: tuple[CodebookTables, ...]
    grains: tuple[int, ...] = (1,)
    kind: int = dataclasses.field(default=1, init=False)
    portable: bool = dataclasses.field(default=True, init=False)
    feature: Feature | None = dataclasses.field(default=None, init=False)

    def __post_init__(self) -> None:
        for table in self.tables:
            clusters = table.contexts.shape[-1]
            sound = table.contexts.shape[0] == len(table.counts) == len(self.grains)
            sound &= table.contexts.shape[1] == clusters + 1 and table.counts.shape[1] == len(table.clusters)
            sound &= sorted(set(table.clusters.tolist())) == list(range(1, clusters + 1))
            if not sound or min(table.counts.min(), table.contexts.min()) < 0:
                raise UserError(f'tables of {clusters} clusters and {len(self.grains)} grains do not fit together')

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """Number of ids of each sub-codebook."""
        return tuple(len(table.clusters) for table in self.tables)

    @functools.cached_property
    def fingerprint(self) -> bytes:
        """Digest of the tables, 8 bytes (BLAKE2b)."""
        digest = hashlib.blake2b(repr((self.grains, self.codebook_sizes)).encode(), digest_size=FINGERPRINT_BYTES)
        for table in self.tables:
            for array in (table.clusters, table.contexts, table.counts):
                digest.update(repr(array.shape).encode() + array.astype('<i8').tobytes())
        return digest.digest()

    def check(self, header: Header) -> None:
        """Accepts every header, as equal fingerprints mean equal tables."""

    def code(
        self, coder: SymbolCoder, ids: Integer[np.ndarray, 'h w k'], grain: Integer[np.ndarray, 'h w'] | None
    ) -> None:
        """Codes the ids of a tile; see `Prior`."""
        height, width, k = ids.shape
        level = {side: i for i, side in enumerate(self.grains)}
        clusters = [[0, *table.clusters.tolist()] for table in self.tables]
        # Padded above and to the left, with ids from 1, so that positions outside of the tile have cluster 0.  Rows are
        # added as they are reached: damaged streams of large tiles end early.
        seen = [[[0] * (width + 1)] for _ in range(k)]
        row, given = -1, []
        for y, x, side in iterate_tokens(ids.shape, grain):
            if y != row:
                row, given = y, ids[y].tolist()
                for known in seen:
                    known += ([0] * (width + 1) for _ in range(y + 1 + max(self.grains) - len(known)))
            before = 0
            for j, table in enumerate(self.tables):
                known = seen[j]
                left = clusters[j][known[y + 1][x]]
                other = before if j else clusters[j][known[y][x + 1]]
                g, value = level[side], given[x][j]
                cluster = 1 + coder(table.cluster_table(g, left, other), clusters[j][value + 1] - 1)
                place = coder(table.member_table(g, cluster), table.ranks[value])
                value = int(table.members[cluster][place])
                for cells in known[y + 1 : y + 1 + side]:
                    cells[x + 1 : x + 1 + side] = [value + 1] * side
                before = cluster
        for j, known in enumerate(seen):
            ids[..., j] = np.asarray([cells[1:] for cells in known[1 : height + 1]]) - 1

    def save(self, path: str | os.PathLike[str], about: dict[str, str] | None = None) -> None:
        """Writes the tables and their provenance as one file."""
        tree: dict[str, Any] = {'grains': np.asarray(self.grains, np.int32)}
        for j, table in enumerate(self.tables):
            tree[f'codebook_{j}'] = {field.name: getattr(table, field.name) for field in dataclasses.fields(table)}
        save_variables(path, _NAME, tree, about)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> 'StaticPrior':
        """Reads a file of `save`.

        Raises:
          UserError: the file is missing, damaged or no prior.
        """
        saved = load_variables(path)
        if saved.name != _NAME:
            raise UserError(f'{pathlib.Path(path)} holds no prior but a {saved.name}')
        tree = saved.variables
        tables = tuple(CodebookTables(**tree[f'codebook_{j}']) for j in range(len(tree) - 1))
        return cls(tables, tuple(tree['grains'].tolist()))


def check_prior_fits(prior: Prior, spec: TokenSpec) -> None:
    """Checks that a prior models tokens of a spec; raises UserError otherwise."""
    if (prior.codebook_sizes, prior.grains) != (spec.codebook_sizes, spec.grains):
        raise UserError(
            f'the prior is one of codebooks {prior.codebook_sizes} and grains {prior.grains}, '
            f'the tokenizer has {spec.codebook_sizes} and {spec.grains}'
        )
