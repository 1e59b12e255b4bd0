"""Vector quantization: each vector is replaced by its nearest codeword, with a straight-through gradient."""

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vistok.clustering.nearest import nearest_codeword
from vistok.errors import UserError
from vistok.tokenizers.codebooks.codebook import Codebook, unit_norm
from vistok.tokenizers.quantizers.entropy import entropy_loss


@flax.struct.dataclass
class QuantizerOutput:
    """Result of a quantizer for a batch.

    Attributes:
      z_q: codewords in float32; the gradient passes straight through to z.
      ids: codeword numbers, int32, with one more axis k when the quantizer is factorized.
      losses: scalars that already carry their weights.
    """

    z_q: Float[Array, 'b h w d']
    ids: Int[Array, 'b h w *k']
    losses: dict[str, Float[Array, '']]


class VectorQuantizer(nn.Module):
    """Nearest-codeword quantizer (van den Oord et al., "Neural Discrete Representation Learning", 2017).

    The defaults of the weights are LlamaGen's; taming's released models have `codebook_weight=0.25` and
    `commitment_weight=1`.  Everything is computed in float32, whatever the type of z.

    Attributes:
      codebook: module that returns the rows, `[K, d]`, when called without arguments.
      normalize: whether z and the rows are scaled to unit norm before they are compared (LlamaGen); the gradient passes
        through both.
      codebook_weight: weight of mean |c - sg(z)|^2, over every element.
      commitment_weight: weight of mean |z - sg(c)|^2, over every element.
      entropy_weight: weight of the entropy loss; at 0 it is not computed, nor outside training.
      entropy_temperature: temperature of the entropy loss.
    """

    codebook: Codebook
    normalize: bool = False
    codebook_weight: float = 1.0
    commitment_weight: float = 0.25
    entropy_weight: float = 0.0
    entropy_temperature: float = 0.01

    def codewords(self) -> Float[Array, 'K d']:
        """Returns the rows that z is compared with and that the decoder receives."""
        rows = self.codebook().astype(jnp.float32)
        return unit_norm(rows) if self.normalize else rows

    def __call__(
        self, z: Float[Array, 'b h w d'], *, train: bool = False, weights: Float[Array, 'b h w 1'] | None = None
    ) -> QuantizerOutput:
        """Quantizes a grid of vectors and returns the losses 'codebook', 'commitment' and, in training, 'entropy'.

        Args:
          z: the vectors.
          train: whether the codebook is updated by the assignments and the entropy loss is computed.
          weights: weight of each position in the codebook and commitment losses; None: 1.
        """
        codewords = self.codewords()
        if z.shape[-1] != codewords.shape[-1]:
            raise UserError(f'z has {z.shape[-1]} channels, the codewords have {codewords.shape[-1]}')
        z = z.astype(jnp.float32)
        if self.normalize:
            z = unit_norm(z)
        rows = z.reshape(-1, z.shape[-1])
        ids = nearest_codeword(rows, codewords).reshape(z.shape[:-1])
        chosen = codewords[ids]

        scale = 1.0 if weights is None else weights
        losses = {
            'codebook': self.codebook_weight * jnp.mean(scale * (chosen - jax.lax.stop_gradient(z)) ** 2),
            'commitment': self.commitment_weight * jnp.mean(scale * (z - jax.lax.stop_gradient(chosen)) ** 2),
        }
        if train:
            self.codebook.update(rows, ids.reshape(-1))
        if train and self.entropy_weight:
            losses['entropy'] = self.entropy_weight * entropy_loss(rows, codewords, self.entropy_temperature)
        return QuantizerOutput(z_q=straight_through(z, chosen), ids=ids, losses=losses)

    def embed(self, ids: Int[Array, 'b h w']) -> Float[Array, 'b h w d']:
        """Returns the codewords of `ids`, the same values as `z_q`."""
        return self.codewords()[ids]


def straight_through(z: Float[Array, '*shape'], chosen: Float[Array, '*shape']) -> Float[Array, '*shape']:
    """Returns the value of `chosen`, bit for bit, with the gradient of `z`."""
    return jax.lax.stop_gradient(chosen) + (z - jax.lax.stop_gradient(z))
