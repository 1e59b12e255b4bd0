"""Generators around a decoder-only transformer: training in one pass, sampling with a key-value cache."""

import abc
import dataclasses
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vistok.errors import UserError
from vistok.generators.autoregressive.base import Autoregressive
from vistok.generators.autoregressive.conditioned_decoder import ConditionedDecoder, DecoderCache
from vistok.generators.autoregressive.decoding import DecodeStep
from vistok.generators.autoregressive.speculative_decoding import speculative_jacobi_decode
from vistok.generators.autoregressive.unstack_layers import unstack_layers
from vistok.generators.cross_entropy import CrossEntropy, cross_entropy
from vistok.generators.generator import Condition, SampleConfig, TextFeatures, Variables
from vistok.generators.sampling import row_keys
from vistok.tokenizers.tokenizer import Tokens


@dataclasses.dataclass(frozen=True)
class DecoderOnlyGenerator(Autoregressive):
    """Generator around a decoder-only transformer, a `ConditionedDecoder`.

    Attributes:
      layers, heads, width, mlp_width, remat, dtype: of the network.
      dropout: dropout rate in training.
      cache_dtype: type of keys and values in sampling; None: `dtype`; `jnp.int8` halves the memory of bfloat16.
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
        """Decoder-only transformer of this generator."""

    @property
    def empty_condition(self) -> Condition:
        """Condition of one row, for shapes."""
        return jnp.zeros((1,), jnp.int32)

    def _sizes(self) -> dict[str, Any]:
        """Returns the arguments of the network that all generators share."""
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
        ids = jnp.zeros((1, 2, len(self.spec.codebook_sizes)), jnp.int32)
        return dict(self.network.init(rng, ids, self.empty_condition, method='logits'))

    def null_condition(self, variables: Variables, cond: Condition) -> Condition:
        """Returns label `num_classes`, or the null caption with the padding of the captions it replaces."""
        if isinstance(cond, TextFeatures):
            caption = self._apply(variables, 'null_caption')
            return TextFeatures(jnp.broadcast_to(caption, cond.features.shape).astype(cond.features.dtype), cond.mask)
        return jnp.full_like(cond, self.num_classes)

    def corrupt_inputs(self, ids: Int[Array, 'b n k'], rng: jax.Array, *, train: bool) -> Int[Array, 'b n k']:
        """Replaces input ids by noise in training, where a generator does so; by default returns them unchanged."""
        return ids

    def cross_entropies(
        self, variables: Variables, ids: Int[Array, 'b n k'], cond: Condition, rng: jax.Array, *, train: bool
    ) -> tuple[CrossEntropy, ...]:
        for_inputs, for_dropout = jax.random.split(rng)
        seen = self.corrupt_inputs(ids, for_inputs, train=train)
        hidden = self._apply(variables, 'head_inputs', seen, cond, train=train, rngs={'dropout': for_dropout})
        return tuple(
            self.head_cross_entropy(variables, codebook_index, hidden[:, :, codebook_index], ids[:, :, codebook_index])
            for codebook_index in range(ids.shape[-1])
        )

    def head_cross_entropy(
        self, variables: Variables, codebook_index: int, hidden: Float[Array, 'b n d'], targets: Int[Array, 'b n']
    ) -> CrossEntropy:
        """Computes the cross-entropy of one sub-codebook's ids from the inputs of its head."""
        return cross_entropy(hidden, head_kernel(variables, f'output_{codebook_index}'), targets)

    def init_cache(self, variables: Variables, cond: Condition) -> DecoderCache:
        return self._apply(variables, 'init_cache', cond)

    def step(
        self, variables: Variables, cache: DecoderCache, ids: Int[Array, 'b k'], codebook_index: int = 0
    ) -> DecodeStep:
        return self._apply(variables, 'step', cache, ids, codebook_index=codebook_index)

    def next_logits(self, variables: Variables, cache: DecoderCache, ids: Int[Array, 'b n k']) -> DecodeStep:
        """Computes the logits `[b, n, K]` of the next n positions, whose inputs are `ids`; for one id per position."""
        return self._apply(variables, 'next_logits', cache, ids)

    def sample(
        self,
        variables: Variables,
        cond: Condition,
        rng: jax.Array,
        sample_ids: Int[Array, ' b'],
        config: SampleConfig,
    ) -> Tokens:
        """Samples token by token, or with `config.window` by speculative Jacobi decoding."""
        if config.window < 2:
            return super().sample(variables, cond, rng, sample_ids, config)
        if len(self.spec.codebook_sizes) > 1:
            raise UserError(f'a window of guesses needs one id per position, here are {len(self.spec.codebook_sizes)}')
        variables = self.prepare_for_sampling(variables)
        null = self.guidance_condition(variables, cond, config)
        ids = speculative_jacobi_decode(self, variables, cond, null, row_keys(rng, sample_ids), config).ids
        return Tokens(ids.reshape(len(ids), *self.grid, 1))

    def prepare_for_sampling(self, variables: Variables) -> Variables:
        """Casts matrices to the computation type, so that decoding steps read them without converting them.

        On a CPU, where products with few rows are bound by memory, the layers are unstacked too.
        """
        flat = flax.traverse_util.flatten_dict(variables)
        for path, x in flat.items():
            if path[0] == 'params' and path[-1] in ('kernel', 'rows', 'embedding') and x.dtype == jnp.float32:
                flat[path] = x.astype(self.dtype)
        converted = flax.traverse_util.unflatten_dict(flat)
        return unstack_layers(converted) if jax.default_backend() == 'cpu' else converted


def head_kernel(variables: Variables, *path: str) -> jax.Array:
    """Returns the matrix of a head, dequantized where it is int8 (see `Linear`)."""
    kernel, scales = variables['params'], variables.get('scales')
    for name in path:
        kernel, scales = kernel[name], (scales or {}).get(name)
    return kernel['kernel'] if scales is None else kernel['kernel'].astype(jnp.float32) * scales['kernel']
