"""Embeddings of states, time and class for denoisers of discrete diffusion.

A denoiser maps states `[b, h, w, k]`, the time of each row in [0, 1) and its class to logits `[b, h, w, o]`, those of
the first sub-codebook first.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from vistok.networks.convolution import Dense

_TIME_SCALE = 4000.0  # times are embedded as steps of a schedule of this length, as in the official code


class StateEmbedding(nn.Module):
    """Embedding of noised tokens, the sum of one vector for each sub-codebook.

    Attributes:
      sizes: number of states of each sub-codebook: its codewords, and the mask where there is one.
      width: channels of the vectors.
      dtype: type of the result.
    """

    sizes: tuple[int, ...]
    width: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, states: Int[Array, 'b h w k']) -> Float[Array, 'b h w d']:
        """Looks up and adds the vectors."""
        normal = nn.initializers.normal(1.0)
        tables = [nn.Embed(n, self.width, embedding_init=normal, name=f'table_{i}') for i, n in enumerate(self.sizes)]
        first, *others = (table(states[..., i]) for i, table in enumerate(tables))
        return sum(others, first).astype(self.dtype)


class NumberEmbedding(nn.Module):
    """Linear map of noised tokens as numbers: each id divided by the largest.

    As in the official code for ImageNet.  Neighbouring ids look alike, although their codewords need not be.

    Attributes:
      sizes: number of states of each sub-codebook.
      width: channels of the result.
      dtype: type of the result.
    """

    sizes: tuple[int, ...]
    width: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, states: Int[Array, 'b h w k']) -> Float[Array, 'b h w d']:
        """Maps the numbers of all sub-codebooks together."""
        numbers = states / jnp.maximum(jnp.asarray(self.sizes) - 1, 1)
        return Dense(self.width, name='numbers')(numbers.astype(jnp.float32)).astype(self.dtype)


class ConditionEmbedding(nn.Module):
    """Embedding of time and class as one vector.

    Attributes:
      width: channels of the vector, even and at least 4.
      num_classes: number of classes; one more means no condition.  0: no class embedding.
    """

    width: int
    num_classes: int = 0

    @nn.compact
    def __call__(self, time: Float[Array, ' b'], cond: Int[Array, ' b']) -> Float[Array, 'b d']:
        """Embeds time and class in float32, because times far apart differ little in the lowest frequencies."""
        half = self.width // 2
        frequencies = np.exp(-np.log(10000.0) / (half - 1) * np.arange(half, dtype=np.float32)).astype(np.float32)
        angles = (time * _TIME_SCALE)[:, None] * frequencies
        x = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
        x = Dense(self.width, name='out')(jax.nn.mish(Dense(4 * self.width, name='hidden')(x)))
        if self.num_classes:
            x = x + nn.Embed(self.num_classes + 1, self.width, name='label')(cond)
        return x
