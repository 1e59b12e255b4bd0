"""What may follow what in a sequence of grains, and what must."""

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
    """Sequences are written pair by pair; positions and contents are proposed from outside, the rest is here.

    Attributes:
      sequences: how grids are written.
      finest_positions: whether the positions of the last part are free ('drawn'), or those that remain in order.
    """

    sequences: GrainSequences
    finest_positions: str = 'drawn'

    def __post_init__(self) -> None:
        if self.finest_positions not in FINEST_POSITIONS:
            raise UserError(f'unknown finest_positions {self.finest_positions!r}; known: {", ".join(FINEST_POSITIONS)}')

    def begin(self, rows: int) -> GrainSequence:
        """A start, of class 0, and padding."""
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
        """Pairs `[b, n]` with class 0 in the starts, repeated for r rows, each with its own class."""
        pairs = jax.tree.map(lambda x: jnp.tile(x, (len(labels) // len(x), 1)), pairs)
        starts = self._numbers('start')[pairs.segment]
        shift = jnp.where(pairs.position == starts, labels[:, None], 0)
        return dataclasses.replace(pairs, content=pairs.content + shift, position=pairs.position + shift)

    def allowed(self, covered: Bool[Array, 'b finest'], segment: Int[Array, ' b']) -> Bool[Array, 'b K']:
        """Which positions may come next: cells that are not covered, and an end where one fits.

        A part may end when every coarsest cell is complete or untouched, the last part when all are complete.

        Args:
          covered: cells of the finest grid that have an id.
          part: that each row is in.
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
                    order = sequences.walking_order(p)
                    first = jnp.asarray(order)[jnp.argmax(free[:, order], axis=1)]
                    free = free & (jnp.arange(free.shape[1]) == first[:, None])
            mask = jnp.zeros((b, sequences.positions[-1].total), bool)
            masks.append(mask.at[:, : free.shape[1]].set(free).at[:, words.end].set(ends))
        return jnp.take_along_axis(jnp.stack(masks, axis=1), segment[:, None, None], axis=1)[:, 0]

    def is_finished(self, newest: GrainSequence, done: Bool[Array, ' b']) -> Bool[Array, ' b']:
        """Which rows have nothing but padding after the newest pairs `[b, 1]`."""
        last = newest.segment[:, 0] == self.sequences.num_segments - 1
        return done | (last & (newest.position[:, 0] == self.sequences.positions[-1].end))

    def next(self, newest: GrainSequence, drawn: Int[Array, ' b'], done: Bool[Array, ' b']) -> GrainSequence:
        """The pairs `[b, 1]` that follow, yet without content: a start after an end, else the position drawn."""
        sequences = self.sequences
        ended = newest.position == self._numbers('end')[newest.segment]
        segment = jnp.minimum(newest.segment + ended, sequences.num_segments - 1)
        position = jnp.where(ended, self._numbers('start')[segment], drawn[:, None])
        position = jnp.where(self.is_finished(newest, done)[:, None], sequences.positions[-1].pad, position)
        index = newest.index + 1
        if sequences.layout == 'compact':
            index = jnp.where(segment > newest.segment, jnp.asarray(sequences.origins)[segment], index)
        return GrainSequence(jnp.zeros_like(position), position, segment, index)

    def fill_contents(self, pairs: GrainSequence, drawn: Int[Array, ' b']) -> GrainSequence:
        """The pairs `[b, 1]` with their contents: what was drawn for a cell, else what belongs there.

        The published sampler puts padding where the sequences it learned from have the content of an end.
        """
        contents = self.sequences.contents
        end = contents.pad if self.sequences.layout == 'official' else contents.end
        content = jnp.where(pairs.position == self._numbers('end')[pairs.segment], end, contents.pad)
        content = jnp.where(pairs.position == self._numbers('start')[pairs.segment], contents.start, content)
        content = jnp.where(pairs.position < self._numbers('size')[pairs.segment], drawn[:, None], content)
        return dataclasses.replace(pairs, content=content)

    def covered_cells(self, pairs: GrainSequence) -> Bool[Array, 'b finest']:
        """Which cells of the finest grid the pairs `[b, 1]` name."""
        blocks = np.stack([self.sequences.block_numbers(segment) for segment in range(self.sequences.num_segments)])
        return jnp.asarray(blocks)[pairs.segment[:, 0]] == pairs.position

    def _numbers(self, kind: str) -> Int[Array, ' p']:
        return jnp.asarray([getattr(words, kind) for words in self.sequences.positions])
