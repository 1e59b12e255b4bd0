"""Transformers of FQGAN: adapters of a factor's features, and predictors of a teacher's features.

Bai et al., "Factorized Visual Tokenization and Generation" (2024).
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vistok.networks.norms import LayerNorm
from vistok.networks.positions import resample_positions
from vistok.networks.transformer import TransformerBlock


class Adapter(nn.Module):
    """Transformer over the positions of a feature map.

    Attributes:
      grid: side of the grid that positions are learned for; on other grids they are interpolated bicubically.
      layers: transformer blocks.
      num_heads: attention heads.
      dtype: computation type.
      remat: whether blocks are computed again in the backward pass.
    """

    grid: int
    layers: int = 6
    num_heads: int = 8
    dtype: Any = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h w c']:
        """Computes features of the same shape."""
        b, h, w, c = x.shape
        positions = self.param('positions', nn.initializers.normal(c**-0.5), (self.grid**2, c))
        x = x.reshape(b, h * w, c) + resample_positions(positions, (h, w)).astype(self.dtype)
        return Tower(self.layers, self.num_heads, self.dtype, self.remat, name='tower')(x).reshape(b, h, w, c)


class FeaturePredictor(nn.Module):
    """Transformer that predicts one feature vector of a frozen network from the codewords of a factor.

    Attributes:
      width: width of the feature.
      grid: side of the grid that positions are learned for; on other grids they are interpolated bicubically.
      layers: transformer blocks.
      num_heads: attention heads.
      dtype: computation type.
      remat: whether blocks are computed again in the backward pass.
    """

    width: int
    grid: int
    layers: int = 3
    num_heads: int = 8
    dtype: Any = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, z_q: Float[Array, 'b h w d']) -> Float[Array, 'b n width']:
        """Computes the outputs of the class token (first: the prediction) and of all positions, n = h * w + 1."""
        b, h, w, d = z_q.shape
        x = nn.relu(nn.Dense(self.width, dtype=self.dtype, name='dense1')(z_q.reshape(b, h * w, d)))
        x = nn.Dense(self.width, dtype=self.dtype, name='dense2')(x)

        initial = nn.initializers.normal(self.width**-0.5)
        token = self.param('class_token', initial, (1, self.width))
        positions = self.param('positions', initial, (self.grid**2 + 1, self.width))
        positions = jnp.concatenate([positions[:1], resample_positions(positions[1:], (h, w))])
        x = jnp.concatenate([jnp.broadcast_to(token.astype(x.dtype), (b, 1, self.width)), x], axis=1)
        x = x + positions.astype(x.dtype)
        return Tower(self.layers, self.num_heads, self.dtype, self.remat, name='tower')(x).astype(jnp.float32)


class Tower(nn.Module):
    """Transformer blocks between two layer norms.

    Attributes:
      layers: transformer blocks.
      num_heads: attention heads.
      dtype: computation type.
      remat: whether blocks are computed again in the backward pass.
    """

    layers: int
    num_heads: int
    dtype: Any = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, 'b n d']) -> Float[Array, 'b n d']:
        """Applies norms and blocks."""
        block = nn.remat(TransformerBlock) if self.remat else TransformerBlock
        x = LayerNorm(epsilon=1e-5, dtype=self.dtype, name='norm_in')(x)
        for i in range(self.layers):
            x = block(self.num_heads, dtype=self.dtype, name=f'block_{i}')(x)
        return LayerNorm(epsilon=1e-5, dtype=self.dtype, name='norm_out')(x)
