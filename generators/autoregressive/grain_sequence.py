"""Serialization of token grids with grains as sequences of (content, position) pairs.

Huang et al., "Towards Accurate Image Coding: Improved Autoregressive Image Generation with Dynamic Vector Quantization"
(2023).  A sequence has one segment for each grain, from coarse to fine.  A segment begins with a start, lists the
cells that have its grain, and ends with an end; a pair consists of the position of a cell on the grid of its grain and
its id.
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
    """Vocabulary of contents or positions: `size` proper entries, then padding, the end and the starts of a segment.

    Attributes:
      size: number of codewords, or of cells of a grid.
      starts: number of start symbols, one for each class.
    """

    size: int
    starts: int

    @property
    def pad(self) -> int:
        """Padding after the last end."""
        return self.size

    @property
    def end(self) -> int:
        """End symbol of a segment."""
        return self.size + 1

    @property
    def start(self) -> int:
        """Start symbol of a segment for class 0; the other classes follow."""
        return self.size + 2

    @property
    def total(self) -> int:
        """Size of the whole vocabulary."""
        return self.size + 2 + self.starts


@flax.struct.dataclass
class GrainSequence:
    """Batch of sequences of one static length, int32; padding follows the last end.

    Attributes:
      content: in the vocabulary of contents, `[b, n]`.
      position: in the position vocabulary of the pair's segment, `[b, n]`.
      segment: number of the segment, 0 is the coarsest grain, `[b, n]`.
      index: row in the table of sequence indices (a learned positional embedding), `[b, n]`.
    """

    content: Any
    position: Any
    segment: Any
    index: Any


@dataclasses.dataclass(frozen=True)
class GrainSequences:
    """Serialization of grids of one size.

    Attributes:
      grid: rows and columns of the finest grid.
      grains: sides of the blocks, from coarse to fine; each is a multiple of the next, the last is 1.
      contents: vocabulary of the ids.
      positions: position vocabulary of each segment; their sizes are at least the cells of the segment.
      order: order of the cells in a segment: 'row': over the whole grid; 'region': one coarsest cell after another.
      layout: 'compact': segments follow each other, and each has rows of its own in the table of sequence indices.
        'official': in a batch all segments with the same number begin at the same index, padding fills the gaps, and
        indices are counted through.
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
        """Creates the serialization of tokens that `spec` describes.

        Args:
          spec: tokens of a tokenizer with several grains and one codebook.
          grid: rows and columns of the finest grid.
          starts: number of classes.
          position_sizes: sizes of the position vocabularies, from coarse to fine; None: the number of cells.
          order: see `GrainSequences`.
          layout: see `GrainSequences`.

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
        """Number of cells of each segment's grid."""
        return tuple(math.prod(self.grid) // grain**2 for grain in self.grains)

    @property
    def num_segments(self) -> int:
        """Number of segments, one per grain."""
        return len(self.grains)

    @property
    def index_rows(self) -> int:
        """Rows that the table of sequence indices needs."""
        return sum(self.cells) + 2 * self.num_segments

    @property
    def length(self) -> int:
        """Length of the longest sequence, in the official layout of the longest batch, in pairs."""
        return self.index_rows if self.layout == 'official' else self.cells[-1] + 2 * self.num_segments

    @functools.cached_property
    def origins(self) -> Int[np.ndarray, ' p']:
        """First row of each segment of a compact sequence in the table of sequence indices."""
        return np.cumsum([0, *(cells + 2 for cells in self.cells[:-1])]).astype(np.int32)

    def cell_order(self, segment: int) -> Int[np.ndarray, ' cells']:
        """Returns the cells of a segment in the order in which they are listed."""
        side = self.grains[0] // self.grains[segment]
        numbers = np.arange(self.cells[segment], dtype=np.int32)
        if self.order == 'row':
            return numbers
        rows, columns = (n // self.grains[0] for n in self.grid)
        return numbers.reshape(rows, side, columns, side).transpose(0, 2, 1, 3).reshape(-1)

    def block_numbers(self, segment: int) -> Int[np.ndarray, ' finest']:
        """Returns, for each cell of the finest grid in raster order, the number of the cell of `segment` around it."""
        grain, (rows, columns) = self.grains[segment], self.grid
        coarse = np.arange(self.cells[segment], dtype=np.int32).reshape(rows // grain, columns // grain)
        return coarse.repeat(grain, 0).repeat(grain, 1).reshape(-1)

    def encode(self, tokens: Tokens, labels: Int[Array, ' b']) -> GrainSequence:
        """Writes a batch of token grids as sequences.

        Args:
          tokens: `[b, *grid, 1]` with grains; in each coarsest cell there is one grain.
          labels: class of each grid, below the number of starts.

        Raises:
          UserError: the tokens have no grains.
        """
        if tokens.grain is None:
            raise UserError('sequences of grains need tokens with grains')
        ids, grain = jnp.asarray(tokens.ids)[..., 0], jnp.asarray(tokens.grain)
        b = len(ids)
        orders = [self.cell_order(segment) for segment in range(self.num_segments)]
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
        return GrainSequence(content, position, segment, self.sequence_indices(jnp.stack(starts, axis=1)))

    def segments_of(self, starts: Int[Array, 'b p']) -> Int[Array, 'b n']:
        """Returns the segment of each pair, where segments begin at `starts`."""
        indices = jnp.arange(self.length)
        return (indices >= starts[:, :, None]).sum(axis=1).astype(jnp.int32) - 1

    def sequence_indices(self, starts: Int[Array, 'b p']) -> Int[Array, 'b n']:
        """Returns the row of each pair in the table of sequence indices, where segments begin at `starts`."""
        indices = jnp.broadcast_to(jnp.arange(self.length, dtype=jnp.int32), (len(starts), self.length))
        if self.layout == 'official':
            return indices
        shift = jnp.asarray(self.origins) - starts
        return indices + jnp.take_along_axis(shift, self.segments_of(starts), axis=1)

    def is_cell(self, sequence: GrainSequence) -> Bool[Array, 'b n']:
        """Returns which pairs are cells rather than a start, an end or padding."""
        return sequence.position < jnp.asarray([words.size for words in self.positions])[sequence.segment]

    def decode(self, sequence: GrainSequence) -> Tokens:
        """Reads token grids from sequences; the inverse of `encode`.

        Cells that are in no pair get the id 0 and the finest grain.
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
