"""Dropout whose mask does not depend on how the batch is divided over devices."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vistok.collectives import replica_draw


class Dropout(nn.Module):
    """Dropout by the place of a sample in the global batch (Srivastava et al. 2014).

    Its values are those of flax's `nn.Dropout`, which under `pmap` would drop the same values on all replicas.

    Attributes:
      rate: share of the values that are set to 0, in [0, 1).
      deterministic: whether nothing is dropped; None: the call says it.
    """

    rate: float
    deterministic: bool | None = None

    @nn.compact
    def __call__(self, x: Float[Array, 'b *n'], deterministic: bool | None = None) -> Float[Array, 'b *n']:
        """Drops values with the random stream 'dropout' and divides the others by 1 - rate."""
        if self.rate == 0 or nn.merge_param('deterministic', self.deterministic, deterministic):
            return x
        key, kept = self.make_rng('dropout'), 1 - self.rate
        mask = replica_draw(lambda rows: jax.random.bernoulli(key, kept, (rows, *x.shape[1:])), len(x))
        return jnp.where(mask, x / kept, 0)
