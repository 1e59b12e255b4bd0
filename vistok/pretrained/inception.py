"""InceptionV3 of the Fréchet inception distance, as published on 2015-12-05, with 1008 outputs.

Szegedy et al. 2016 in the form that Heusel et al. 2017 measure with.  It differs from today's InceptionV3: average
pools leave the padding out of the count, and the last block pools by the maximum.
"""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

SIDE = 299
"""Of the images that the network was trained on, in pixels."""
_SPATIAL_CHANNELS = 7

_Side = int | tuple[int, int]


@flax.struct.dataclass
class InceptionFeatures:
    """Inception outputs that metrics read.

    Attributes:
      pool: the last features, averaged over the image; 2048 channels.
      spatial: the first seven channels of `Mixed_6d.branch1x1`, row by row; 17 * 17 * 7 = 2023 numbers for images of
        299 pixels.
      logits: logits of the 1008 classes.
      unbiased_logits: without the bias, as inception scores read them.
    """

    pool: Float[Array, 'b 2048']
    spatial: Float[Array, 'b s']
    logits: Float[Array, 'b 1008']
    unbiased_logits: Float[Array, 'b 1008']


class FIDInception(nn.Module):
    """InceptionV3 for inference, in float32 with exact products: less precision moves the distance visibly."""

    @nn.compact
    def __call__(self, images: Float[Array, 'b h w 3']) -> InceptionFeatures:
        """Computes features of images that a protocol has resized and scaled to about [-1, 1]; sides of at least 75
        pixels.
        """
        x = _Conv(32, 3, 2, 'VALID', name='Conv2d_1a_3x3')(images)
        x = _Conv(32, 3, padding='VALID', name='Conv2d_2a_3x3')(x)
        x = _Conv(64, 3, name='Conv2d_2b_3x3')(x)
        x = nn.max_pool(x, (3, 3), (2, 2))
        x = _Conv(80, 1, name='Conv2d_3b_1x1')(x)
        x = _Conv(192, 3, padding='VALID', name='Conv2d_4a_3x3')(x)
        x = nn.max_pool(x, (3, 3), (2, 2))
        for name, width in {'Mixed_5b': 32, 'Mixed_5c': 64, 'Mixed_5d': 64}.items():
            x = _BlockA(width, name=name)(x)
        x = _BlockB(name='Mixed_6a')(x)
        for name, width in {'Mixed_6b': 128, 'Mixed_6c': 160, 'Mixed_6d': 160}.items():
            x = _BlockC(width, name=name)(x)
        # The blocks of this kind begin with the channels of branch1x1.
        spatial = x[..., :_SPATIAL_CHANNELS].reshape(len(x), -1)
        x = _BlockC(192, name='Mixed_6e')(x)
        x = _BlockD(name='Mixed_7a')(x)
        x = _BlockE(_average_pool, name='Mixed_7b')(x)
        x = _BlockE(_max_pool, name='Mixed_7c')(x)
        pool = x.mean((1, 2))
        kernel = self.param('classes', nn.initializers.lecun_normal(), (pool.shape[-1], 1008))
        bias = self.param('bias', nn.initializers.zeros, (1008,))
        logits = jnp.matmul(pool, kernel, precision=jax.lax.Precision.HIGHEST)
        return InceptionFeatures(pool, spatial, logits + bias, logits)


def _average_pool(x: Float[Array, 'b h w c']) -> Float[Array, 'b h w c']:
    return nn.avg_pool(x, (3, 3), (1, 1), ((1, 1), (1, 1)), count_include_pad=False)


def _max_pool(x: Float[Array, 'b h w c']) -> Float[Array, 'b h w c']:
    return nn.max_pool(x, (3, 3), (1, 1), ((1, 1), (1, 1)))


class _Conv(nn.Module):
    """Convolution without bias, batch norm by stored statistics, ReLU; 'SAME' keeps the size (stride 1)."""

    features: int
    side: _Side
    stride: int = 1
    padding: str = 'SAME'

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b oh ow d']:
        kernel = (self.side, self.side) if isinstance(self.side, int) else self.side
        conv = nn.Conv(
            self.features,
            kernel,
            (self.stride, self.stride),
            self.padding,
            use_bias=False,
            precision=jax.lax.Precision.HIGHEST,
            name='conv',
        )
        return nn.relu(nn.BatchNorm(use_running_average=True, epsilon=1e-3, name='bn')(conv(x)))


def _chain(x: Float[Array, 'b h w c'], name: str, layers: Sequence[tuple[int, _Side]]) -> Float[Array, 'b h w d']:
    """Applies convolutions one after the other: `name`_1, `name`_2, ..."""
    for i, (features, side) in enumerate(layers, start=1):
        x = _Conv(features, side, name=f'{name}_{i}')(x)
    return x


_joined = functools.partial(jnp.concatenate, axis=-1)


class _BlockA(nn.Module):
    """Inception block A, on a 35x35 grid."""

    pool_features: int

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h w d']:
        return _joined(
            [
                _Conv(64, 1, name='branch1x1')(x),
                _chain(x, 'branch5x5', [(48, 1), (64, 5)]),
                _chain(x, 'branch3x3dbl', [(64, 1), (96, 3), (96, 3)]),
                _Conv(self.pool_features, 1, name='branch_pool')(_average_pool(x)),
            ]
        )


class _BlockB(nn.Module):
    """Inception block B, from 35x35 to 17x17."""

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b oh ow d']:
        double = _chain(x, 'branch3x3dbl', [(64, 1), (96, 3)])
        return _joined(
            [
                _Conv(384, 3, 2, 'VALID', name='branch3x3')(x),
                _Conv(96, 3, 2, 'VALID', name='branch3x3dbl_3')(double),
                nn.max_pool(x, (3, 3), (2, 2)),
            ]
        )


class _BlockC(nn.Module):
    """Inception block C, on a 17x17 grid."""

    width: int

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h w d']:
        w, row, column = self.width, (1, 7), (7, 1)
        return _joined(
            [
                _Conv(192, 1, name='branch1x1')(x),
                _chain(x, 'branch7x7', [(w, 1), (w, row), (192, column)]),
                _chain(x, 'branch7x7dbl', [(w, 1), (w, column), (w, row), (w, column), (192, row)]),
                _Conv(192, 1, name='branch_pool')(_average_pool(x)),
            ]
        )


class _BlockD(nn.Module):
    """Inception block D, from 17x17 to 8x8."""

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b oh ow d']:
        small = _chain(x, 'branch3x3', [(192, 1)])
        large = _chain(x, 'branch7x7x3', [(192, 1), (192, (1, 7)), (192, (7, 1))])
        return _joined(
            [
                _Conv(320, 3, 2, 'VALID', name='branch3x3_2')(small),
                _Conv(192, 3, 2, 'VALID', name='branch7x7x3_4')(large),
                nn.max_pool(x, (3, 3), (2, 2)),
            ]
        )


class _BlockE(nn.Module):
    """Inception block E, on an 8x8 grid."""

    pool: Any

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h w d']:
        single = _chain(x, 'branch3x3', [(384, 1)])
        double = _chain(x, 'branch3x3dbl', [(448, 1), (384, 3)])
        return _joined(
            [
                _Conv(320, 1, name='branch1x1')(x),
                _Conv(384, (1, 3), name='branch3x3_2a')(single),
                _Conv(384, (3, 1), name='branch3x3_2b')(single),
                _Conv(384, (1, 3), name='branch3x3dbl_3a')(double),
                _Conv(384, (3, 1), name='branch3x3dbl_3b')(double),
                _Conv(192, 1, name='branch_pool')(self.pool(x)),
            ]
        )
