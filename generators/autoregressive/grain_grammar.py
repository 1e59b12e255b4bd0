"""Grammar of grain sequences: which pairs may follow, and which must."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from vistok.errors import UserError
from vistok.generators.autoregressive.grain_sequence import GrainSequence, GrainSequences

FINEST_POSITIONS = ('drawn', 'remaining')


@dataclasses.dataclass(frozen=True)
class GrainGrammar:
    """Rules for writing a sequence pair by pair, from sampled positions and contents.

    Attributes:
      sequences: serialization of the grids.
      finest_positions: 'drawn': positions of the last segment are sampled; 'remaining': they are the uncovered cells in
        order.
    """

    sequences: GrainSequences
    finest_positions: str = 'drawn'

    def __post_init__(self) -> None:
        if self.finest_positions not in FINEST_POSITIONS:
            raise UserError(f'unknown finest_positions {self.finest_positions!r}; known: {", ".join(FINEST_POSITIONS)}')

    def begin(self, rows: int) -> GrainSequence:
        """Returns sequences `[rows, n]` that consist of a start of class 0, then padding."""
        sequences = self.sequences
        shape = (rows, sequences.length)
        first = jnp.arange(sequences.length) == 0
        return GrainSequence(
            content=jnp.broadcast_to(jnp.where(first, sequences.contents.start, sequences.contents.pad), shape),
            position=jnp.broadcast_to(
                jnp.where(first, sequences.positions[0].start, sequences.positions[-1].pad), shape
            ),
            segment=jnp.broadcast_to(jnp.where(first, 0, sequences.num_segments - 1), shape),
            index=jnp.zeros(shape, jnp.int32),
        )

    def with_labels(self, pairs: GrainSequence, labels: Int[Array, ' r']) -> GrainSequence:
        """Replaces class 0 in the starts of pairs `[b, n]`, repeated for r rows, by the class of each row."""
        pairs = jax.tree.map(lambda x: jnp.tile(x, (len(labels) // len(x), 1)), pairs)
        starts = self._numbers('start')[pairs.segment]
        shift = jnp.where(pairs.position == starts, labels[:, None], 0)
        return dataclasses.replace(pairs, content=pairs.content + shift, position=pairs.position + shift)

    def position_mask(self, covered: Bool[Array, 'b finest'], segment: Int[Array, ' b']) -> Bool[Array, 'b K']:
        """Computes the mask of positions that may come next: cells that are not covered, and an end where one fits.

        A segment may end when every coarsest cell is complete or untouched, the last segment when all are complete.

        Args:
          covered: cells of the finest grid that have an id.
          segment: current segment of each row.
        """
        sequences, b = self.sequences, len(segment)
        coarsest = sequences.grains[0]
        rows, columns = (n // coarsest for n in sequences.grid)
        blocks = covered.reshape(b, rows, coarsest, columns, coarsest)
        complete = blocks.all(axis=(2, 4))
        may_end = (complete == blocks.any(axis=(2, 4))).all(axis=(1, 2))
        grid = covered.reshape(b, *sequences.grid)
        masks = []
        for p, (grain, words) in enumerate(zip(sequences.grains, sequences.positions, strict=True)):
            free = ~grid[:, ::grain, ::grain].reshape(b, -1)
            ends = may_end
            if p == sequences.num_segments - 1:
                ends = ~free.any(axis=1)
                if self.finest_positions == 'remaining':
                    order = sequences.cell_order(p)
                    first = jnp.asarray(order)[jnp.argmax(free[:, order], axis=1)]
                    free = free & (jnp.arange(free.shape[1]) == first[:, None])
            mask = jnp.zeros((b, sequences.positions[-1].total), bool)
            masks.append(mask.at[:, : free.shape[1]].set(free).at[:, words.end].set(ends))
        return jnp.take_along_axis(jnp.stack(masks, axis=1), segment[:, None, None], axis=1)[:, 0]

    def finished_rows(self, newest: GrainSequence, done: Bool[Array, ' b']) -> Bool[Array, ' b']:
        """Returns which rows have nothing but padding after the newest pairs `[b, 1]`."""
        last = newest.segment[:, 0] == self.sequences.num_segments - 1
        return done | (last & (newest.position[:, 0] == self.sequences.positions[-1].end))

    def next_pairs(self, newest: GrainSequence, drawn: Int[Array, ' b'], done: Bool[Array, ' b']) -> GrainSequence:
        """Returns the next pairs `[b, 1]`, still without content: a start after an end, else the sampled position."""
        sequences = self.sequences
        ended = newest.position == self._numbers('end')[newest.segment]
        segment = jnp.minimum(newest.segment + ended, sequences.num_segments - 1)
        position = jnp.where(ended, self._numbers('start')[segment], drawn[:, None])
        position = jnp.where(self.finished_rows(newest, done)[:, None], sequences.positions[-1].pad, position)
        index = newest.index + 1
        if sequences.layout == 'compact':
            index = jnp.where(segment > newest.segment, jnp.asarray(sequences.origins)[segment], index)
        return GrainSequence(jnp.zeros_like(position), position, segment, index)

    def fill_contents(self, pairs: GrainSequence, drawn: Int[Array, 'b n']) -> GrainSequence:
        """Fills in the contents of pairs `[b, n]`: sampled ids for cells, the special symbols for all others.

        The published sampler uses padding where its training sequences have the content of an end.
        """
        contents = self.sequences.contents
        end = contents.pad if self.sequences.layout == 'official' else contents.end
        content = jnp.where(pairs.position == self._numbers('end')[pairs.segment], end, contents.pad)
        content = jnp.where(pairs.position == self._numbers('start')[pairs.segment], contents.start, content)
        content = jnp.where(pairs.position < self._numbers('size')[pairs.segment], drawn, content)
        return dataclasses.replace(pairs, content=content)

    def covered_cells(self, pairs: GrainSequence) -> Bool[Array, 'b finest']:
        """Returns which cells of the finest grid the pairs `[b, 1]` cover."""
        blocks = np.stack([self.sequences.block_numbers(segment) for segment in range(self.sequences.num_segments)])
        return jnp.asarray(blocks)[pairs.segment[:, 0]] == pairs.position

    def _numbers(self, kind: str) -> Int[Array, ' p']:
        return jnp.asarray([getattr(words, kind) for words in self.sequences.positions])
