"""Output head with shared vectors (VQ-Logits): each of K ids uses one of M vectors, so only M logits are computed.

Shao et al., "VQ-Logits: Compressing the Output Bottleneck of Large Language Models via Vector Quantized Logits", 2025:
the logit of id i is that of vector m(i), and the softmax is over all K ids, so ids of one vector are equally likely.
Added here are a learned bias b of each id, and the form that the loss then takes:

  log p(i) = log softmax(h c_m + B_m)[m(i)] + b_i - B_m(i),   where B_m = log sum of exp(b_j) over the ids j of m

This is the softmax over all K ids, from M logits for each position.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from vistok.generators.autoregressive.transformer import Linear
from vistok.generators.cross_entropy import MOST_LOGITS, CrossEntropy, cross_entropy


def assign_vectors_randomly(codebook_size: int, vectors: int) -> Int[np.ndarray, ' K']:
    """Assigns each id one of the vectors by a fixed random permutation; group sizes differ by at most one."""
    return (np.random.default_rng(0).permutation(codebook_size) % vectors).astype(np.int32)


class OutputVectors(nn.Module):
    """Output head with shared vectors; it starts at zero, so the first loss is that of a uniform guess.

    The variable 'vector_of' in the collection 'frozen' is the vector of each id.  In fresh variables it is
    `assign_vectors_randomly`; a training run replaces it by clusters of the codewords, so that similar ids share one.

    Attributes:
      codebook_size: number of ids, K.
      vectors: number of output vectors, M <= K.
      dtype: type of the product.
    """

    codebook_size: int
    vectors: int
    dtype: Any

    def setup(self) -> None:
        self.head = Linear(self.vectors, dtype=self.dtype, result=jnp.float32, kernel_init=nn.initializers.zeros)
        self.bias = self.param('bias', nn.initializers.zeros, (self.codebook_size,))
        self.vector_of = self.variable(
            'frozen', 'vector_of', lambda: jnp.asarray(assign_vectors_randomly(self.codebook_size, self.vectors))
        )

    def __call__(self, x: Float[Array, '*b d']) -> Float[Array, '*b K']:
        """Computes the logits of all ids; for sampling, one position at a time."""
        return jnp.take(self.head(x), self.vector_of.value, axis=-1) + self.bias


def vector_cross_entropy(
    hidden: Float[Array, 'b n d'],
    kernel: Float[Array, 'd M'],
    bias: Float[Array, ' K'],
    vector_of: Int[Array, ' K'],
    targets: Int[Array, 'b n'],
    *,
    most_logits: int = MOST_LOGITS,
) -> CrossEntropy:
    """Computes the cross-entropy under `OutputVectors`, as `cross_entropy` does for a linear head.

    Args:
      hidden: inputs of the head.
      kernel: output vectors.
      bias: of the ids.
      vector_of: number of each id's vector; each vector has an id.
      targets: ids in [0, K).
      most_logits: see `cross_entropy`, with M logits for each position.
    """
    count = kernel.shape[1]
    largest = jax.lax.stop_gradient(jax.ops.segment_max(bias, vector_of, count))
    sums = jax.ops.segment_sum(jnp.exp(bias - largest[vector_of]), vector_of, count)
    together = largest + jnp.log(sums)
    shares = jnp.bincount(vector_of, length=count) / len(bias)
    found = cross_entropy(hidden, kernel, vector_of[targets], bias=together, shares=shares, most_logits=most_logits)
    within = together[vector_of] - bias  # minus the log-probability of an id among those of its vector
    return CrossEntropy(found.nll + within[targets], found.uniform + within.mean())
