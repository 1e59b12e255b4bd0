"""InfoNCE between predicted and given features (van den Oord et al. 2018)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vistok.collectives import replica_gather


def _unit(x: Float[Array, 'b d']) -> Float[Array, 'b d']:
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.maximum(jnp.square(x).sum(-1, keepdims=True), 1e-16))


def info_nce(
    prediction: Float[Array, 'b d'],
    target: Float[Array, 'b d'],
    temperature: float | jax.Array = 1.0,
) -> Float[Array, '']:
    """Computes the cross-entropy of finding each prediction's own target among all targets by cosine similarity.

    The targets of all replicas count as negatives.  One direction only: predictions look for targets.  Row i of both
    belongs together.  At chance the loss is log b.

    Args:
      prediction: features to be trained.
      target: features to be found; give them without gradient where they are a frozen teacher's.
      temperature: divides the cosines.  FQGAN uses 1, a weak loss (its minimum is far from 0); 0.07 is usual elsewhere.

    Returns:
      The mean over the (local) predictions.
    """
    prediction, target = _unit(prediction), _unit(target)
    candidates = replica_gather(target)
    own = jnp.sum(prediction * target, -1) / temperature
    logits = jnp.matmul(prediction, candidates.T, precision=jax.lax.Precision.HIGHEST) / temperature
    return jnp.mean(jax.nn.logsumexp(logits, axis=-1) - own)
