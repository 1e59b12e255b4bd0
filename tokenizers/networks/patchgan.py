"""PatchGAN: a convolutional discriminator of overlapping patches (Isola et al. 2017, section 3.2.2)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vistok.collectives import replica_mean, replica_sum
from vistok.networks.convolution import Conv

_MOMENTUM = 0.1  # weight of the new batch in the running statistics (PyTorch's convention)
_EPSILON = 1e-5  # added to the variance

_kernel_init = nn.initializers.normal(0.02)


def _scale_init(key: jax.Array, shape: tuple[int, ...]) -> Float[Array, ' c']:
    return 1.0 + 0.02 * jax.random.normal(key, shape)


class BatchNorm(nn.Module):
    """Batch normalization with PyTorch's semantics, over the batch of all replicas.

    Normalization uses the biased variance, the running variance the unbiased one (flax's own layer keeps the biased
    one, which drifts from converted discriminators).  Statistics are float32.
    """

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], train: bool) -> Float[Array, 'b h w c']:
        """Normalizes `x` by batch statistics in training, else by the running ones (collection 'batch_stats')."""
        channels = x.shape[-1]
        running_mean = self.variable('batch_stats', 'mean', jnp.zeros, (channels,))
        running_var = self.variable('batch_stats', 'var', jnp.ones, (channels,))
        scale = self.param('scale', _scale_init, (channels,))
        bias = self.param('bias', nn.initializers.zeros, (channels,))
        x32 = x.astype(jnp.float32)
        centred, var = x32 - running_mean.value, running_var.value
        if train:
            axes = (0, 1, 2)
            # The float32 mean of large values is itself inexact, so that what it leaves is centred again.
            mean = jax.lax.stop_gradient(replica_mean(x32.mean(axes)))
            centred = x32 - mean
            rest, square = replica_mean((centred.mean(axes), jnp.square(centred).mean(axes)))
            centred, mean, var = centred - rest, mean + rest, jnp.maximum(square - rest**2, 0)
            if not self.is_initializing() and self.is_mutable_collection('batch_stats'):
                count = replica_sum(jnp.float32(x.size // channels))
                unbiased = var * count / jnp.maximum(count - 1, 1)
                running_mean.value += _MOMENTUM * (mean - running_mean.value)
                running_var.value += _MOMENTUM * (unbiased - running_var.value)
        return (centred * (scale * jax.lax.rsqrt(var + _EPSILON)) + bias).astype(x.dtype)


class PatchGAN(nn.Module):
    """Discriminator with one logit per patch; high means real.

    Three layers see patches of 70 pixels, two layers patches of 34.  Real and fake batches are passed separately, so
    that batch statistics do not leak which is which.

    Attributes:
      channels: width of the first layer; doubles per layer up to eight times.
      layers: strided layers before the last two stride-1 ones.
      dtype: computation type; statistics and logits stay float32.
    """

    channels: int = 64
    layers: int = 3
    dtype: Any = jnp.float32

    def _conv(self, features: int, stride: int, name: str, use_bias: bool = True) -> Conv:
        return Conv(
            features,
            (4, 4),
            (stride, stride),
            padding=((1, 1), (1, 1)),
            use_bias=use_bias,
            dtype=self.dtype,
            kernel_init=_kernel_init,
            name=name,
        )

    @nn.compact
    def __call__(self, images: Float[Array, 'b h w c'], train: bool) -> Float[Array, 'b i j 1']:
        """Computes the logits of images in [-1, 1].

        With `train` the batch statistics are used, and the running ones updated where 'batch_stats' is mutable.
        """
        x = nn.leaky_relu(self._conv(self.channels, 2, 'conv_in')(images), 0.2)
        for i in range(1, self.layers + 1):
            width = self.channels * min(2**i, 8)
            x = self._conv(width, 2 if i < self.layers else 1, f'conv_{i}', use_bias=False)(x)
            x = nn.leaky_relu(BatchNorm(name=f'norm_{i}')(x, train), 0.2)
        return self._conv(1, 1, 'conv_out')(x).astype(jnp.float32)
