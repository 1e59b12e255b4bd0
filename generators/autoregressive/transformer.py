"""A causal transformer: one pass over a whole sequence for training, or a few positions at a time after a cache.

Both run the same code over the same parameters.  Layers are stacked on a leading axis and scanned over, so that a
program is compiled for one layer; steps on a CPU take them one by one (`separate_layers.py`).
"""

import functools
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

STYLES = ('llama', 'gpt')
NORMAL = nn.initializers.normal(0.02)


@flax.struct.dataclass
class AttentionContext:
    """Where the n tokens of a pass lie among the m slots that can be attended to.

    Attributes:
      first: slot of the first token, a scalar.
      visible: which slots a token attends to, `[1 or b, n, m]`.
      rotation: rotary table of the tokens, `[n, half, 2]`; None where positions are told otherwise.
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
    """Tokens at `first`, `first + 1`, ... each see the slots up to their own.

    Args:
      first: slot of the first token; `first + count` is at most `capacity`.
      count: tokens.
      slots: slots there are.
      table: rotary table of all slots (or more).
      allowed: slots that may be seen by other tokens than their own (padding may not).
    """
    first = jnp.asarray(first, jnp.int32)
    own, cache_position = first + jnp.arange(count)[:, None], jnp.arange(capacity)
    visible = (cache_position <= own)[None]
    if allowed is not None:
        visible = visible & (allowed[:, None] | (cache_position == own))
    rotation = None if table is None else jax.lax.dynamic_slice_in_dim(jnp.asarray(table), first, count)
    return AttentionContext(first, visible, rotation)


class Linear(nn.Module):
    """x W (+ b).  Where the collection 'scales' has an entry for W, W holds integers and each column is scaled.

    W is the parameter 'kernel', or the transpose of the parameter 'rows'; see `separate_layers.py`.

    Attributes:
      features: width of the result.
      bias: whether there is one.
      dtype: of the product.
      result: type of the result; None is `dtype`.
      kernel_init: of W.
    """

    features: int
    bias: bool = False
    dtype: Any = jnp.float32
    result: Any = None
    kernel_init: Any = NORMAL

    @nn.compact
    def __call__(self, x: Float[Array, '*b i']) -> Float[Array, '*b o']:
        """Multiplies."""
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
    q: Float[Array, 'b n h c'], entries: LayerKV, visible: Bool[Array, 'one_or_b n m']
) -> Float[Array, 'b n h c']:
    """Softmax attention over entries; scores and softmax in float32."""
    scores = jnp.einsum(
        'bnhc,bhmc->bhnm', q, entries.keys.astype(q.dtype), preferred_element_type=jnp.float32
    ) * q.shape[-1] ** -0.5  # fmt: skip
    if entries.key_scales is not None:
        scores = scores * entries.key_scales[:, :, None]
    weights = nn.softmax(jnp.where(visible[:, None], scores, -jnp.inf))
    if entries.value_scales is not None:
        weights = weights * entries.value_scales[:, :, None]
    return jnp.einsum('bhnm,bhmc->bnhc', weights.astype(q.dtype), entries.values.astype(q.dtype))


@flax.struct.dataclass
class DecoderState:
    """What goes through the layers: the tokens `[b, n, d]`, and the cache where there is one."""

    x: Any
    cache: Any = None


class CausalAttention(nn.Module):
    """Multi-head attention to the visible slots.

    Attributes:
      heads: attention heads; they divide the width.
      bias: whether the products have one.
      dtype: computation type.
    """

    heads: int
    bias: bool
    dtype: Any

    @nn.compact
    def __call__(self, state: DecoderState, at: AttentionContext, layer: Int[Array, '']) -> DecoderState:
        """What the tokens of the stream see, and the cache with their keys and values in it."""
        b, n, d = state.x.shape
        qkv = Linear(3 * d, bias=self.bias, dtype=self.dtype, name='qkv')(state.x)
        q, k, v = jnp.moveaxis(qkv.reshape(b, n, 3, self.heads, d // self.heads), 2, 0)
        if at.rotation is not None:
            q, k = rotate(q, at.rotation), rotate(k, at.rotation)
        k, v = jnp.swapaxes(k, 1, 2), jnp.swapaxes(v, 1, 2)
        cache = None if state.cache is None else state.cache.write(layer, at.first, k, v)
        entries = LayerKV(k, v) if cache is None else cache.read(layer)
        seen = attend(q, entries, at.visible).reshape(b, n, d)
        return DecoderState(Linear(d, bias=self.bias, dtype=self.dtype, name='out')(seen), cache)


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)).

    Attributes:
      heads: attention heads.
      mlp_width: hidden width of the MLP.
      style: 'llama' (RMS norms, gated SiLU, no biases) or 'gpt' (layer norms, exact GELU, biases).
      dropout: of what each branch adds.
      train: whether dropout is on.
      dtype: computation type.
    """

    heads: int
    mlp_width: int
    style: str
    dropout: float
    train: bool
    dtype: Any

    @nn.compact
    def __call__(self, state: DecoderState, at: AttentionContext, layer: Int[Array, '']) -> tuple[DecoderState, None]:
        """Applies both branches; the form is that of a scan's body."""
        gpt = self.style == 'gpt'
        norm = functools.partial(nn.LayerNorm if gpt else nn.RMSNorm, epsilon=1e-5, dtype=self.dtype)
        linear = functools.partial(Linear, bias=gpt, dtype=self.dtype)
        drop = nn.Dropout(self.dropout, deterministic=not self.train)
        x = state.x

        attention = CausalAttention(self.heads, gpt, self.dtype, name='attention')
        seen = attention(DecoderState(norm(name='attention_norm')(x), state.cache), at, layer)
        x = x + drop(seen.x)

        y = norm(name='mlp_norm')(x)
        if gpt:
            y = nn.gelu(linear(self.mlp_width, name='mlp_in')(y), approximate=False)
        else:
            y = nn.silu(linear(self.mlp_width, name='mlp_gate')(y)) * linear(self.mlp_width, name='mlp_in')(y)
        return DecoderState(x + drop(linear(x.shape[-1], name='mlp_out')(y)), seen.cache), None


