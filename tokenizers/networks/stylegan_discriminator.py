"""Residual discriminator in the manner of StyleGAN2 (Karras et al. 2020), as LlamaGen offers it.

Without StyleGAN2's equalised learning rate and minibatch statistics.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vistok.errors import UserError
from vistok.networks.convolution import Conv, Dense


def _width(resolution: int, multiplier: int) -> int:
    """Returns the channels at a resolution: 512 up to 32 pixels, then halved per doubling."""
    return 512 if resolution <= 32 else 16384 * multiplier // resolution


def blur(x: Float[Array, 'b h w c']) -> Float[Array, 'b h w c']:
    """Filters `x` with [1, 2, 1] / 4 along both axes, borders reflected; keeps the shape."""
    for axis in (1, 2):
        pad = [(1, 1) if a == axis else (0, 0) for a in range(4)]
        padded = jnp.pad(x, pad, mode='reflect')
        n = x.shape[axis]
        left, middle, right = (jax.lax.slice_in_dim(padded, i, i + n, axis=axis) for i in range(3))
        x = 0.25 * left + 0.5 * middle + 0.25 * right
    return x


class _DownBlock(nn.Module):
    """Two convolutions and a blurred, strided one; halves the side; strided 1x1 shortcut."""

    features: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b i j f']:
        def conv(name: str, stride: int = 1) -> Conv:
            padding = ((1, 1), (1, 1))
            return Conv(
                self.features,
                (3, 3),
                (stride, stride),
                padding=padding,
                dtype=self.dtype,
                name=name,
            )

        shortcut = Conv(self.features, (1, 1), (2, 2), padding='VALID', dtype=self.dtype, name='shortcut')(x)
        x = nn.leaky_relu(conv('conv1')(x), 0.2)
        x = nn.leaky_relu(conv('conv2')(x), 0.2)
        x = conv('conv_down', stride=2)(blur(x))
        return (x + shortcut) / math.sqrt(2)


class StyleGANDiscriminator(nn.Module):
    """Discriminator with one logit per image; high means real.

    Attributes:
      image_size: side of the (square) images, a power of two of at least 8.
      channel_multiplier: widens the layers above 32 pixels.
      dtype: computation type; logits are float32.
    """

    image_size: int = 256
    channel_multiplier: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: Float[Array, 'b h w c'], train: bool = True) -> Float[Array, 'b 1 1 1']:
        """Computes the logits of images in [-1, 1], as a map of one cell, so that it can replace PatchGAN.

        `train` changes nothing here: there are no batch statistics.

        Raises:
          UserError: images of another side than `image_size`, or a side that cannot be halved down to 4.
        """
        size = self.image_size
        if size < 8 or size & (size - 1):
            raise UserError(f'image_size {size} must be a power of two of at least 8')
        if images.shape[1:3] != (size, size):
            raise UserError(f'images of {images.shape[1]}x{images.shape[2]} given, {size}x{size} wanted')
        x = Conv(
            _width(size, self.channel_multiplier),
            (3, 3),
            padding=((1, 1), (1, 1)),
            dtype=self.dtype,
            name='conv_in',
        )(images)
        x = nn.leaky_relu(x, 0.2)
        while size > 4:
            size //= 2
            block = int(math.log2(self.image_size // size)) - 1
            x = _DownBlock(_width(size, self.channel_multiplier), self.dtype, name=f'block_{block}')(x)
        x = Conv(512, (3, 3), padding=((1, 1), (1, 1)), dtype=self.dtype, name='conv_out')(x)
        x = nn.leaky_relu(x, 0.2)
        # Flattened channel-first, so that official dense weights need no permutation.
        x = jnp.moveaxis(x, -1, 1).reshape(x.shape[0], -1)
        x = nn.leaky_relu(Dense(512, dtype=self.dtype, name='dense1')(x), 0.2)
        x = Dense(1, dtype=self.dtype, name='dense2')(x)
        return x.astype(jnp.float32)[:, None, None, :]
