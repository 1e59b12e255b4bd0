"""MaskGIT's VQGAN: the tokenizer of MaskGIT, MAGE and ADDP.

Chang et al., "MaskGIT: Masked Generative Image Transformer" (2022).  Convolutional networks without attention; the
encoder halves by averaging.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vistok.networks.norms import GroupNorm
from vistok.tokenizers.magvit2 import Magvit2VQ
from vistok.tokenizers.networks.blocks import check_sides, upsample_nearest


class MaskGITBlock(nn.Module):
    """Residual block that, where the width changes, adds a projection of its result instead of its input.

    That is how the released weights were trained.

    Attributes:
      channels: width of the output.
      dtype: computation type.
    """

    channels: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h w d']:
        """Applies the residual block."""
        y = x
        for i in (1, 2):
            y = nn.swish(GroupNorm(dtype=self.dtype, name=f'norm{i}')(y))
            y = nn.Conv(self.channels, (3, 3), use_bias=False, dtype=self.dtype, name=f'conv{i}')(y)
        if x.shape[-1] == self.channels:
            return x + y
        return y + nn.Dense(self.channels, use_bias=False, dtype=self.dtype, name='shortcut')(y)


class MaskGITEncoder(nn.Module):
    """Convolutional encoder that halves the grid by averaging.

    Attributes:
      channels: width at the finest level.
      channel_multipliers: width of each level over `channels`; there are one fewer halvings than levels.
      res_blocks: residual blocks per level.
      latent_channels: width of the result.
      dtype: computation type.
      remat: whether blocks are computed again in the backward pass.
    """

    channels: int
    channel_multipliers: Sequence[int]
    res_blocks: int
    latent_channels: int
    dtype: Any = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, images: Float[Array, 'b H W 3']) -> Float[Array, 'b h w d']:
        """Encodes images in [-1, 1] into latents; sides are multiples of 2^(levels - 1)."""
        levels = len(self.channel_multipliers)
        check_sides(images.shape[1:3], 2 ** (levels - 1))
        block = nn.remat(MaskGITBlock) if self.remat else MaskGITBlock
        x = (images + 1) / 2  # the range of the released weights
        x = nn.Conv(self.channels, (3, 3), use_bias=False, dtype=self.dtype, name='conv_in')(x)
        for level, multiplier in enumerate(self.channel_multipliers):
            for i in range(self.res_blocks):
                x = block(self.channels * multiplier, self.dtype, name=f'level_{level}_res_{i}')(x)
            if level < levels - 1:
                x = nn.avg_pool(x, (2, 2), (2, 2))
        for i in range(2):
            x = block(x.shape[-1], self.dtype, name=f'mid_{i}')(x)
        x = nn.swish(GroupNorm(dtype=self.dtype, name='norm_out')(x))
        return nn.Dense(self.latent_channels, dtype=self.dtype, name='conv_out')(x)


class MaskGITDecoder(nn.Module):
    """Convolutional decoder that mirrors the encoder, with doubling and a convolution where that averages.

    Attributes:
      channels: width at the finest level.
      channel_multipliers: width of each level over `channels`, from fine to coarse like the encoder's.
      res_blocks: residual blocks per level.
      dtype: computation type; the last convolution is float32.
      remat: whether blocks are computed again in the backward pass.
    """

    channels: int
    channel_multipliers: Sequence[int]
    res_blocks: int
    dtype: Any = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, latents: Float[Array, 'b h w d']) -> Float[Array, 'b H W 3']:
        """Decodes latents into images, not clipped."""
        block = nn.remat(MaskGITBlock) if self.remat else MaskGITBlock
        width = self.channels * self.channel_multipliers[-1]
        x = nn.Conv(width, (3, 3), dtype=self.dtype, name='conv_in')(latents)
        for i in range(2):
            x = block(width, self.dtype, name=f'mid_{i}')(x)
        for level, multiplier in enumerate(reversed(self.channel_multipliers)):
            for i in range(self.res_blocks):
                x = block(self.channels * multiplier, self.dtype, name=f'level_{level}_res_{i}')(x)
            if level < len(self.channel_multipliers) - 1:
                x = nn.Conv(x.shape[-1], (3, 3), dtype=self.dtype, name=f'level_{level}_upsample')(upsample_nearest(x))
        x = nn.swish(GroupNorm(name='norm_out')(x))
        return 2 * nn.Conv(3, (3, 3), name='conv_out')(x) - 1


class MaskGITVQGAN(Magvit2VQ):
    """MaskGIT's networks with one codebook between them, as wide as the latents.

    The defaults are those of the released model of 1,024 codewords.
    """

    channel_multipliers: Sequence[int] = (1, 1, 2, 2, 4)
    codebook_size: int = 1024
    codebook_dim: int = 256

    def make_encoder(self, **sizes: Any) -> nn.Module:
        return MaskGITEncoder(**sizes)

    def make_decoder(self, **sizes: Any) -> nn.Module:
        return MaskGITDecoder(**sizes)
