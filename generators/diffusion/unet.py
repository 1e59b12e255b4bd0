"""U-Net of VQ-DDM: residual blocks and linear attention at every level.

Hu et al., "Global Context with Discrete Diffusion in Vector Quantised Modelling for Image Generation" (2022).  The
attention is that of Shen et al., "Efficient Attention" (2021), in the form without a softmax over the queries; its
branch is scaled by a number that starts at 0 (Bachlechner et al., "ReZero is All You Need", 2020).
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vistok.errors import UserError
from vistok.generators.diffusion.denoiser import ConditionEmbedding, NumberEmbedding, StateEmbedding
from vistok.networks.convolution import Conv, ConvTranspose, Dense
from vistok.networks.dropout import Dropout
from vistok.networks.norms import GroupNorm

_GROUPS = 8
_ATTENTION_HEADS = 4
_HEAD_WIDTH = 32


def _groups(width: int) -> int:
    """Returns the number of groups: 8, as in the paper, or the next smaller divisor of the width."""
    return next(groups for groups in range(min(_GROUPS, width), 0, -1) if width % groups == 0)


class ConvBlock(nn.Module):
    """Convolution block: convolution, group norm, Mish.

    Attributes:
      width: output channels.
      dtype: computation type.
    """

    width: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h w d']:
        """Applies convolution, norm and activation."""
        x = Conv(self.width, (3, 3), padding=1, dtype=self.dtype, name='conv')(x)
        return jax.nn.mish(GroupNorm(_groups(self.width), epsilon=1e-5, dtype=self.dtype, name='norm')(x))


class TimedResBlock(nn.Module):
    """Residual block of two convolution blocks, with the condition added between them.

    Attributes:
      width: output channels.
      dtype: computation type.
    """

    width: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], condition: Float[Array, 'b t']) -> Float[Array, 'b h w d']:
        """Applies the residual block."""
        y = ConvBlock(self.width, dtype=self.dtype, name='block1')(x)
        y = y + Dense(self.width, dtype=self.dtype, name='condition')(jax.nn.mish(condition))[:, None, None]
        y = ConvBlock(self.width, dtype=self.dtype, name='block2')(y)
        return y + (x if x.shape[-1] == self.width else Dense(self.width, dtype=self.dtype, name='shortcut')(x))


class LinearAttention(nn.Module):
    """Residual linear attention x + g * attention(x): keys and values are aggregated before queries read them.

    Its time is linear in the positions, its output quadratic in x: without a norm, stacked layers amplify large values.

    Attributes:
      norm: whether x is normalized first.
      dtype: computation type of the products.
    """

    norm: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h w c']:
        """Attends over all positions."""
        b, h, w, width = x.shape
        inner = _ATTENTION_HEADS * _HEAD_WIDTH
        y = GroupNorm(_groups(width), epsilon=1e-5, dtype=self.dtype, name='norm')(x) if self.norm else x
        qkv = Dense(3 * inner, use_bias=False, dtype=self.dtype, name='qkv')(y)
        q, k, v = jnp.moveaxis(qkv.reshape(b, h * w, 3, _ATTENTION_HEADS, _HEAD_WIDTH), 2, 0)
        weights = nn.softmax(k.astype(jnp.float32), axis=1).astype(v.dtype)
        summary = jnp.einsum('bnhd,bnhe->bhde', weights, v)
        read = jnp.einsum('bhde,bnhd->bnhe', summary, q).reshape(b, h, w, inner)
        gate = self.param('gate', nn.initializers.zeros, (1,))
        return x + Dense(width, dtype=self.dtype, name='out')(read) * gate.astype(x.dtype)


class UNet(nn.Module):
    """Convolutional denoiser (see `denoiser.py`) for grids whose sides are multiples of 2^(levels - 1).

    Attributes:
      states: number of states of each sub-codebook.
      outputs: number of logits of each position.
      channels: channels of the embeddings.
      channel_multipliers: width of each level, from fine to coarse, over `channels`.
      num_classes: 0 for a model without condition.
      dropout: dropout rate between the residual blocks of the encoder.
      official: architecture of the official code: no norm before the attention, and no skip connection at the finest
        level, so that all detail passes through half the resolution.
      dtype: computation type; the logits are float32.
      remat: whether the backward pass recomputes the blocks.
      numbers: whether tokens enter as numbers instead of one learned vector each.
    """

    states: tuple[int, ...]
    outputs: int
    channels: int = 128
    channel_multipliers: tuple[int, ...] = (1, 2, 4, 8)
    num_classes: int = 0
    dropout: float = 0.0
    official: bool = False
    dtype: Any = jnp.float32
    remat: bool = False
    numbers: bool = False

    @nn.compact
    def __call__(
        self,
        states: Int[Array, 'b h w k'],
        time: Float[Array, ' b'],
        cond: Int[Array, ' b'],
        *,
        train: bool = False,
    ) -> Float[Array, 'b h w o']:
        """Computes logits of all cells.

        Raises:
          UserError: the sides of the grid are no such multiples.
        """
        levels = len(self.channel_multipliers)
        cell = 2 ** (levels - 1)
        if states.shape[1] % cell or states.shape[2] % cell:
            raise UserError(
                f'sides of the token grid must be multiples of {cell} for {levels} levels, got {states.shape[1:3]}'
            )
        block = nn.remat(TimedResBlock) if self.remat else TimedResBlock
        widths = [self.channels * multiplier for multiplier in self.channel_multipliers]
        drop = Dropout(self.dropout, deterministic=not train)
        condition = ConditionEmbedding(self.channels, self.num_classes, name='condition')(time, cond)

        def res(x: jax.Array, width: int, name: str) -> jax.Array:
            return block(width, dtype=self.dtype, name=name)(x, condition)

        def attend(x: jax.Array, name: str) -> jax.Array:
            return LinearAttention(not self.official, dtype=self.dtype, name=name)(x)

        embedding = NumberEmbedding if self.numbers else StateEmbedding
        x = embedding(self.states, self.channels, dtype=self.dtype, name='embedding')(states)
        skips = []
        for level, width in enumerate(widths):
            x = res(drop(res(x, width, f'down_{level}_res_0')), width, f'down_{level}_res_1')
            x = attend(x, f'down_{level}_attention')
            skips.append(x)
            if level < levels - 1:
                x = Conv(width, (3, 3), 2, padding=1, dtype=self.dtype, name=f'down_{level}_downsample')(x)

        x = res(x, widths[-1], 'mid_block1')
        x = res(attend(x, 'mid_attention'), widths[-1], 'mid_block2')

        for level, width in enumerate([*widths[-2::-1], self.channels]):  # counted from coarse to fine
            if level == levels - 1 and self.official:
                break
            x = jnp.concatenate([x, skips.pop()], axis=-1)
            x = res(res(x, width, f'up_{level}_res_0'), width, f'up_{level}_res_1')
            x = attend(x, f'up_{level}_attention')
            if level < levels - 1:
                x = ConvTranspose(width, (4, 4), (2, 2), dtype=self.dtype, name=f'up_{level}_upsample')(x)

        x = ConvBlock(self.channels, dtype=self.dtype, name='head')(x)
        return Dense(self.outputs, dtype=self.dtype, name='logits')(x).astype(jnp.float32)
