"""InfoNCE between predicted and given features (van den Oord et al. 2018)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vistok.collectives import replica_gather, replica_index
from vistok.errors import UserError


def _unit(x: Float[Array, 'b d']) -> Float[Array, 'b d']:
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.maximum(jnp.square(x).sum(-1, keepdims=True), 1e-16))


def info_nce(
    prediction: Float[Array, 'b d'],
    target: Float[Array, 'b d'],
    temperature: float | jax.Array = 1.0,
    group: int = 0,
) -> Float[Array, '']:
    """Computes the cross-entropy of finding each prediction's own target among all targets by cosine similarity.

    The targets of all replicas count as negatives.  One direction only: predictions look for targets.  Row i of both
    belongs together.  At chance the loss is the logarithm of the number of candidates.

    Args:
      prediction: features to be trained.
      target: features to be found; give them without gradient where they are a frozen teacher's.
      temperature: divides the cosines.  FQGAN uses 1, a weak loss (its minimum is far from 0); 0.07 is usual elsewhere.
      group: number of successive rows of the global batch that are candidates for each other; 0: all rows.  FQGAN's
        code compares the images of one device, 32 of 256.

    Returns:
      The mean over the (local) predictions.

    Raises:
      UserError: the groups do not divide the batch.
    """
    prediction, target = _unit(prediction), _unit(target)
    candidates = replica_gather(target)
    own = jnp.sum(prediction * target, -1) / temperature
    logits = jnp.matmul(prediction, candidates.T, precision=jax.lax.Precision.HIGHEST) / temperature
    if group:
        if len(candidates) % group:
            raise UserError(f'representation_group {group} does not divide the batch of {len(candidates)} images')
        row = replica_index() * len(prediction) + jnp.arange(len(prediction))
        together = row[:, None] // group == jnp.arange(len(candidates)) // group
        logits = jnp.where(together, logits, -jnp.inf)
    return jnp.mean(jax.nn.logsumexp(logits, axis=-1) - own)
