"""Convolutional encoder and decoder of VQGAN, which most tokenizers share.

Esser et al., "Taming Transformers for High-Resolution Image Synthesis" (2021); LlamaGen's VQ-16 and VQ-8 are the same
networks.  Levels are counted along the data: the encoder's from fine to coarse, the decoder's from coarse to fine.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vistok.networks.convolution import Conv
from vistok.networks.norms import GroupNorm
from vistok.tokenizers.networks.blocks import Middle, block_classes, check_sides, upsample_nearest


class EncoderTrunk(nn.Module):
    """Convolutional encoder of images up to and including the middle blocks at the coarsest grid.

    Attributes:
      channels: width at the finest level.
      channel_multipliers: width of each level over `channels`; there are one fewer halvings than levels.
      res_blocks: residual blocks per level.
      attention_levels: levels (0 is the finest) with attention after every residual block; None: the coarsest only.
      dtype: computation type; parameters stay float32.
      remat: whether activations inside a block are computed again in the backward pass.
    """

    channels: int = 128
    channel_multipliers: Sequence[int] = (1, 1, 2, 2, 4)
    res_blocks: int = 2
    attention_levels: Sequence[int] | None = None
    dtype: Any = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, images: Float[Array, 'b H W 3']) -> Float[Array, 'b h w c']:
        """Computes features of images in [-1, 1]; sides are multiples of 2^(levels - 1)."""
        levels = encoder_levels(
            images,
            self.channels,
            self.channel_multipliers,
            self.res_blocks,
            self.attention_levels,
            dtype=self.dtype,
            remat=self.remat,
        )
        return Middle(self.dtype, self.remat, name='mid')(levels[-1])


def encoder_levels(
    images: Float[Array, 'b H W 3'],
    channels: int,
    channel_multipliers: Sequence[int],
    res_blocks: int,
    attention_levels: Sequence[int] | None,
    *,
    dtype: Any,
    remat: bool,
) -> list[Float[Array, 'b _ _ _']]:
    """Computes features of each level, from fine to coarse, as they are before they are halved.

    To be called in a compact method, whose module gets the layers; the arguments are those of `EncoderTrunk`.
    """
    count = len(channel_multipliers)
    check_sides(images.shape[1:3], 2 ** (count - 1))
    res, attention = block_classes(remat)
    attended = (count - 1,) if attention_levels is None else tuple(attention_levels)

    x = Conv(channels, (3, 3), dtype=dtype, name='conv_in')(images)
    levels = []
    for level, multiplier in enumerate(channel_multipliers):
        for i in range(res_blocks):
            x = res(channels * multiplier, dtype=dtype, name=f'level_{level}_res_{i}')(x)
            if level in attended:
                x = attention(dtype=dtype, name=f'level_{level}_attention_{i}')(x)
        levels.append(x)
        if level < count - 1:
            x = Conv(
                x.shape[-1],
                (3, 3),
                strides=(2, 2),
                padding=((0, 1), (0, 1)),  # right and bottom only, as the released weights expect
                dtype=dtype,
                name=f'level_{level}_downsample',
            )(x)
    return levels


class ConvHead(nn.Module):
    """Norm, swish and 3x3 convolution.

    Attributes:
      channels: width of the output.
      dtype: computation type.
    """

    channels: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h w d']:
        """Applies norm, swish and convolution."""
        x = nn.swish(GroupNorm(dtype=self.dtype, name='norm')(x))
        return Conv(self.channels, (3, 3), dtype=self.dtype, name='conv')(x)


class ConvDecoder(nn.Module):
    """Convolutional decoder that mirrors the encoder, with one more residual block per level.

    Attributes:
      channels: width at the finest level.
      channel_multipliers: width of each level over `channels`, from fine to coarse like the encoder's.
      res_blocks: residual blocks per level of the encoder.
      attention_levels: levels (0 is the finest) with attention; None: the coarsest only.
      dtype: computation type; the last convolution is float32.
      remat: whether activations inside a block are computed again in the backward pass.
    """

    channels: int = 128
    channel_multipliers: Sequence[int] = (1, 1, 2, 2, 4)
    res_blocks: int = 2
    attention_levels: Sequence[int] | None = None
    dtype: Any = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, latents: Float[Array, 'b h w d']) -> Float[Array, 'b H W 3']:
        """Decodes latents into images, not clipped."""
        levels = len(self.channel_multipliers)
        attended = (levels - 1,) if self.attention_levels is None else tuple(self.attention_levels)

        x = Conv(self.channels * self.channel_multipliers[-1], (3, 3), dtype=self.dtype, name='conv_in')(latents)
        x = Middle(self.dtype, self.remat, name='mid')(x)
        for level, multiplier in enumerate(reversed(self.channel_multipliers)):
            x = decoder_level(
                x,
                level,
                self.channels * multiplier,
                self.res_blocks,
                attended=levels - 1 - level in attended,
                upsample=level < levels - 1,
                dtype=self.dtype,
                remat=self.remat,
            )
        x = nn.swish(GroupNorm(name='norm_out')(x))
        return Conv(3, (3, 3), name='conv_out')(x)


def decoder_level(
    x: Float[Array, 'b h w c'],
    level: int,
    width: int,
    res_blocks: int,
    *,
    attended: bool,
    upsample: bool,
    dtype: Any,
    remat: bool,
    z_q: Float[Array, 'b i j e'] | None = None,
) -> Float[Array, 'b H W d']:
    """Applies one level of a decoder: residual blocks (one more than in the encoder), then a doubling of the sides.

    To be called in a compact method, whose module gets the layers.  With codewords `z_q` the norms are modulated.
    """
    res, attention = block_classes(remat)
    for i in range(res_blocks + 1):
        x = res(width, dtype=dtype, name=f'level_{level}_res_{i}')(x, z_q)
        if attended:
            x = attention(dtype=dtype, name=f'level_{level}_attention_{i}')(x, z_q)
    if upsample:
        x = Conv(x.shape[-1], (3, 3), dtype=dtype, name=f'level_{level}_upsample')(upsample_nearest(x))
    return x
