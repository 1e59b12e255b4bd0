"""Nested codebooks: a hierarchy of clusters of codewords, stored as tables from ids to ids.

Clustered codebooks as rate points are from "Extreme Image Compression using Fine-tuned VQGANs" (DCC 2024).  Here each
smaller codebook clusters the one before, so that a bitstream can be transcoded by table look-up.

A cluster is represented by one of its members instead of their mean.  The decoder thus receives only codewords that it
was trained with, every kind of tokenizer can be used, and the tables hold only integers.
"""

import dataclasses
import functools
import hashlib
import itertools
import os
import pathlib
from typing import Any

import numpy as np
from jaxtyping import Int, Integer

from vistok.compression.format.header import FINGERPRINT_BYTES, BitstreamError, Feature, Header
from vistok.errors import UserError
from vistok.tokenizers.tokenizer import Tokens, TokenSpec
from vistok.weights.files import load_variables, save_variables

LEVEL_FEATURE = 2
"""Number of the header field with the level."""
_NAME = 'nested_codebooks'
_MOST_LEVELS = 255


@dataclasses.dataclass(frozen=True, eq=False)
class NestedTable:
    """Cluster table of one sub-codebook at one level.

    Attributes:
      cluster_of: id at this level of each id of the level before.
      members: id of the whole codebook that represents each id of this level.
    """

    cluster_of: Int[np.ndarray, ' m']
    members: Int[np.ndarray, ' n']


