"""Decoder-only transformer over a condition and then the tokens.

Position p predicts token p: its input is the last vector of the condition's prefix for p = 0, else the embedding of
token p - 1.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vistok.generators.autoregressive import kv_cache
from vistok.generators.autoregressive.decoding import DecodeStep
from vistok.generators.autoregressive.kv_cache import KVCache
from vistok.generators.autoregressive.transformer import CausalTransformer, DecoderState, Linear, causal_context
from vistok.generators.generator import Condition
from vistok.networks.dropout import Dropout


@flax.struct.dataclass
class ConditionPrefix:
    """Condition as inputs of the decoder.

    Attributes:
      vectors: inputs, `[b, p, d]`.
      allowed: vectors that may be attended to, `[b, p]`; None: all.
    """

    vectors: Any
    allowed: Any = None


@flax.struct.dataclass
class DecoderCache:
    """Decoding cache that is passed from step to step.

    Attributes:
      kv: keys and values of the decoder.
      position: number of positions that have been predicted, a scalar.
      start: input of the first position, `[b, d]`.
      allowed: cache positions that may be attended to, `[b, m]`; None: all.
      inner: keys and values of a second decoder over the sub-codebooks of one position.
    """

    kv: KVCache
    position: Any
    start: Any
    allowed: Any = None
    inner: Any = None


class ConditionedDecoder(nn.Module):
    """Causal transformer that predicts tokens after a condition; subclasses define prefix, embedding and last norm.

    Attributes:
      codebook_sizes: codewords of each sub-codebook.
      grid: rows and columns of the tokens.
      layers: blocks of the decoder.
      heads: attention heads.
      width: channels of the decoder.
      mlp_width: hidden width of the MLPs; None: the usual one, see `CausalTransformer`.
      style: of the blocks, 'llama' or 'gpt'.
      dropout: dropout rate of the inputs and inside the blocks.
      remat: whether the backward pass recomputes the blocks.
      dtype: computation type.
      cache_dtype: type of keys and values between steps.
      prefix_length: number of vectors of a condition.
    """

    codebook_sizes: tuple[int, ...]
    grid: tuple[int, int]
    layers: int
    heads: int
    width: int
    mlp_width: int | None
    style: str
    dropout: float
    remat: bool
    dtype: Any
    cache_dtype: Any
    prefix_length: int

    def setup(self) -> None:
        self.decoder = CausalTransformer(
            self.layers, self.heads, self.mlp_width, self.style, self.dropout, self.remat, self.dtype
        )
        self.drop = Dropout(self.dropout)
        self.output = [self.make_output(size) for size in self.codebook_sizes]

    def make_output(self, codebook_size: int) -> nn.Module:
        """Creates the head of one sub-codebook; it starts at zero, so the first loss is that of a uniform guess."""
        return Linear(codebook_size, dtype=self.dtype, result=jnp.float32, kernel_init=nn.initializers.zeros)

    def prefix(self, cond: Condition) -> ConditionPrefix:
        """Embeds the condition as vectors before the tokens."""
        raise NotImplementedError

    def embed(self, ids: Int[Array, 'b n k']) -> Float[Array, 'b n d']:
        """Embeds the ids of each position."""
        raise NotImplementedError

    def final_norm(self, x: Float[Array, '*b d']) -> Float[Array, '*b d']:
        """Normalizes the features before the heads."""
        raise NotImplementedError

    def rotation(self) -> Any:
        """Returns the rotary table of all positions, or None."""
        return None

    def add_positions(self, x: Float[Array, 'b n d'], first: Int[Array, ''] | int) -> Float[Array, 'b n d']:
        """Adds learned positional embeddings to the inputs at positions `first`, `first + 1`, ...; by default none."""
        return x

    def null_caption(self) -> Any:
        """Returns the caption that stands for no caption."""
        raise NotImplementedError

    def features(self, ids: Int[Array, 'b n k'], cond: Condition, *, train: bool = False) -> Float[Array, 'b n d']:
        """Computes the decoder's features of the first n positions in one pass."""
        prefix = self.prefix(cond)
        x = self.add_positions(jnp.concatenate([prefix.vectors, self.embed(ids[:, :-1])], axis=1), 0)
        x = self.drop(x, deterministic=not train)
        length, allowed = x.shape[1], _pad_mask(prefix.allowed, x.shape[1])
        x = self.decoder(DecoderState(x), causal_context(0, length, length, self.rotation(), allowed), train=train).x
        return x[:, self.prefix_length - 1 :]

    def head_inputs(self, ids: Int[Array, 'b n k'], cond: Condition, *, train: bool = False) -> Float[Array, 'b n k d']:
        """Computes the inputs of each head at the first n positions."""
        return self.final_norm(self.features(ids, cond, train=train))[:, :, None]

    def logits(self, ids: Int[Array, 'b n k'], cond: Condition) -> tuple[Float[Array, 'b n K'], ...]:
        """Computes the logits of all positions for each sub-codebook; for small cases only."""
        hidden = self.head_inputs(ids, cond)
        return tuple(output(hidden[:, :, codebook_index]) for codebook_index, output in enumerate(self.output))

    def init_cache(self, cond: Condition) -> DecoderCache:
        """Creates a cache that contains the prefix and nothing else."""
        prefix = self.prefix(cond)
        rows, length, width = prefix.vectors.shape
        capacity = length - 1 + self.grid[0] * self.grid[1]
        kv = kv_cache.empty(self.layers, rows, self.heads, capacity, width // self.heads, self.cache_dtype)
        allowed = _pad_mask(prefix.allowed, capacity)
        x = self.add_positions(prefix.vectors, 0)
        if length > 1:
            at = causal_context(0, length - 1, capacity, self.rotation(), allowed)
            kv = self.decoder(DecoderState(x[:, :-1], kv), at).cache
        return DecoderCache(kv, jnp.zeros((), jnp.int32), prefix.vectors[:, -1], allowed)

    def decode(self, cache: DecoderCache, ids: Int[Array, 'b n k']) -> DecoderState:
        """Computes the features of the next n positions, whose inputs are `ids`, and the next cache."""
        n = ids.shape[1]
        number = cache.position + jnp.arange(n)[:, None]
        first = self.prefix_length - 1 + cache.position
        x = self.add_positions(jnp.where(number == 0, cache.start[:, None], self.embed(ids)), first)
        at = causal_context(first, n, cache.kv.capacity, self.rotation(), cache.allowed)
        state = self.decoder(DecoderState(x, cache.kv), at)
        return DecoderState(state.x, dataclasses.replace(cache, kv=state.cache, position=cache.position + n))

    def next_logits(self, cache: DecoderCache, ids: Int[Array, 'b n k']) -> DecodeStep:
        """Computes the logits `[b, n, K]` of the next n positions, where a position has one id."""
        state = self.decode(cache, ids)
        return DecodeStep(state.cache, self.output[0](self.final_norm(state.x)))

    def step(self, cache: DecoderCache, ids: Int[Array, 'b k'], codebook_index: int) -> DecodeStep:
        """Computes the logits of the next id; see `Autoregressive.step`."""
        step = self.next_logits(cache, ids[:, None])
        return DecodeStep(step.cache, step.logits[:, 0])


def _pad_mask(allowed: Any, length: int) -> Any:
    """Extends a mask of the prefix to all positions; the tokens after it may always be attended to."""
    return None if allowed is None else jnp.pad(allowed, ((0, 0), (0, length - allowed.shape[1])), constant_values=True)
