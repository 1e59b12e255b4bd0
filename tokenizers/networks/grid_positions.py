"""Position encoding of DQ-VAE's decoder.

Huang et al., "Towards Accurate Image Coding: Improved Autoregressive Image Generation with Dynamic Vector Quantization"
(2023).
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vistok.tokenizers.codebooks.codebook import symmetric_uniform


class GridPositions(nn.Module):
    """Position encoding of the decoder's input: sines of the coordinates plus learned row and column vectors.

    Attributes:
      grid: side of the grid that the vectors are learned for; on others they are interpolated linearly.
      dtype: type of the result.
    """

    grid: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h w c']:
        """Adds the positions to `x`."""
        _, h, w, c = x.shape
        columns, rows = jnp.meshgrid(jnp.linspace(-1, 1, w), jnp.linspace(-1, 1, h))
        frequencies = nn.Dense(
            c,
            kernel_init=symmetric_uniform(4.5**0.5),
            bias_init=symmetric_uniform(0.5**0.5),
            precision=jax.lax.Precision.HIGHEST,  # arguments of sines
            name='frequencies',
        )
        fourier = jnp.sin(frequencies(jnp.stack([columns, rows], axis=-1)))
        learned = [
            jax.image.resize(self.param(name, nn.initializers.truncated_normal(1.0), (self.grid, c)), (n, c), 'linear')
            for name, n in (('row_vectors', h), ('column_vectors', w))
        ]
        return x + (fourier + learned[0][:, None] + learned[1]).astype(self.dtype)