@dataclasses.dataclass(frozen=True, eq=False)
class NestedCodebooks:
    """Hierarchy of smaller codebooks, in levels from 1; level 0 is the whole codebook.

    Attributes:
      weights_fingerprint: 8 bytes that identify the weights that the codebook is part of.
      levels: for each level, a table per sub-codebook.
      about: provenance.

    Raises:
      UserError: the tables do not fit together.
    """

    weights_fingerprint: bytes
    levels: tuple[tuple[NestedTable, ...], ...]
    about: dict[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 1 <= len(self.levels) <= _MOST_LEVELS or len(self.weights_fingerprint) != FINGERPRINT_BYTES:
            raise UserError(
                f'there are 1 to {_MOST_LEVELS} levels, of weights named by {FINGERPRINT_BYTES} bytes; got '
                f'{len(self.levels)} and {len(self.weights_fingerprint)}'
            )
        for level, tables in enumerate(self.levels, 1):
            for j, table in enumerate(tables):
                count = len(table.members)
                sound = sorted(set(table.cluster_of.tolist())) == list(range(count))
                sound &= level == 1 or len(table.cluster_of) == len(self.levels[level - 2][j].members)
                whole = self._mapping(j, 0, level) if sound else np.zeros(0, np.int32)
                sound &= len(tables) == len(self.levels[0]) and table.members.min(initial=0) >= 0
                sound &= table.members.max(initial=0) < len(whole)
                if not sound or (whole[table.members] != np.arange(count)).any():
                    raise UserError(f'the tables of level {level} do not fit those before')

    @functools.cached_property
    def fingerprint(self) -> bytes:
        """Digest of the tables, 8 bytes (BLAKE2b)."""
        digest = hashlib.blake2b(self.weights_fingerprint, digest_size=FINGERPRINT_BYTES)
        for table in itertools.chain.from_iterable(self.levels):
            for array in (table.cluster_of, table.members):
                digest.update(repr(array.shape).encode() + array.astype('<i4').tobytes())
        return digest.digest()

    def sizes(self, level: int) -> tuple[int, ...]:
        """Returns the number of codewords of each sub-codebook at a level.

        Raises:
          UserError: there is no such level.
        """
        if not 0 <= level <= len(self.levels):
            raise UserError(f'there is no level {level}; there are 0 to {len(self.levels)}')
        if level == 0:
            return tuple(len(table.cluster_of) for table in self.levels[0])
        return tuple(len(table.members) for table in self.levels[level - 1])

    def find_level(self, codewords: int) -> int:
        """Finds the level at which each sub-codebook has the given number of codewords.

        Raises:
          UserError: there is no such level.
        """
        known = [self.sizes(level) for level in range(len(self.levels) + 1)]
        for level, sizes in enumerate(known):
            if set(sizes) == {codewords}:
                return level
        listed = '; '.join(' and '.join(map(str, dict.fromkeys(sizes))) for sizes in known)
        raise UserError(f'there is no level of {codewords} codewords; there are: {listed}')

    def coarsen(self, tokens: Tokens, start: int, stop: int) -> Tokens:
        """Converts tokens of level `start` to those of a higher level `stop`, which has fewer codewords."""
        return self._look_up(tokens, [self._mapping(j, start, stop) for j in range(len(self.levels[0]))])

    def expand(self, tokens: Tokens, level: int) -> Tokens:
        """Converts tokens of a level to the tokens of the whole codebook that represent them."""
        return tokens if level == 0 else self._look_up(tokens, [table.members for table in self.levels[level - 1]])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the tables and their provenance as one file."""
        tree: dict[str, Any] = {'weights': np.frombuffer(self.weights_fingerprint, np.uint8)}
        for level, tables in enumerate(self.levels, 1):
            for j, table in enumerate(tables):
                tree[f'level_{level}_{j}'] = {'cluster_of': table.cluster_of, 'members': table.members}
        save_variables(path, _NAME, tree, self.about)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> 'NestedCodebooks':
        """Reads a file of `save`.

        Raises:
          UserError: the file is missing, damaged or holds something else.
        """
        saved = load_variables(path)
        if saved.name != _NAME:
            raise UserError(f'{pathlib.Path(path)} holds no nested codebooks but a {saved.name}')
        tree = dict(saved.variables)
        weights = tree.pop('weights').tobytes()
        places = sorted(tuple(map(int, name.split('_')[1:])) for name in tree)
        levels = tuple(
            tuple(NestedTable(**tree[f'level_{level}_{j}']) for _, j in group)
            for level, group in itertools.groupby(places, key=lambda place: place[0])
        )
        return cls(weights, levels, saved.about)

    def _mapping(self, j: int, start: int, stop: int) -> Int[np.ndarray, ' n']:
        """Returns, for each id of level `start`, its id at level `stop`."""
        found = np.arange(self.sizes(start)[j], dtype=np.int32)
        for tables in self.levels[start:stop]:
            found = tables[j].cluster_of[found].astype(np.int32)
        return found

    def _look_up(self, tokens: Tokens, tables: list[Int[np.ndarray, ' _']]) -> Tokens:
        ids: Integer[np.ndarray, 'b h w k'] = np.asarray(tokens.ids)
        found = np.stack([table[ids[..., j]] for j, table in enumerate(tables)], axis=-1)
        return Tokens(found.astype(np.int32), tokens.grain)


@dataclasses.dataclass(frozen=True)
class NestedLevel:
    """Level of a bitstream as stored in its header.

    Attributes:
      number: of the level, from 1.
      nested_fingerprint: 8 bytes that identify the tables.
    """

    number: int
    nested_fingerprint: bytes

    def feature(self) -> Feature:
        """Returns the header field with this level."""
        return Feature(LEVEL_FEATURE, bytes([self.number]) + self.nested_fingerprint)


def read_level(header: Header) -> NestedLevel | None:
    """Reads the level from a header; returns None for the whole codebook.

    Raises:
      BitstreamError: the level is impossible.
    """
    data = header.feature(LEVEL_FEATURE)
    if data is None:
        return None
    if len(data) != 1 + FINGERPRINT_BYTES or not data[0]:
        raise BitstreamError(f'the header is damaged: it says {data.hex()} about the level of the codebook')
    return NestedLevel(data[0], data[1:])


@dataclasses.dataclass(frozen=True, eq=False)
class LevelTokenizer:
    """Tokenizer with the codebook of a level, by table look-up of the whole codebook's ids.

    Attributes:
      tokenizer: with the whole codebook.
      nested: the tables.
      level: at least 1.

    Raises:
      UserError: the tables belong to another codebook, or have no such level.
    """

    tokenizer: Any
    nested: NestedCodebooks
    level: int

    def __post_init__(self) -> None:
        if self.nested.sizes(0) != tuple(self.tokenizer.spec.codebook_sizes):
            raise UserError(
                f'the nested codebooks are those of {self.nested.sizes(0)} codewords, the tokenizer has '
                f'{self.tokenizer.spec.codebook_sizes}'
            )
        self.nested.sizes(self.level)

    @property
    def spec(self) -> TokenSpec:
        """Spec of the tokens, with the level's codebook sizes."""
        return dataclasses.replace(self.tokenizer.spec, codebook_sizes=self.nested.sizes(self.level))

    def encode(self, images: Any, **shares: Any) -> Tokens:
        """Encodes images as tokens of the level; arguments as for the tokenizer."""
        return self.nested.coarsen(self.tokenizer.encode(images, **shares), 0, self.level)

    def decode(self, tokens: Tokens) -> Any:
        """Decodes tokens of the level to images."""
        return self.tokenizer.decode(self.nested.expand(tokens, self.level))
