"""Generators whose network is a causal transformer over a condition and then the tokens.

Position p predicts token p: the input of position 0 is the last vector of the condition's prefix, that of position p
the embedding of token p - 1.
"""

import abc
import dataclasses
from typing import Any

import flax.linen as nn
import flax.struct
import flax.traverse_util
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vistok.errors import UserError
from vistok.generators.autoregressive import kv_cache
from vistok.generators.autoregressive.decoding import Autoregressive, DecodeStep
from vistok.generators.autoregressive.kv_cache import KVCache
from vistok.generators.autoregressive.speculative_decoding import speculative_jacobi_decode
from vistok.generators.autoregressive.transformer import CausalTransformer, DecoderState, Linear, causal_context
from vistok.generators.autoregressive.unstack_layers import unstack_layers
from vistok.generators.cross_entropy import CrossEntropy, cross_entropy
from vistok.generators.generator import Condition, SampleConfig, TextFeatures, Variables
from vistok.generators.sampling import row_keys
from vistok.tokenizers.tokenizer import Tokens


@flax.struct.dataclass
class ConditionPrefix:
    """A condition as the decoder sees it.

    Attributes:
      vectors: `[b, p, d]`.
      allowed: which of them may be attended to, `[b, p]`; None means all.
    """

    vectors: Any
    allowed: Any = None


@flax.struct.dataclass
class DecoderCache:
    """What a walk carries from step to step.

    Attributes:
      entries: keys and values of the decoder.
      taken: positions that have been predicted, a scalar.
      start: input of the first position, `[b, d]`.
      allowed: slots that may be attended to, `[b, m]`; None means all.
      inner: what a second decoder carries from sub-codebook to sub-codebook.
    """

    entries: KVCache
    position: Any
    start: Any
    allowed: Any = None
    inner: Any = None


