"""Convolutional decoder that is conditioned on the codewords and their grains.

Li et al., "Once-for-All: Controllable Generative Image Compression with Dynamic Granularity Adaptation" (2025).
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vistok.networks.convolution import Conv
from vistok.tokenizers.networks.autoencoder import decoder_level
from vistok.tokenizers.networks.blocks import Middle, SpatialNorm

_GRAINS = 3


class ConditionalDecoder(nn.Module):
    """Decoder of codewords and their grains.

    Every grain has a stem of its own; its result enters the way up where the grid has the size of the grain, at the
    positions of this grain.  All norms are modulated by the codewords.

    Attributes:
      channels: width at the finest level.
      channel_multipliers: width of each level over `channels`, from fine to coarse; the coarsest level has the grid of
        the coarsest grain.
      res_blocks: residual blocks per level of the encoder; here there is one more.
      attention_levels: levels (0 is the finest) with attention, besides the stems.
      dtype: computation type; the last convolution is float32.
      remat: whether blocks are computed again in the backward pass.
    """

    channels: int
    channel_multipliers: Sequence[int]
    res_blocks: int
    attention_levels: Sequence[int]
    dtype: Any = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(
        self,
        latents: Float[Array, 'b h w c'],
        z_q: Float[Array, 'b h w d'],
        grain: Int[Array, 'b h w'],
    ) -> Float[Array, 'b H W 3']:
        """Decodes latents into images, not clipped.

        Args:
          latents: projected codewords.
          z_q: the codewords, for the norms.
          grain: side of the block that each position belongs to.
        """
        levels = len(self.channel_multipliers)
        x = latents
        for level, multiplier in enumerate(reversed(self.channel_multipliers)):
            side = 2 ** (_GRAINS - 1 - level) if level < _GRAINS else 0
            if side:
                width = x.shape[-1] if level else self.channels * multiplier
                stem = Conv(width, (3, 3), dtype=self.dtype, name=f'stem_{side}_conv_in')(latents)
                stem = Middle(self.dtype, self.remat, name=f'stem_{side}_mid')(stem, z_q)
                stem = nn.avg_pool(stem, (side, side), strides=(side, side))
                here = grain[:, ::side, ::side, None]
                # Positions of finer grains start from zero; their own stem replaces them at a later level.
                x = stem if level == 0 else jnp.where(here > side, x, jnp.where(here == side, stem, 0))
            x = decoder_level(
                x,
                level,
                self.channels * multiplier,
                self.res_blocks,
                attended=levels - 1 - level in self.attention_levels,
                upsample=level < levels - 1,
                dtype=self.dtype,
                remat=self.remat,
                z_q=z_q,
            )
        return Conv(3, (3, 3), name='conv_out')(nn.swish(SpatialNorm(name='norm_out')(x, z_q)))
