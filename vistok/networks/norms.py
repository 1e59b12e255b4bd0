"""Normalization layers whose statistics stay exact where the mean is large against the deviation.

The difference E[x^2] - E[x]^2, which flax's layers compute by default, loses all digits in float32 where the mean is
1,000 deviations.  Here the mean, or a value near it, is subtracted before anything is squared.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vistok.errors import UserError

# Narrow layers have fewer groups, of four channels each as in the narrowest published layer: a group of one channel
# would erase its mean and contrast, which a reconstruction needs.
_NUM_GROUPS = 32
_STRIDE = 8  # of the rows whose mean is subtracted first


class LayerNorm(nn.LayerNorm):
    """Layer normalization (Ba et al. 2016) as flax has it, with the stable variance."""

    use_fast_variance: bool = False


class BatchNorm(nn.BatchNorm):
    """Batch normalization (Ioffe and Szegedy 2015) as flax has it, with the stable variance."""

    use_fast_variance: bool = False


class GroupNorm(nn.Module):
    """Group normalization over space and channel groups (Wu and He 2018); statistics in float32.

    Sums over space per channel, then over the channels of a group, and one affine map of each channel: on a CPU several
    times as fast as the general layer.

    Attributes:
      groups: number of groups; None: 32, of narrow layers as many as have four channels each.
      epsilon: added to the variance.
      dtype: type of the result.
    """

    groups: int | None = None
    epsilon: float = 1e-6
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h w c']:
        """Normalizes each sample by itself.

        Raises:
          UserError: a number of channels that is no multiple of the groups.
        """
        b, _, _, c = x.shape
        groups = self.groups or min(_NUM_GROUPS, max(c // 4, 1))
        if c % groups:
            raise UserError(f'{c} channels cannot be cut into {groups} equal groups; take a multiple of {groups}')
        scale = self.param('scale', nn.initializers.ones, (c,))
        bias = self.param('bias', nn.initializers.zeros, (c,))

        def mean(x: Float[Array, 'b i w c']) -> Float[Array, 'b g']:
            return jnp.sum(jnp.sum(x, (1, 2)).reshape(b, groups, -1), -1) / (x[0].size // groups)

        def by_channel(x: Float[Array, 'b g']) -> Float[Array, 'b 1 1 c']:
            return jnp.repeat(x, c // groups, axis=-1)[:, None, None]

        x = x.astype(jnp.float32)
        # Near the mean: that of an eighth of the values is at most sqrt(7) deviations away, whatever they are.  Nothing
        # depends on what is subtracted here, so it has no gradient.
        x = x - by_channel(jax.lax.stop_gradient(mean(x[:, ::_STRIDE])))
        rest, square = mean(x), mean(x * x)
        var = jnp.maximum(square - rest * rest, 0)
        factor = by_channel(jax.lax.rsqrt(var + self.epsilon)) * scale
        return (x * factor + (bias - by_channel(rest) * factor)).astype(self.dtype)