class ConditionedDecoder(nn.Module):
    """The network.  Subclasses say what a prefix, an embedding and a logit are.

    Attributes:
      codebook_sizes: of the ids.
      grid: rows and columns of the tokens.
      layers: blocks of the decoder.
      heads: their attention heads.
      width: of the decoder.
      mlp_width: hidden width of the MLPs; None is the usual one.
      style: of the blocks, 'llama' or 'gpt'.
      dropout: of the inputs and inside the blocks.
      remat: whether the backward pass computes the blocks again.
      dtype: computation type.
      cache_dtype: type of keys and values between steps.
      prefix_length: vectors of a condition.
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
        """The decoder and the heads."""
        self.decoder = CausalTransformer(
            self.layers, self.heads, self.mlp_width, self.style, self.dropout, self.remat, self.dtype
        )
        self.drop = nn.Dropout(self.dropout)
        self.output = [self.make_output(size) for size in self.codebook_sizes]

    def make_output(self, codebook_size: int) -> nn.Module:
        """The head of one sub-codebook; it starts at zero, so the first loss is that of a uniform guess."""
        return Linear(codebook_size, dtype=self.dtype, result=jnp.float32, kernel_init=nn.initializers.zeros)

    def prefix(self, cond: Condition) -> ConditionPrefix:
        """The condition."""
        raise NotImplementedError

    def embed(self, ids: Int[Array, 'b n k']) -> Float[Array, 'b n d']:
        """The tokens."""
        raise NotImplementedError

    def final_norm(self, x: Float[Array, '*b d']) -> Float[Array, '*b d']:
        """The last norm."""
        raise NotImplementedError

    def rotation(self) -> Any:
        """Rotary table of all slots, or None."""
        return None

    def add_positions(self, x: Float[Array, 'b n d'], first: Int[Array, ''] | int) -> Float[Array, 'b n d']:
        """Inputs of slots `first`, `first + 1`, ..., with what tells their positions."""
        return x

    def null_caption(self) -> Any:
        """The caption of no caption."""
        raise NotImplementedError

    def features(self, ids: Int[Array, 'b n k'], cond: Condition, *, train: bool = False) -> Float[Array, 'b n d']:
        """What the decoder says at the first n positions, in one pass."""
        prefix = self.prefix(cond)
        x = self.add_positions(jnp.concatenate([prefix.vectors, self.embed(ids[:, :-1])], axis=1), 0)
        x = self.drop(x, deterministic=not train)
        length, allowed = x.shape[1], _padded(prefix.allowed, x.shape[1])
        x = self.decoder(DecoderState(x), causal_context(0, length, length, self.rotation(), allowed), train=train).x
        return x[:, self.prefix_length - 1 :]

    def hidden(self, ids: Int[Array, 'b n k'], cond: Condition, *, train: bool = False) -> Float[Array, 'b n k d']:
        """What the heads see at the first n positions."""
        return self.final_norm(self.features(ids, cond, train=train))[:, :, None]

    def logits(self, ids: Int[Array, 'b n k'], cond: Condition) -> tuple[Float[Array, 'b n K'], ...]:
        """Of every position, for each sub-codebook; for small cases only."""
        hidden = self.hidden(ids, cond)
        return tuple(output(hidden[:, :, codebook_index]) for codebook_index, output in enumerate(self.output))

    def init_cache(self, cond: Condition) -> DecoderCache:
        """An empty cache, apart from the prefix."""
        prefix = self.prefix(cond)
        rows, length, width = prefix.vectors.shape
        capacity = length - 1 + self.grid[0] * self.grid[1]
        entries = kv_cache.empty(self.layers, rows, self.heads, capacity, width // self.heads, self.cache_dtype)
        allowed = _padded(prefix.allowed, capacity)
        x = self.add_positions(prefix.vectors, 0)
        if length > 1:
            at = causal_context(0, length - 1, capacity, self.rotation(), allowed)
            entries = self.decoder(DecoderState(x[:, :-1], entries), at).cache
        return DecoderCache(entries, jnp.zeros((), jnp.int32), prefix.vectors[:, -1], allowed)

    def decode(self, cache: DecoderCache, ids: Int[Array, 'b n k']) -> DecoderState:
        """What the decoder says at the next n positions, whose inputs are `ids`, and the next cache."""
        n = ids.shape[1]
        number = cache.position + jnp.arange(n)[:, None]
        first = self.prefix_length - 1 + cache.position
        x = self.add_positions(jnp.where(number == 0, cache.start[:, None], self.embed(ids)), first)
        at = causal_context(first, n, cache.entries.capacity, self.rotation(), cache.allowed)
        state = self.decoder(DecoderState(x, cache.entries), at)
        return DecoderState(state.x, dataclasses.replace(cache, entries=state.cache, position=cache.position + n))

    def next_logits(self, cache: DecoderCache, ids: Int[Array, 'b n k']) -> DecodeStep:
        """Logits `[b, n, K]` of the next n positions, where a position has one id."""
        state = self.decode(cache, ids)
        return DecodeStep(state.cache, self.output[0](self.final_norm(state.x)))

    def step(self, cache: DecoderCache, ids: Int[Array, 'b k'], codebook_index: int) -> DecodeStep:
        """See `Autoregressive.step`."""
        step = self.next_logits(cache, ids[:, None])
        return DecodeStep(step.cache, step.logits[:, 0])


@dataclasses.dataclass(frozen=True)
class DecoderOnlyGenerator(Autoregressive):
    """The generator around a `ConditionedDecoder`.

    Attributes:
      layers, heads, width, mlp_width, remat, dtype: of the network.
      dropout: in training.
      cache_dtype: of keys and values when sampling: None is `dtype`; `jnp.int8` halves the memory again.
    """

    layers: int = 12
    heads: int = 12
    width: int = 768
    mlp_width: int | None = None
    dropout: float = 0.1
    remat: bool = False
    dtype: Any = jnp.float32
    cache_dtype: Any = None

    @property
    @abc.abstractmethod
    def network(self) -> ConditionedDecoder:
        """The network."""

    @property
    def empty_condition(self) -> Condition:
        """One condition, for shapes."""
        return jnp.zeros((1,), jnp.int32)

    def _sizes(self) -> dict[str, Any]:
        """Arguments of the network that all share."""
        return {
            'codebook_sizes': self.spec.codebook_sizes,
            'grid': self.grid,
            'layers': self.layers,
            'heads': self.heads,
            'width': self.width,
            'mlp_width': self.mlp_width,
            'dropout': self.dropout,
            'remat': self.remat,
            'dtype': self.dtype,
            'cache_dtype': self.cache_dtype or self.dtype,
        }

    def _apply(self, variables: Variables, method: str, *args: Any, **kwargs: Any) -> Any:
        return self.network.apply(variables, *args, method=method, **kwargs)

    def init(self, rng: jax.Array) -> Variables:
        """Fresh variables."""
        ids = jnp.zeros((1, 2, len(self.spec.codebook_sizes)), jnp.int32)
        return dict(self.network.init(rng, ids, self.empty_condition, method='logits'))

    def null_condition(self, variables: Variables, cond: Condition) -> Condition:
        """Label `num_classes`, or the null caption with the padding of the captions it stands for."""
        if isinstance(cond, TextFeatures):
            caption = self._apply(variables, 'null_caption')
            return TextFeatures(jnp.broadcast_to(caption, cond.features.shape).astype(cond.features.dtype), cond.mask)
        return jnp.full_like(cond, self.num_classes)

    def inputs(self, ids: Int[Array, 'b n k'], rng: jax.Array, *, train: bool) -> Int[Array, 'b n k']:
        """The ids as the network sees them, which may be damaged in training."""
        return ids

    def cross_entropies(
        self, variables: Variables, ids: Int[Array, 'b n k'], cond: Condition, rng: jax.Array, *, train: bool
    ) -> tuple[CrossEntropy, ...]:
        """See `Autoregressive.cross_entropies`."""
        for_inputs, for_dropout = jax.random.split(rng)
        seen = self.inputs(ids, for_inputs, train=train)
        hidden = self._apply(variables, 'hidden', seen, cond, train=train, rngs={'dropout': for_dropout})
        return tuple(
            self.head_cross_entropy(variables, codebook_index, hidden[:, :, codebook_index], ids[:, :, codebook_index])
            for codebook_index in range(ids.shape[-1])
        )

    def head_cross_entropy(
        self, variables: Variables, codebook_index: int, hidden: Float[Array, 'b n d'], targets: Int[Array, 'b n']
    ) -> CrossEntropy:
        """Of one sub-codebook's ids, given what its head sees."""
        return cross_entropy(hidden, head_kernel(variables, f'output_{codebook_index}'), targets)

    def init_cache(self, variables: Variables, cond: Condition) -> DecoderCache:
        """See `Autoregressive.init_cache`."""
        return self._apply(variables, 'init_cache', cond)

    def step(
        self, variables: Variables, cache: DecoderCache, ids: Int[Array, 'b k'], codebook_index: int = 0
    ) -> DecodeStep:
        """See `Autoregressive.step`."""
        return self._apply(variables, 'step', cache, ids, codebook_index=codebook_index)

    def next_logits(self, variables: Variables, cache: DecoderCache, ids: Int[Array, 'b n k']) -> DecodeStep:
        """Logits `[b, n, K]` of the next n positions, whose inputs are `ids`, where a position has one id."""
        return self._apply(variables, 'next_logits', cache, ids)

    def sample(
        self,
        variables: Variables,
        cond: Condition,
        rng: jax.Array,
        sample_ids: Int[Array, ' b'],
        config: SampleConfig,
    ) -> Tokens:
        """See `Generator.sample`."""
        if config.window < 2:
            return super().sample(variables, cond, rng, sample_ids, config)
        if len(self.spec.codebook_sizes) > 1:
            raise UserError(f'a window of guesses needs one id per position, here are {len(self.spec.codebook_sizes)}')
        variables = self.prepare_for_sampling(variables)
        null = self.null_for_guidance(variables, cond) if config.guidance_scale != 1 else None
        ids = speculative_jacobi_decode(self, variables, cond, null, row_keys(rng, sample_ids), config).ids
        return Tokens(ids.reshape(len(ids), *self.grid, 1))

    def prepare_for_sampling(self, variables: Variables) -> Variables:
        """Matrices in the computation type, so that each step reads them once and does not convert them.

        On a CPU, where products with few rows are bound by memory, each layer's lie on their own.
        """
        flat = flax.traverse_util.flatten_dict(variables)
        for path, x in flat.items():
            if path[0] == 'params' and path[-1] in ('kernel', 'rows', 'embedding') and x.dtype == jnp.float32:
                flat[path] = x.astype(self.dtype)
        converted = flax.traverse_util.unflatten_dict(flat)
        return unstack_layers(converted) if jax.default_backend() == 'cpu' else converted


def head_kernel(variables: Variables, *path: str) -> jax.Array:
    """The matrix of a head; see `Linear` for the scales."""
    kernel, scales = variables['params'], variables.get('scales')
    for name in path:
        kernel, scales = kernel[name], (scales or {}).get(name)
    return kernel['kernel'] if scales is None else kernel['kernel'].astype(jnp.float32) * scales['kernel']


def _padded(allowed: Any, length: int) -> Any:
    """Slots after the prefix may always be attended to."""
    return None if allowed is None else jnp.pad(allowed, ((0, 0), (0, length - allowed.shape[1])), constant_values=True)
