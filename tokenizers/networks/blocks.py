"""Blocks of convolutional autoencoders: norms, residual blocks, attention, resampling.

Esser et al., "Taming Transformers for High-Resolution Image Synthesis" (2021); the norms modulated by codewords are of
Zheng et al., "MoVQ: Modulating Quantized Vectors for High-Fidelity Image Generation" (2022).
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vistok.errors import UserError
from vistok.networks.convolution import Conv, Dense
from vistok.networks.norms import GroupNorm

# Attention weights of one image: 8 MiB, which a processor keeps at hand; with 8 times as many, attention over 16,384
# positions took twice as long.
_WEIGHTS_AT_ONCE = 2**21


class SpatialNorm(nn.Module):
    """Group normalization whose scale and offset at each position are linear in the codeword there.

    Zheng et al., "MoVQ: Modulating Quantized Vectors for High-Fidelity Image Generation" (2022), section 3.2.

    Attributes:
      dtype: computation type.
    """

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], z_q: Float[Array, 'b i j e']) -> Float[Array, 'b h w c']:
        """Normalizes `x`; `z_q` is brought to its grid by repeating or skipping positions."""
        z_q = match_grid(x, z_q)
        factor, offset = (Dense(x.shape[-1], dtype=self.dtype, name=name)(z_q) for name in ('factor', 'offset'))
        return GroupNorm(dtype=self.dtype, name='norm')(x) * factor + offset


class ResBlock(nn.Module):
    """Residual block: norm, swish, convolution, twice; the shortcut is a 1x1 projection where the width changes.

    Attributes:
      channels: width of the output.
      use_bias: whether the convolutions have biases.
      dtype: computation type.
    """

    channels: int
    use_bias: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, 'b h w c'], z_q: Float[Array, 'b i j e'] | None = None
    ) -> Float[Array, 'b h w d']:
        """Applies the block; with codewords `z_q` its norms are modulated by them."""
        y = nn.swish(_norm(x, z_q, self.dtype, 'norm1'))
        y = Conv(self.channels, (3, 3), use_bias=self.use_bias, dtype=self.dtype, name='conv1')(y)
        y = nn.swish(_norm(y, z_q, self.dtype, 'norm2'))
        y = Conv(self.channels, (3, 3), use_bias=self.use_bias, dtype=self.dtype, name='conv2')(y)
        if x.shape[-1] != self.channels:
            x = Dense(self.channels, use_bias=self.use_bias, dtype=self.dtype, name='shortcut')(x)
        return x + y


class AttentionBlock(nn.Module):
    """Residual single-head attention over all positions; softmax in float32.

    Attributes:
      dtype: computation type.
    """

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, 'b h w c'], z_q: Float[Array, 'b i j e'] | None = None
    ) -> Float[Array, 'b h w c']:
        """Applies the block; with codewords `z_q` its norm is modulated by them."""
        b, h, w, c = x.shape
        y = _norm(x, z_q, self.dtype, 'norm').reshape(b, h * w, 1, c)
        q, k, v = (Dense(c, dtype=self.dtype, name=name)(y) for name in ('q', 'k', 'v'))
        return x + Dense(c, dtype=self.dtype, name='out')(attend(q, k, v).reshape(b, h, w, c))


def attend(
    q: Float[Array, 'b n heads c'], k: Float[Array, 'b m heads c'], v: Float[Array, 'b m heads c']
) -> Float[Array, 'b n heads c']:
    """Computes softmax attention, of many positions some queries at a time, so that memory stays bounded."""
    b, n, heads, c = q.shape
    at_once = max(_WEIGHTS_AT_ONCE // (heads * k.shape[1]), 1)
    if n <= at_once:
        return jax.nn.dot_product_attention(q, k, v)
    parts = -(-n // at_once)
    queries = jnp.pad(q, ((0, 0), (0, -n % parts), (0, 0), (0, 0))).reshape(b, parts, -1, heads, c)
    keys, values = jnp.einsum('bmhc->bhcm', k), jnp.einsum('bmhc->bhmc', v)
    values = jnp.concatenate([values, jnp.ones_like(values[..., :1])], axis=-1)  # the last one adds up the weights

    def some(part: Float[Array, 'b heads n c']) -> Float[Array, 'b heads n c']:
        logits = jnp.matmul(part, keys, preferred_element_type=jnp.float32) * c**-0.5
        weights = jnp.exp(logits - jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True)))
        sums = jnp.matmul(weights.astype(v.dtype), values, preferred_element_type=jnp.float32)
        return (sums[..., :-1] / sums[..., -1:]).astype(v.dtype)

    found = jax.lax.map(jax.checkpoint(some), jnp.einsum('bpnhc->pbhnc', queries))  # the weights are not kept either
    return jnp.einsum('pbhnc->bpnhc', found).reshape(b, -1, heads, c)[:, :n]


class Middle(nn.Module):
    """Residual block, attention and residual block at the coarsest grid.

    Attributes:
      dtype: computation type.
      remat: whether activations inside a block are computed again in the backward pass.
    """

    dtype: Any = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, 'b h w c'], z_q: Float[Array, 'b i j e'] | None = None
    ) -> Float[Array, 'b h w c']:
        """Applies the three blocks; with codewords `z_q` their norms are modulated by them."""
        res, attention = block_classes(self.remat)
        x = res(x.shape[-1], dtype=self.dtype, name='res_0')(x, z_q)
        x = attention(dtype=self.dtype, name='attention')(x, z_q)
        return res(x.shape[-1], dtype=self.dtype, name='res_1')(x, z_q)


def block_classes(remat: bool) -> tuple[Any, Any]:
    """Returns `ResBlock` and `AttentionBlock`, which with `remat` recompute their activations."""
    return (nn.remat(ResBlock), nn.remat(AttentionBlock)) if remat else (ResBlock, AttentionBlock)


def match_grid(x: Float[Array, 'b h w c'], z_q: Float[Array, 'b i j e']) -> Float[Array, 'b h w e']:
    """Resamples `z_q` to the grid of `x` (nearest neighbour): repeats positions, or keeps the first of each block."""
    for axis in (1, 2):
        here, there = z_q.shape[axis], x.shape[axis]
        if here > there:
            z_q = jax.lax.slice_in_dim(z_q, 0, here, here // there, axis)
        elif here < there:
            z_q = jnp.repeat(z_q, there // here, axis)
    return z_q


def upsample_nearest(x: Float[Array, 'b h w c']) -> Float[Array, 'b H W c']:
    """Repeats each pixel as a 2x2 square (a broadcast, which the following convolution can read through)."""
    b, h, w, c = x.shape
    return jnp.broadcast_to(x[:, :, None, :, None], (b, h, 2, w, 2, c)).reshape(b, 2 * h, 2 * w, c)


def check_sides(sides: Sequence[int], factor: int) -> None:
    """Raises UserError unless every side is a positive multiple of `factor`."""
    if any(side % factor or side < factor for side in sides):
        raise UserError(f'image sides must be multiples of {factor}, got {tuple(sides)}')


def _norm(x: jax.Array, z_q: jax.Array | None, dtype: Any, name: str) -> jax.Array:
    """Applies the plain norm, or the one modulated by codewords."""
    return GroupNorm(dtype=dtype, name=name)(x) if z_q is None else SpatialNorm(dtype=dtype, name=name)(x, z_q)
