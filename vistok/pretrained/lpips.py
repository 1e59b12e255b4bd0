"""LPIPS: learned perceptual distance on VGG16 features (Zhang et al. 2018, section 3)."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

# Mean and deviation of ImageNet colours, restated for images in [-1, 1]; constants of the published network.
_SHIFT = np.array([-0.030, -0.088, -0.188], np.float32)
_SCALE = np.array([0.458, 0.448, 0.450], np.float32)

_VGG16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


def unit_features(x: Float[Array, 'b h w c'], epsilon: float = 1e-10) -> Float[Array, 'b h w c']:
    """Scales each position's feature vector to length 1, in float32; a zero vector stays zero, with zero gradient."""
    x = x.astype(jnp.float32)
    squared = jnp.square(x).sum(-1, keepdims=True)
    norm = jnp.sqrt(jnp.where(squared > 0, squared, 1.0))  # the root has no finite slope at 0
    return x / (jnp.where(squared > 0, norm, 0.0) + epsilon)


def squared_difference(a: Float[Array, 'b h w c'], b: Float[Array, 'b h w c']) -> Float[Array, 'b h w c']:
    """Computes squared differences of unit-length features."""
    return jnp.square(unit_features(a) - unit_features(b))


class VGG16Features(nn.Module):
    """VGG16 convolutions (Simonyan and Zisserman 2015), read before each pooling layer and at the end.

    Attributes:
      dtype: computation type.
    """

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: Float[Array, 'b h w 3']) -> list[Float[Array, 'b ...']]:
        """Computes features relu1_2, relu2_2, relu3_3, relu4_3, relu5_3 of colour-normalized images, fine to coarse."""
        features = []
        x = images
        for block, widths in enumerate(_VGG16, start=1):
            if block > 1:
                x = nn.max_pool(x, (2, 2), (2, 2))
            for i, width in enumerate(widths, start=1):
                conv = nn.Conv(width, (3, 3), padding=((1, 1), (1, 1)), dtype=self.dtype, name=f'conv{block}_{i}')
                x = nn.relu(conv(x))
            features.append(x)
        return features


class LPIPS(nn.Module):
    """Learned perceptual distance of image pairs: weighted squared differences of unit-length VGG16 features.

    Deterministic: the dropout of its own training is never on.

    Attributes:
      dtype: computation type of the network; differences and sums are float32.
    """

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, a: Float[Array, 'b h w 3'], b: Float[Array, 'b h w 3']) -> Float[Array, ' b']:
        """Computes the distances of a[i] and b[i], images in [-1, 1] of at least 16 pixels a side; 0 for equal
        images.
        """
        trunk = VGG16Features(dtype=self.dtype, name='vgg16')
        # Two passes rather than one over both: no gradient is computed for images that need none.
        features = [trunk((images - _SHIFT) / _SCALE) for images in (a, b)]
        distance = jnp.zeros((a.shape[0],), jnp.float32)
        for i, pair in enumerate(zip(*features, strict=True), start=1):
            channels = pair[0].shape[-1]
            weight = self.param(f'weight{i}', nn.initializers.constant(1 / channels), (channels,))
            distance += (squared_difference(*pair) * weight).sum(-1).mean((1, 2))
        return distance
