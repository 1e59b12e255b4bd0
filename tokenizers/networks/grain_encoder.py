"""Convolutional encoder of tokenizers with grains: one trunk, and a branch at each of its coarsest levels."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vistok.errors import UserError
from vistok.tokenizers.networks.autoencoder import ConvHead, encoder_levels
from vistok.tokenizers.networks.blocks import Middle


class GrainEncoder(nn.Module):
    """Encoder of images into latents of every grain; each branch has middle blocks and a head of its own.

    Huang et al., "Towards Accurate Image Coding" (DQ-VAE, 2023), section 3.1; Control-GIC has the same encoder.

    Attributes:
      grains: number of branches; the coarsest is at the coarsest level, each other one level finer.
      channels: width at the finest level.
      channel_multipliers: width of each level over `channels`.
      res_blocks: residual blocks per level.
      attention_levels: levels (0 is the finest) with attention, besides the branches.
      latent_channels: width of the results.
      dtype: computation type.
      remat: whether blocks are computed again in the backward pass.
    """

    grains: int
    channels: int
    channel_multipliers: Sequence[int]
    res_blocks: int
    attention_levels: Sequence[int]
    latent_channels: int
    dtype: Any = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, images: Float[Array, 'b H W 3']) -> list[Float[Array, 'b _ _ d']]:
        """Computes latents from coarse to fine, each with twice the resolution of the one before it."""
        if len(self.channel_multipliers) < self.grains:
            raise UserError(f'{self.grains} grains need as many levels, got {len(self.channel_multipliers)}')
        levels = encoder_levels(
            images,
            self.channels,
            self.channel_multipliers,
            self.res_blocks,
            self.attention_levels,
            dtype=self.dtype,
            remat=self.remat,
        )
        return [
            Branch(self.latent_channels, self.dtype, self.remat, name=f'branch_{2 ** (self.grains - 1 - i)}')(level)
            for i, level in enumerate(reversed(levels[-self.grains :]))
        ]


class Branch(nn.Module):
    """Middle blocks and head of one grain.

    Attributes:
      latent_channels: width of the result.
      dtype: computation type.
      remat: whether blocks are computed again in the backward pass.
    """

    latent_channels: int
    dtype: Any = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h w d']:
        """Computes latents from one level's features."""
        return ConvHead(self.latent_channels, self.dtype, name='head')(Middle(self.dtype, self.remat, name='mid')(x))
