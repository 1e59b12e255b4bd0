"""Causal transformer: one pass over a whole sequence for training, or a few positions at a time with a cache.

Both run the same code over the same parameters.  Layers are stacked on a leading axis and scanned over, so that a
program is compiled for one layer; decoding on a CPU uses unstacked layers (`unstack_layers.py`).
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vistok.errors import UserError
from vistok.generators.autoregressive.kv_cache import LayerKV
from vistok.generators.autoregressive.rotary import rotate
from vistok.generators.autoregressive.unstack_layers import STACK
from vistok.networks.dropout import Dropout
from vistok.networks.norms import LayerNorm

STYLES = ('llama', 'gpt')
NORMAL = nn.initializers.normal(0.02)


@flax.struct.dataclass
class AttentionContext:
    """Attention mask and positions of the n tokens of a pass, among m cache positions.

    Attributes:
      first: cache position of the first token, a scalar.
      visible: mask of the cache positions that a token attends to, `[1 or b, n, m]`.
      rotation: rotary table of the tokens, `[n, half, 2]`; None: no rotary embedding.
    """

    first: Any
    visible: Any
    rotation: Any = None


def causal_context(
    first: Int[Array, ''] | int,
    count: int,
    capacity: int,
    table: Any = None,
    allowed: Bool[Array, 'b m'] | None = None,
) -> AttentionContext:
    """Creates the context of tokens at `first`, `first + 1`, ..., each of which attends up to its own position.

    Args:
      first: cache position of the first token; `first + count` is at most `capacity`.
      count: number of tokens.
      capacity: number of cache positions.
      table: rotary table of all cache positions (or more).
      allowed: cache positions that other tokens may attend to (padding may be attended to by itself only).
    """
    first = jnp.asarray(first, jnp.int32)
    own, cache_position = first + jnp.arange(count)[:, None], jnp.arange(capacity)
    visible = (cache_position <= own)[None]
    if allowed is not None:
        visible = visible & (allowed[:, None] | (cache_position == own))
    rotation = None if table is None else jax.lax.dynamic_slice_in_dim(jnp.asarray(table), first, count)
    return AttentionContext(first, visible, rotation)


class Linear(nn.Module):
    """Linear layer x W (+ b), also with int8 or transposed weights.

    W is the parameter 'kernel', or the transpose of the parameter 'rows' (see `unstack_layers.py`).  Where the
    collection 'scales' has an entry for W, W contains integers and each column is multiplied by its scale.

    Attributes:
      features: width of the result.
      bias: whether a bias is added.
      dtype: type of the product.
      result: type of the result; None: `dtype`.
      kernel_init: initializer of W.
    """

    features: int
    bias: bool = False
    dtype: Any = jnp.float32
    result: Any = None
    kernel_init: Any = NORMAL

    @nn.compact
    def __call__(self, x: Float[Array, '*b i']) -> Float[Array, '*b o']:
        """Applies the linear map to the last axis."""
        dtype = self.result or self.dtype
        turned = self.has_variable('params', 'rows')
        kernel: Any = (
            self.get_variable('params', 'rows')
            if turned
            else self.param('kernel', self.kernel_init, (x.shape[-1], self.features))
        )
        along = (((x.ndim - 1,), (int(turned),)), ((), ()))
        y = jax.lax.dot_general(x.astype(self.dtype), kernel.astype(self.dtype), along, preferred_element_type=dtype)
        if self.has_variable('scales', 'kernel'):
            y = y * self.get_variable('scales', 'kernel').astype(dtype)
        if self.bias:
            y = y + self.param('bias', nn.initializers.zeros, (self.features,)).astype(dtype)
        return y


def attend(
    q: Float[Array, 'b n h c'],
    kv: LayerKV,
    visible: Bool[Array, 'one_or_b n m'],
    drop: Callable[[jax.Array], jax.Array] | None = None,
) -> Float[Array, 'b n h c']:
    """Computes softmax attention to cached keys and values, whose weights pass through `drop`, in float32."""
    scores = jnp.einsum(
        'bnhc,bhmc->bhnm', q, kv.keys.astype(q.dtype), preferred_element_type=jnp.float32
    ) * q.shape[-1] ** -0.5  # fmt: skip
    if kv.key_scales is not None:
        scores = scores * kv.key_scales[:, :, None]
    weights = nn.softmax(jnp.where(visible[:, None], scores, -jnp.inf))
    if drop is not None:
        weights = drop(weights)
    if kv.value_scales is not None:
        weights = weights * kv.value_scales[:, :, None]
    return jnp.einsum('bhnm,bhmc->bnhc', weights.astype(q.dtype), kv.values.astype(q.dtype))


@flax.struct.dataclass
class DecoderState:
    """State that passes through the layers: features x of tokens `[b, n, d]`, and a `KVCache` or None."""

    x: Any
    cache: Any = None


class CausalAttention(nn.Module):
    """Multi-head attention to the visible cache positions.

    Attributes:
      heads: attention heads; they divide the width.
      bias: whether linear layers have a bias.
      dtype: computation type.
      dropout: dropout rate of the attention weights.
      train: whether dropout is on.
    """

    heads: int
    bias: bool
    dtype: Any
    dropout: float = 0.0
    train: bool = False

    @nn.compact
    def __call__(self, state: DecoderState, at: AttentionContext, layer: Int[Array, '']) -> DecoderState:
        """Attends from each token and writes its keys and values to the cache."""
        b, n, d = state.x.shape
        qkv = Linear(3 * d, bias=self.bias, dtype=self.dtype, name='qkv')(state.x)
        q, k, v = jnp.moveaxis(qkv.reshape(b, n, 3, self.heads, d // self.heads), 2, 0)
        if at.rotation is not None:
            q, k = rotate(q, at.rotation), rotate(k, at.rotation)
        k, v = jnp.swapaxes(k, 1, 2), jnp.swapaxes(v, 1, 2)
        cache = None if state.cache is None else state.cache.write(layer, at.first, k, v)
        kv = LayerKV(k, v) if cache is None else cache.read(layer)
        drop = Dropout(self.dropout, deterministic=not self.train)
        seen = attend(q, kv, at.visible, drop).reshape(b, n, d)
        return DecoderState(Linear(d, bias=self.bias, dtype=self.dtype, name='out')(seen), cache)


class Block(nn.Module):
    """Pre-norm transformer block: x + attention(norm(x)), then x + mlp(norm(x)).

    Attributes:
      heads: attention heads.
      mlp_width: hidden width of the MLP.
      style: 'llama' (RMS norms, gated SiLU, no biases) or 'gpt' (layer norms, exact GELU, biases).
      dropout: dropout rate of both branches.
      train: whether dropout is on.
      dtype: computation type.
      attention_dropout: dropout rate of the attention weights.
    """

    heads: int
    mlp_width: int
    style: str
    dropout: float
    train: bool
    dtype: Any
    attention_dropout: float = 0.0

    @nn.compact
    def __call__(self, state: DecoderState, at: AttentionContext, layer: Int[Array, '']) -> tuple[DecoderState, None]:
        """Applies both branches; the signature is that of the body of a scan."""
        gpt = self.style == 'gpt'
        norm = functools.partial(LayerNorm if gpt else nn.RMSNorm, epsilon=1e-5, dtype=self.dtype)
        linear = functools.partial(Linear, bias=gpt, dtype=self.dtype)
        drop = Dropout(self.dropout, deterministic=not self.train)
        x = state.x

        attention = CausalAttention(self.heads, gpt, self.dtype, self.attention_dropout, self.train, name='attention')
        seen = attention(DecoderState(norm(name='attention_norm')(x), state.cache), at, layer)
        x = x + drop(seen.x)

        y = norm(name='mlp_norm')(x)
        if gpt:
            y = nn.gelu(linear(self.mlp_width, name='mlp_in')(y), approximate=False)
        else:
            y = nn.silu(linear(self.mlp_width, name='mlp_gate')(y)) * linear(self.mlp_width, name='mlp_in')(y)
        return DecoderState(x + drop(linear(x.shape[-1], name='mlp_out')(y)), seen.cache), None


class CausalTransformer(nn.Module):
    """Stack of causal transformer blocks.

    Attributes:
      layers: blocks.
      heads: attention heads.
      mlp_width: hidden width of the MLPs; None: 4 times the width ('gpt'), or 2/3 of that, rounded up to a multiple of
        256 ('llama').
      style: style of the blocks, 'llama' or 'gpt'.
      dropout: dropout rate inside the blocks.
      remat: whether the backward pass recomputes the blocks instead of storing their activations.
      dtype: computation type.
      attention_dropout: dropout rate of the attention weights.
    """

    layers: int
    heads: int
    mlp_width: int | None = None
    style: str = 'llama'
    dropout: float = 0.0
    remat: bool = False
    dtype: Any = jnp.float32
    attention_dropout: float = 0.0

    @nn.compact
    def __call__(self, state: DecoderState, at: AttentionContext, *, train: bool = False) -> DecoderState:
        """Applies all blocks to a whole sequence (no cache) or to the next positions (with a cache)."""
        width = state.x.shape[-1]
        if width % self.heads:
            raise UserError(f'width {width} is not a multiple of heads {self.heads}')
        if self.style not in STYLES:
            raise UserError(f'unknown style {self.style!r}; known: {", ".join(STYLES)}')
        mlp_width = self.mlp_width or (4 * width if self.style == 'gpt' else -(-(8 * width // 3) // 256) * 256)
        settings = (self.heads, mlp_width, self.style, self.dropout, train, self.dtype, self.attention_dropout)
        if self.has_variable('params', f'{STACK}_0'):
            for i in range(self.layers):
                own = Block(*settings, name=f'{STACK}_{i}')
                state, _ = own(state, at, jnp.asarray(i))
            return state
        block = nn.remat(Block, prevent_cse=False) if self.remat and train else Block
        stack = nn.scan(
            block,
            variable_axes={'params': 0, 'scales': 0},
            split_rngs={'params': True, 'dropout': True},
            in_axes=(nn.broadcast, 0),
            length=self.layers,
        )
        blocks = stack(*settings, name=STACK)
        return blocks(state, at, jnp.arange(self.layers))[0]
