"""Token grids with grains as sequences of (content, position) pairs, and back.

Huang et al., "Towards Accurate Image Coding: Improved Autoregressive Image Generation with Dynamic Vector Quantization"
(2023).  A sequence has one part for each grain, from coarse to fine.  A part begins with a start, names the cells that
have its grain, and ends with an end; a pair says where a cell lies on the grid of its grain and what its id is.
"""

import dataclasses
import functools
import math
from typing import Any

import flax.struct
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from vistok.errors import UserError
from vistok.tokenizers.tokenizer import Tokens, TokenSpec

LAYOUTS = ('compact', 'official')
ORDERS = ('row', 'region')


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """What the numbers of one table mean: `size` proper ones, then padding, the end of a part, the starts of a part.

    Attributes:
      size: ids of codewords, or cells of a grid.
      starts: one for each class.
    """

    size: int
    starts: int

    @property
    def pad(self) -> int:
        """What comes after the last end."""
        return self.size

    @property
    def end(self) -> int:
        """The end of a part."""
        return self.size + 1

    @property
    def start(self) -> int:
        """The start of a part for class 0; the other classes follow."""
        return self.size + 2

    @property
    def total(self) -> int:
        """Rows of the table."""
        return self.size + 2 + self.starts


@flax.struct.dataclass
class GrainSequence:
    """A batch of sequences of one static length, int32; what is after the last end is padding.

    Attributes:
      content: in the vocabulary of contents, `[b, n]`.
      position: in the vocabulary of the positions of the pair's part, `[b, n]`.
      part: number of the part, 0 is the coarsest grain, `[b, n]`.
      index: row of the table that tells the place in the sequence, `[b, n]`.
    """

    content: Any
    position: Any
    segment: Any
    index: Any


