"""Codebooks: what the codewords are.  Which of them is chosen is the quantizer's business."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def unit_norm(x: Float[Array, '*shape d']) -> Float[Array, '*shape d']:
    """`x` over its Euclidean norm along the last axis; vectors shorter than 1e-12 are divided by 1e-12.

    The norm is bounded before the root, so the gradient stays finite at the zero vector.
    """
    return x / jnp.sqrt(jnp.maximum(jnp.sum(x**2, axis=-1, keepdims=True), 1e-24))


class LearnedCodebook(nn.Module):
    """A table of codewords learned by gradient.

    Rows start uniform in (-1/K, 1/K) (van den Oord et al., "Neural Discrete Representation Learning", 2017, as taming
    and LlamaGen initialise them).

    Attributes:
      size: number of codewords, K.
      dim: their width, d.
      normalized_init: whether the first rows are scaled to unit norm (LlamaGen).
    """

    size: int
    dim: int
    normalized_init: bool = False

    @nn.compact
    def __call__(self) -> Float[Array, 'K d']:
        """The float32 rows as they are stored."""

        def init(key: jax.Array, shape: tuple[int, int]) -> jax.Array:
            rows = jax.random.uniform(key, shape, minval=-1 / self.size, maxval=1 / self.size)
            return unit_norm(rows) if self.normalized_init else rows

        return jnp.asarray(self.param('codewords', init, (self.size, self.dim)))
