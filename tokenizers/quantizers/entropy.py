"""Entropy loss of soft codeword assignments, without the matrix of all probabilities.

With `p_n = softmax_k(-|z_n - c_k|^2 / T)`, the loss is `mean_n H(p_n) - H(mean_n p_n)`: each vector should be sure of
its codeword, and the codewords should be used evenly (Yu et al., "Language Model Beats Diffusion", 2023, eq. 4; the
softmax form over a learned codebook is that of MaskGIT and LlamaGen).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vistok.clustering.nearest import CodeTiles, code_tiles
from vistok.collectives import replica_mean
from vistok.errors import UserError

_PROBABILITIES_AT_ONCE = 2**21


def entropy_loss(z: Float[Array, 'n d'], codebook: Float[Array, 'K d'], temperature: float = 0.01) -> Float[Array, '']:
    """Computes `mean_n H(p_n) - H(mean_n p_n)` in nats over the global batch; differentiable in `z` and `codebook`.

    The codebook is walked in tiles, twice: for the normalizer and the entropy of each row, then for the mean
    probability of each codeword.  The backward pass computes every tile again, so memory does not grow with n * K.
    The mean probabilities are averaged over replicas; the loss of a replica holds the first term of its own rows, so
    that the mean of the replicas' losses is the loss of the global batch, and the mean of their gradients its gradient.

    Args:
      z: vectors, as they are compared with the codewords.
      codebook: codewords.
      temperature: T, positive; squared distances are divided by it.

    Returns:
      The loss, between -log K and log K (up to the 1e-5 inside the second logarithm, which LlamaGen has too).

    Raises:
      UserError: the temperature is not positive.
    """
    if temperature <= 0:
        raise UserError(f'temperature must be positive, got {temperature}')
    n, size = z.shape[0], codebook.shape[0]
    z, codebook = z.astype(jnp.float32), codebook.astype(jnp.float32)
    tiles = code_tiles(codebook, min(size, max(64, _PROBABILITIES_AT_ONCE // n)))

    def logits(tile: CodeTiles) -> jax.Array:
        # |z|^2 is the same for every codeword and cancels in the softmax.
        products = jnp.matmul(z, tile.codewords.T, precision=jax.lax.Precision.HIGHEST)
        return (products - tile.half_norms) * (2 / temperature)

    @jax.checkpoint
    def moments(tile: CodeTiles) -> tuple[jax.Array, jax.Array, jax.Array]:
        a = logits(tile)
        top = jax.lax.stop_gradient(jnp.max(a, axis=-1))
        weights = jnp.exp(a - top[:, None])
        return top, jnp.sum(weights, axis=-1), jnp.sum(weights * (a - top[:, None]), axis=-1)

    tops, sums, weighted = jax.lax.map(moments, tiles)  # [tiles, n] each
    top = jnp.max(tops, axis=0)
    scale = jnp.exp(tops - top)
    total = jnp.sum(sums * scale, axis=0)
    # Relative to the row's largest logit: log-normalizer, and the mean logit under p.
    log_total = jnp.log(total)
    mean_logit = jnp.sum(scale * (weighted + sums * (tops - top)), axis=0) / total
    row_entropy = jnp.mean(log_total - mean_logit)

    @jax.checkpoint
    def mean_probability(tile: CodeTiles) -> jax.Array:
        return jnp.mean(jnp.exp(logits(tile) - (top + log_total)[:, None]), axis=0)

    p = replica_mean(jax.lax.map(mean_probability, tiles).reshape(-1)[:size])
    return row_entropy + jnp.sum(p * jnp.log(p + 1e-5))