@dataclasses.dataclass(frozen=True)
class GrainSequences:
    """How grids of one size are written.

    Attributes:
      grid: rows and columns of the finest grid.
      grains: sides of the blocks, from coarse to fine; each is a multiple of the next, the last is 1.
      contents: vocabulary of the ids.
      positions: vocabulary of each part's positions; their sizes are at least the cells of the part.
      order: of the cells in a part: 'row', over the whole grid, or 'region', one coarsest cell after the other.
      layout: 'compact': parts follow each other, and each has rows of its own in the table of places.  'official': in a
        batch all parts with the same number begin at one place, padding fills the gaps, and places are counted through.
    """

    grid: tuple[int, int]
    grains: tuple[int, ...]
    contents: Vocabulary
    positions: tuple[Vocabulary, ...]
    order: str = 'row'
    layout: str = 'compact'

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise UserError(f'unknown layout {self.layout!r}; known: {", ".join(LAYOUTS)}')
        if self.order not in ORDERS:
            raise UserError(f'unknown order {self.order!r}; known: {", ".join(ORDERS)}')
        coarsest = self.grains[0]
        if self.grains[-1] != 1 or any(a <= b or a % b for a, b in zip(self.grains, self.grains[1:], strict=False)):
            raise UserError(
                f'grains must go from coarse to fine, multiples of each other, down to 1; got {self.grains}'
            )
        if self.grid[0] % coarsest or self.grid[1] % coarsest:
            raise UserError(f'a grid of {self.grid} has no whole cells of {coarsest} x {coarsest}')
        if any(words.size < cells for words, cells in zip(self.positions, self.cells, strict=True)):
            raise UserError(f'the grid has {self.cells} cells, the vocabularies {[w.size for w in self.positions]}')

    @classmethod
    def of(
        cls,
        spec: TokenSpec,
        grid: tuple[int, int],
        starts: int,
        *,
        position_sizes: tuple[int, ...] | None = None,
        order: str = 'row',
        layout: str = 'compact',
    ) -> 'GrainSequences':
        """For the tokens that `spec` describes.

        Args:
          spec: of a tokenizer with several grains and one codebook.
          grid: rows and columns of the finest grid.
          starts: classes.
          position_sizes: of the vocabularies of positions, from coarse to fine; None: the cells there are.
          order: see above.
          layout: see above.

        Raises:
          UserError: the tokens are of one grain, or of several sub-codebooks, or do not fit the grid.
        """
        if len(spec.grains) == 1 or len(spec.codebook_sizes) > 1:
            raise UserError(
                'sequences of grains need a tokenizer with several grains and one codebook, '
                f'got grains {spec.grains} and codebooks {spec.codebook_sizes}'
            )
        grains = tuple(sorted(spec.grains, reverse=True))
        sizes = position_sizes or tuple((grid[0] // grain) * (grid[1] // grain) for grain in grains)
        positions = tuple(Vocabulary(size, starts) for size in sizes)
        return cls(grid, grains, Vocabulary(spec.codebook_sizes[0], starts), positions, order, layout)

    @property
    def cells(self) -> tuple[int, ...]:
        """Cells of each part's grid."""
        return tuple(math.prod(self.grid) // grain**2 for grain in self.grains)

    @property
    def num_segments(self) -> int:
        """Parts of a sequence."""
        return len(self.grains)

    @property
    def places(self) -> int:
        """Rows that the table of places needs."""
        return sum(self.cells) + 2 * self.num_segments

    @property
    def length(self) -> int:
        """Pairs that are enough for every grid, and in the official layout for every batch."""
        return self.places if self.layout == 'official' else self.cells[-1] + 2 * self.num_segments

    @functools.cached_property
    def origins(self) -> Int[np.ndarray, ' p']:
        """Rows in the table of places where the parts of a compact sequence begin."""
        return np.cumsum([0, *(cells + 2 for cells in self.cells[:-1])]).astype(np.int32)

    def walking_order(self, segment: int) -> Int[np.ndarray, ' cells']:
        """The cells of a part in the order in which they are named."""
        side = self.grains[0] // self.grains[segment]
        numbers = np.arange(self.cells[segment], dtype=np.int32)
        if self.order == 'row':
            return numbers
        rows, columns = (n // self.grains[0] for n in self.grid)
        return numbers.reshape(rows, side, columns, side).transpose(0, 2, 1, 3).reshape(-1)

    def block_numbers(self, segment: int) -> Int[np.ndarray, ' finest']:
        """For each cell of the finest grid, in raster order, the number of the cell of `segment` that it lies in."""
        grain, (rows, columns) = self.grains[segment], self.grid
        coarse = np.arange(self.cells[segment], dtype=np.int32).reshape(rows // grain, columns // grain)
        return coarse.repeat(grain, 0).repeat(grain, 1).reshape(-1)

    def sequence(self, tokens: Tokens, labels: Int[Array, ' b']) -> GrainSequence:
        """Writes a batch of grids.

        Args:
          tokens: `[b, *grid, 1]` with grains; in each coarsest cell there is one grain.
          labels: below the number of starts.

        Raises:
          UserError: the tokens have no grains.
        """
        if tokens.grain is None:
            raise UserError('sequences of grains need tokens with grains')
        ids, grain = jnp.asarray(tokens.ids)[..., 0], jnp.asarray(tokens.grain)
        b = len(ids)
        orders = [self.walking_order(segment) for segment in range(self.num_segments)]
        found = [
            (grain[:, ::side, ::side].reshape(b, -1)[:, order] == side, ids[:, ::side, ::side].reshape(b, -1)[:, order])
            for side, order in zip(self.grains, orders, strict=True)
        ]
        counts = [member.sum(axis=1) for member, _ in found]
        starts = [jnp.zeros_like(counts[0])]
        for count in counts[:-1]:
            starts.append(starts[-1] + 2 + (count.max() if self.layout == 'official' else count))

        segment = self.segments_of(jnp.stack(starts, axis=1))
        content = jnp.full((b, self.length), self.contents.pad, jnp.int32)
        position = jnp.asarray([words.pad for words in self.positions])[segment]
        row = jnp.arange(b)
        for p, (member, chosen) in enumerate(found):
            words, begin = self.positions[p], starts[p]
            sequence_index = begin[:, None] + jnp.cumsum(member, axis=1)
            sequence_index = jnp.where(member, sequence_index, self.length)  # out of range: not written
            content = content.at[row[:, None], sequence_index].set(chosen, mode='drop')
            position = position.at[row[:, None], sequence_index].set(orders[p], mode='drop')
            content = content.at[row, begin].set(self.contents.start + labels)
            position = position.at[row, begin].set(words.start + labels)
            content = content.at[row, begin + counts[p] + 1].set(self.contents.end)
            position = position.at[row, begin + counts[p] + 1].set(words.end)
        return GrainSequence(content, position, segment, self.index(jnp.stack(starts, axis=1)))

    def segments_of(self, starts: Int[Array, 'b p']) -> Int[Array, 'b n']:
        """The part of each place, of parts that begin at `starts`."""
        indices = jnp.arange(self.length)
        return (indices >= starts[:, :, None]).sum(axis=1).astype(jnp.int32) - 1

    def index(self, starts: Int[Array, 'b p']) -> Int[Array, 'b n']:
        """The row in the table of places of each place, of parts that begin at `starts`."""
        indices = jnp.broadcast_to(jnp.arange(self.length, dtype=jnp.int32), (len(starts), self.length))
        if self.layout == 'official':
            return indices
        shift = jnp.asarray(self.origins) - starts
        return indices + jnp.take_along_axis(shift, self.segments_of(starts), axis=1)

    def is_cell(self, sequence: GrainSequence) -> Bool[Array, 'b n']:
        """Which pairs name a cell, and are no start, end or padding."""
        return sequence.position < jnp.asarray([words.size for words in self.positions])[sequence.segment]

    def tokens(self, sequence: GrainSequence) -> Tokens:
        """The grids that sequences describe; the inverse of `sequence`.

        Cells that no pair names have the id 0 and the finest grain.
        """
        b = len(sequence.content)
        real = self.is_cell(sequence)
        ids = jnp.zeros((b, math.prod(self.grid)), jnp.int32)
        grain = jnp.ones_like(ids)
        for p, (side, cells) in enumerate(zip(self.grains, self.cells, strict=True)):
            sequence_index = jnp.where(real & (sequence.segment == p), sequence.position, cells)
            written = jnp.full((b, cells), -1, jnp.int32)
            written = written.at[jnp.arange(b)[:, None], sequence_index].set(sequence.content, mode='drop')
            dense = written[:, self.block_numbers(p)]
            ids = jnp.where(dense >= 0, dense, ids)
            grain = jnp.where(dense >= 0, side, grain)
        return Tokens(ids.reshape(b, *self.grid, 1), grain.reshape(b, *self.grid))
