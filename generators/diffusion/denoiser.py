"""What the networks that predict clean tokens from noised ones share: embeddings of tokens, time and class.

A denoiser maps states `[b, h, w, k]`, the time of each row in [0, 1) and its class to logits `[b, h, w, o]`, those of
the first sub-codebook first.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

_TIME_SCALE = 4000.0  # times are embedded as steps of a schedule of this length, as in the official code


class StateEmbedding(nn.Module):
    """Sum of one vector for each sub-codebook.

    Attributes:
      sizes: states of each sub-codebook: its codewords, and the mask where there is one.
      width: of the vectors.
      dtype: of the result.
    """

    sizes: tuple[int, ...]
    width: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, states: Int[Array, 'b h w k']) -> Float[Array, 'b h w d']:
        """Looks up."""
        normal = nn.initializers.normal(1.0)
        tables = [nn.Embed(n, self.width, embedding_init=normal, name=f'table_{i}') for i, n in enumerate(self.sizes)]
        first, *others = (table(states[..., i]) for i, table in enumerate(tables))
        return sum(others, first).astype(self.dtype)


class ConditionEmbedding(nn.Module):
    """One vector for time and class.

    Attributes:
      width: of the vector, an even number from 4 on.
      num_classes: classes; one more stands for no condition.  0 means that classes are not looked at.
    """

    width: int
    num_classes: int = 0

    @nn.compact
    def __call__(self, time: Float[Array, ' b'], cond: Int[Array, ' b']) -> Float[Array, 'b d']:
        """Embeds, in float32: times far apart differ little in the lowest frequencies."""
        half = self.width // 2
        frequencies = np.exp(-np.log(10000.0) / (half - 1) * np.arange(half, dtype=np.float32)).astype(np.float32)
        angles = (time * _TIME_SCALE)[:, None] * frequencies
        x = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
        x = nn.Dense(self.width, name='out')(jax.nn.mish(nn.Dense(4 * self.width, name='hidden')(x)))
        if self.num_classes:
            x = x + nn.Embed(self.num_classes + 1, self.width, name='label')(cond)
        return x