class CausalTransformer(nn.Module):
    """A stack of blocks.

    Attributes:
      layers: blocks.
      heads: attention heads.
      mlp_width: hidden width of the MLPs; None: 4 times the width ('gpt'), or 2/3 of that, rounded up to a multiple of
        256 ('llama').
      style: of the blocks.
      dropout: inside the blocks.
      remat: whether a backward pass computes the blocks again instead of keeping what is inside them.
      dtype: computation type.
    """

    layers: int
    heads: int
    mlp_width: int | None = None
    style: str = 'llama'
    dropout: float = 0.0
    remat: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, state: DecoderState, at: AttentionContext, *, train: bool = False) -> DecoderState:
        """All blocks, over a whole sequence (no cache) or over the next positions (with a cache)."""
        width = state.x.shape[-1]
        if width % self.heads:
            raise UserError(f'width {width} is not a multiple of heads {self.heads}')
        if self.style not in STYLES:
            raise UserError(f'unknown style {self.style!r}; known: {", ".join(STYLES)}')
        mlp_width = self.mlp_width or (4 * width if self.style == 'gpt' else -(-(8 * width // 3) // 256) * 256)
        if self.has_variable('params', f'{STACK}_0'):
            for i in range(self.layers):
                own = Block(self.heads, mlp_width, self.style, self.dropout, train, self.dtype, name=f'{STACK}_{i}')
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
        blocks = stack(self.heads, mlp_width, self.style, self.dropout, train, self.dtype, name=STACK)
        return blocks(state, at, jnp.arange(self.layers))[0]
