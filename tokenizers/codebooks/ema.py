"""Codebook that follows the vectors by exponential moving averages instead of gradients.

Razavi et al., "Generating Diverse High-Fidelity Images with VQ-VAE-2" (2019), appendix A.1; the restart of codewords
that nothing is assigned to is that of Lee et al., "Autoregressive Image Generation using Residual Quantization" (2022).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vistok.collectives import replica_count, replica_sum, replica_take
from vistok.tokenizers.codebooks.codebook import Codebook


class EMACodebook(Codebook):
    """Codebook of running means: each codeword averages its vectors over about 1 / (1 - decay) steps.

    Everything lies in the collection 'codebook_stats': 'codewords', and the averages they are made of, 'counts' and
    'sums'.  The rows start uniform in (-1/K, 1/K).

    Attributes:
      size: number of codewords, K.
      dim: width of the codewords, d.
      decay: decay rate of the averages.
      epsilon: added to each count, so that no codeword is divided by 0 (Laplace smoothing).
      restart: whether a codeword whose average count falls below 1 becomes a random vector of the batch.
    """

    size: int
    dim: int
    decay: float = 0.99
    epsilon: float = 1e-5
    restart: bool = False

    def setup(self) -> None:
        def uniform() -> jax.Array:
            bound = 1 / self.size
            return jax.random.uniform(self.make_rng('params'), (self.size, self.dim), minval=-bound, maxval=bound)

        self.codewords = self.variable('codebook_stats', 'codewords', uniform)
        self.sums = self.variable('codebook_stats', 'sums', lambda: self.codewords.value)
        # With restarts the first batch decides which codewords stay; without, no count may be 0, because it divides.
        first = jnp.zeros if self.restart else jnp.ones
        self.counts = self.variable('codebook_stats', 'counts', first, (self.size,))

    def __call__(self) -> Float[Array, 'K d']:
        return self.codewords.value

    def update(self, vectors: Float[Array, 'n d'], ids: Int[Array, ' n']) -> None:
        """Advances the averages by one step, unless initializing or where the collection is not mutable.

        The statistics are of the global batch.  Restarts draw from the random stream 'sampling'.

        Args:
          vectors: vectors as they were compared with the codewords.
          ids: number of the codeword nearest to each.
        """
        if self.is_initializing() or not self.is_mutable_collection('codebook_stats'):
            return
        vectors = jax.lax.stop_gradient(vectors).astype(jnp.float32)
        counts, sums = replica_sum(
            (
                jax.ops.segment_sum(jnp.ones(ids.shape, jnp.float32), ids, self.size),
                jax.ops.segment_sum(vectors, ids, self.size),
            )
        )
        counts = self.decay * self.counts.value + (1 - self.decay) * counts
        sums = self.decay * self.sums.value + (1 - self.decay) * sums
        if self.restart:
            used = counts >= 1
            sums = jnp.where(used[:, None], sums, self._candidates(vectors))
            counts = jnp.where(used, counts, 1.0)
        self.counts.value, self.sums.value = counts, sums
        total = jnp.sum(counts)
        smoothed = total * (counts + self.epsilon) / (total + self.size * self.epsilon)
        self.codewords.value = sums / smoothed[:, None]

    def _candidates(self, vectors: Float[Array, 'n d']) -> Float[Array, 'K d']:
        """Draws K different vectors of the global batch; small batches are repeated with noise."""
        pick, shake = jax.random.split(self.make_rng('sampling'))
        count = vectors.shape[0] * replica_count()
        repeats = -(-self.size // count)
        chosen = jax.random.choice(pick, repeats * count, (self.size,), replace=False)
        candidates = replica_take(vectors, chosen % count)
        if repeats > 1:
            noise = jax.random.uniform(shake, (repeats * count, self.dim), maxval=0.01 / self.dim**0.5)
            candidates += noise[chosen]
        return candidates
