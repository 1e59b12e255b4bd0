"""Network of DQ-Transformer: a position stack, then a content stack, over sequences of (content, position) pairs."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vistok.generators.autoregressive.grain_sequence import GrainSequence
from vistok.generators.autoregressive.kv_cache import KVCache
from vistok.generators.autoregressive.transformer import (
    NORMAL,
    CausalTransformer,
    DecoderState,
    Linear,
    causal_context,
)
from vistok.networks.dropout import Dropout
from vistok.networks.norms import LayerNorm


class GrainNetwork(nn.Module):
    """Two causal transformers: one predicts the next position, the other the content at that position.

    Attributes:
      contents: size of the content vocabulary, specials included.
      positions: size of the position vocabulary of each segment.
      index_rows: rows of the table of sequence indices.
      position_layers: blocks of the position stack.
      content_layers: blocks of the content stack.
      heads: attention heads.
      width: of both stacks.
      dropout: of the inputs and inside the blocks.
      attention_dropout: of the attention weights.
      remat: whether the backward pass recomputes the blocks.
      dtype: computation type.
    """

    contents: int
    positions: tuple[int, ...]
    index_rows: int
    position_layers: int
    content_layers: int
    heads: int
    width: int
    dropout: float
    attention_dropout: float
    remat: bool
    dtype: Any

    def setup(self) -> None:
        rows = {'contents': self.contents, 'places': self.index_rows, 'parts': len(self.positions)}
        self.tables = {name: self.param(name, NORMAL, (count, self.width)) for name, count in rows.items()}
        self.position_tables = [
            self.param(f'positions_{segment}', NORMAL, (count, self.width))
            for segment, count in enumerate(self.positions)
        ]
        self.drop = Dropout(self.dropout)
        self.position_stack = self._stack(self.position_layers)
        self.content_stack = self._stack(self.content_layers)
        self.position_norm = LayerNorm(epsilon=1e-5, dtype=self.dtype)
        self.content_norm = LayerNorm(epsilon=1e-5, dtype=self.dtype)
        self.position_head = Linear(self.positions[-1], dtype=self.dtype, result=jnp.float32)
        self.content_head = Linear(self.contents, dtype=self.dtype, result=jnp.float32)

    def _stack(self, layers: int) -> CausalTransformer:
        return CausalTransformer(
            layers, self.heads, None, 'gpt', self.dropout, self.remat, self.dtype, self.attention_dropout
        )

    def embed_positions(self, position: Int[Array, 'b n'], segment: Int[Array, 'b n']) -> Float[Array, 'b n d']:
        """Embeds positions; each segment has its own table, while the head is shared (of the last segment's size)."""
        offsets = jnp.asarray([sum(self.positions[:i]) for i in range(len(self.positions))])
        return jnp.concatenate(self.position_tables)[offsets[segment] + position]

    def position_features(
        self, pairs: GrainSequence, cache: KVCache | None, first: Any, *, train: bool = False
    ) -> DecoderState:
        """Computes the output of the position stack after each of n pairs.

        Args:
          pairs: a whole sequence, or the next pairs.
          cache: keys and values of the pairs before; None for a whole sequence.
          first: cache position of the first pair.
          train: whether dropout is on.
        """
        x = self.tables['contents'][pairs.content] + self.embed_positions(pairs.position, pairs.segment)
        x = x + self.tables['places'][pairs.index] + self.tables['parts'][pairs.segment]
        x = self.drop(x.astype(self.dtype), deterministic=not train)
        return self._run(self.position_stack, DecoderState(x, cache), first, train)

    def content_features(
        self,
        state: DecoderState,
        position: Int[Array, 'b n'],
        segment: Int[Array, 'b n'],
        first: Any,
        *,
        train: bool = False,
    ) -> DecoderState:
        """Computes the output of the content stack, given the positions of the next pairs.

        Args:
          state: output of the position stack, with the cache of the content stack.
          position: of each next pair.
          segment: of each next pair.
          first: cache position of the first pair.
          train: whether dropout is on.
        """
        x = state.x + self.embed_positions(position, segment).astype(self.dtype)
        return self._run(self.content_stack, DecoderState(x, state.cache), first, train)

    def _run(self, stack: CausalTransformer, state: DecoderState, first: Any, train: bool) -> DecoderState:
        n = state.x.shape[1]
        capacity = n if state.cache is None else state.cache.capacity
        return stack(state, causal_context(first, n, capacity), train=train)

    def head_inputs(self, sequence: GrainSequence, *, train: bool = False) -> dict[str, Float[Array, 'b m d']]:
        """Computes the inputs of the heads 'position' and 'content' for the next pair, after all pairs but the last."""
        before = jax.tree.map(lambda x: x[:, :-1], sequence)
        state = self.position_features(before, None, 0, train=train)
        seen = self.content_features(state, sequence.position[:, 1:], sequence.segment[:, 1:], 0, train=train)
        return {'position': self.position_norm(state.x), 'content': self.content_norm(seen.x)}

    def logits(self, sequence: GrainSequence) -> dict[str, Float[Array, 'b m K']]:
        """Computes the logits of the next pair's position and content; all at once, so for small cases only."""
        inputs = self.head_inputs(sequence)
        return {
            'position': self.position_head(inputs['position']),
            'content': self.content_head(inputs['content']),
        }

    def position_logits(self, features: Float[Array, 'b d']) -> Float[Array, 'b K']:
        """Computes position logits from the output of the position stack."""
        return self.position_head(self.position_norm(features))

    def content_logits(self, features: Float[Array, 'b d']) -> Float[Array, 'b K']:
        """Computes content logits from the output of the content stack."""
        return self.content_head(self.content_norm(features))
