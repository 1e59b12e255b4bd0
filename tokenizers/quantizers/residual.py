"""Residual vector quantization: several codewords per position, each for the residual of the ones before it.

Lee et al., "Autoregressive Image Generation using Residual Quantization" (RQ-VAE, 2022), with one codebook for all
depths, learned by gradient.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vistok.clustering.nearest import nearest_codeword
from vistok.errors import UserError
from vistok.tokenizers.codebooks.codebook import Codebook
from vistok.tokenizers.quantizers.vector import QuantizerOutput, straight_through


class ResidualQuantizer(nn.Module):
    """Quantizer that adds up `depth` codewords per vector; both losses are averaged over the partial sums.

    Attributes:
      codebook: module that returns the rows, `[K, d]`, when called without arguments.
      depth: codewords per vector, at least 1; it is the number of ids per position.
      codebook_weight: weight of mean |partial sum - sg(z)|^2.
      commitment_weight: weight of mean |z - sg(partial sum)|^2.
    """

    codebook: Codebook
    depth: int = 4
    codebook_weight: float = 1.0
    commitment_weight: float = 0.25

    def codewords(self) -> Float[Array, 'K d']:
        """Returns the codewords that every depth chooses from."""
        return self.codebook().astype(jnp.float32)

    def __call__(self, z: Float[Array, 'b h w d'], *, train: bool = False) -> QuantizerOutput:
        """Quantizes a grid of vectors; losses 'codebook' and 'commitment'.

        Raises:
          UserError: the depth is below 1, or the vectors are not as wide as the codewords.
        """
        if self.depth < 1:
            raise UserError(f'depth must be at least 1, got {self.depth}')
        codewords = self.codewords()
        if z.shape[-1] != codewords.shape[-1]:
            raise UserError(f'z has {z.shape[-1]} channels, the codewords have {codewords.shape[-1]}')
        z = z.astype(jnp.float32)
        fixed = jax.lax.stop_gradient(codewords)

        def choose(residual: jax.Array, _: None) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
            ids = nearest_codeword(residual.reshape(-1, residual.shape[-1]), fixed).reshape(residual.shape[:-1])
            return residual - fixed[ids], (residual, ids)

        _, (residuals, ids) = jax.lax.scan(choose, jax.lax.stop_gradient(z), None, length=self.depth)
        if train:
            self.codebook.update(residuals.reshape(-1, z.shape[-1]), ids.reshape(-1))
        ids = jnp.moveaxis(ids, 0, -1)
        sums = _partial_sums(codewords, ids)
        losses = {
            'codebook': self.codebook_weight * jnp.mean((sums - jax.lax.stop_gradient(z)) ** 2),
            'commitment': self.commitment_weight * jnp.mean((z - jax.lax.stop_gradient(sums)) ** 2),
        }
        return QuantizerOutput(z_q=straight_through(z, sums[-1]), ids=ids, losses=losses)

    def embed(self, ids: Int[Array, 'b h w k']) -> Float[Array, 'b h w d']:
        """Adds up the codewords of `ids`; the same values as `z_q`."""
        return _partial_sums(self.codewords(), ids)[-1]


def _partial_sums(codewords: Float[Array, 'K d'], ids: Int[Array, 'b h w k']) -> Float[Array, 'k b h w d']:
    """Adds up the first 1, 2, ... k codewords."""
    return jnp.cumsum(codewords[jnp.moveaxis(ids, -1, 0)], axis=0)
