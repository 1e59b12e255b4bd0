"""Stand-in feature network for machines without official weights: small, trained for this project, neither LPIPS nor
CLIP.

It was trained by instance discrimination (which two crops show the same place?) on the embedded training photographs
and digits, with `python launch/train_stand_in.py` as it stands: 500 steps of 48 places, seed 0, five minutes on one CPU
core.  A crop of a held-out photograph then finds its partner among 128 crops in 42 % of cases (untrained: 11 %,
chance: 1 %), of a training photograph in 50 %.  It lets perceptual and representation losses run anywhere; numbers
obtained with it compare with nothing published.
"""

import functools
import pathlib
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vistok.pretrained.image_input import resize
from vistok.pretrained.lpips import squared_difference

_STAGES = ((16,), (32,), (64, 64), (80, 80))
_TEACHER_SIZE = 64
WEIGHTS = pathlib.Path(__file__).with_name('stand_in.npz')


class StandInFeatures(nn.Module):
    """Six 3x3 convolutions in four stages; each stage but the first halves the side.

    Attributes:
      dtype: computation type.
    """

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: Float[Array, 'b h w 3']) -> list[Float[Array, 'b ...']]:
        """Computes features of images in [-1, 1] after each stage, fine to coarse: 16, 32, 64 and 80 channels."""
        features = []
        x = images
        for stage, widths in enumerate(_STAGES, start=1):
            for i, width in enumerate(widths, start=1):
                stride = 2 if stage > 1 and i == 1 else 1
                conv = nn.Conv(
                    width,
                    (3, 3),
                    (stride, stride),
                    padding=((1, 1), (1, 1)),
                    dtype=self.dtype,
                    kernel_init=nn.initializers.he_normal(),
                    name=f'conv{stage}_{i}',
                )
                x = nn.relu(conv(x))
            features.append(x)
        return features


class StandInPerceptual(nn.Module):
    """Stand-in for LPIPS: squared differences of unit-length features, all channels and stages weighted alike.

    Attributes:
      dtype: computation type of the network; differences and sums are float32.
    """

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, a: Float[Array, 'b h w 3'], b: Float[Array, 'b h w 3']) -> Float[Array, ' b']:
        """Computes the distances of a[i] and b[i], images in [-1, 1]; 0 for equal images, at most 2."""
        network = StandInFeatures(dtype=self.dtype, name='features')
        distance = jnp.zeros((a.shape[0],), jnp.float32)
        for pair in zip(network(a), network(b), strict=True):
            distance += squared_difference(*pair).sum(-1).mean((1, 2))
        return distance / len(_STAGES)


class StandInPatches(nn.Module):
    """Stand-in for CLIP and DINOv2 patch features: the coarsest features, 80 channels per 8x8 pixels.

    Attributes:
      dtype: computation type.
    """

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: Float[Array, 'b h w 3']) -> Float[Array, 'b gh gw width']:
        """Computes patch features of images in [-1, 1]; sides are multiples of 8."""
        return StandInFeatures(dtype=self.dtype, name='features')(images)[-1].astype(jnp.float32)


class StandInPooledFeatures(nn.Module):
    """Stand-in for Inception: the features of every stage, averaged over the image."""

    @nn.compact
    def __call__(self, images: Float[Array, 'b h w 3']) -> Float[Array, 'b 192']:
        """Computes pooled features of images in [-1, 1]; features depend on the size of the images."""
        stages = StandInFeatures(name='features')(images)
        return jnp.concatenate([stage.astype(jnp.float32).mean((1, 2)) for stage in stages], axis=-1)


class StandInTeacher(nn.Module):
    """Stand-in for a CLIP or DINOv2 teacher: a linear map of the averaged coarsest features.

    Attributes:
      width: width of the features; the trained weights have 64.
      dtype: computation type.
    """

    width: int = 64
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: Float[Array, 'b h w 3']) -> Float[Array, 'b width']:
        """Computes global features of images in [-1, 1] of any size (resized to 64 pixels)."""
        x = StandInFeatures(dtype=self.dtype, name='features')(resize(images, _TEACHER_SIZE))[-1]
        pooled = x.astype(jnp.float32).mean((1, 2))
        return nn.Dense(self.width, name='projection')(pooled)


@functools.cache
def stand_in_params() -> dict[str, Any]:
    """Loads the trained float32 parameters of `StandInTeacher`; the other stand-ins use those below 'features'."""
    with np.load(WEIGHTS) as arrays:
        flat = {path: array.astype(np.float32) for path, array in arrays.items()}
    return flax.traverse_util.unflatten_dict(flat, sep='/')
