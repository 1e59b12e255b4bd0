"""Information density of image patches, by which routers rank cells.

Huang et al., "Towards Accurate Image Coding: Improved Autoregressive Image Generation with Dynamic Vector
Quantization" (DQ-VAE, 2023), and Li et al., "Once-for-All: Controllable Generative Image Compression with Dynamic
Granularity Adaptation" (Control-GIC, 2025).
"""

from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vistok.tokenizers.networks.blocks import check_sides
from vistok.tokenizers.routing.grains import check_grain_ratios

_LUMA = (0.2989, 0.5870, 0.1140)
_BINS = 32  # of the histogram of grey levels
_LEAST_DEVIATION = 1 / 255  # half a step of 8 bits where images are in [-1, 1]: smaller deviations are invisible


def information_density(
    images: Float[Array, 'b H W 3'],
    patch: int,
    bin_range: Sequence[float] | Float[Array, ' 2'] = (-1.0, 1.0),
    sigma: float = 0.01,
) -> Float[Array, 'b h w']:
    """Computes the Shannon entropy of the grey levels of each patch, in nats.

    It is 0 for a constant patch, at most log(32).  The histogram is soft: every pixel adds a Gaussian to all bins.
    Bins without pixels contribute nothing.

    Args:
      images: images in any range; the released models look at [0, 1] or [-1, 1].
      patch: side of the patches, in pixels.
      bin_range: centres of the first and the last bin.
      sigma: width of the Gaussian, in units of the images.

    Raises:
      UserError: the sides are no multiples of `patch`.
    """
    patches = _grey_patches(images, patch)
    centres = jnp.linspace(bin_range[0], bin_range[1], _BINS)
    histogram = jnp.mean(jnp.exp(-0.5 * ((patches[..., None] - centres) / sigma) ** 2), axis=-2)
    total = jnp.sum(histogram, axis=-1, keepdims=True)
    return jnp.sum(jax.scipy.special.entr(histogram / jnp.maximum(total, 1e-30)), axis=-1)


def spread_density(
    images: Float[Array, 'b H W 3'], patch: int, bin_range: Sequence[float] = (-1.0, 1.0)
) -> Float[Array, 'b h w']:
    """Computes the number and distance of the grey levels of each patch, in nats.

    The sum of their entropy and of the logarithm of their deviation.  The published entropy does not see grey levels
    between its narrow bins, nor contrast; where this sum is large, coarse tokens err more.  A constant patch has 0.3 to
    0.75, by where its level lies between the bins.  Cells are averaged with their neighbours, which count 1, 10, 1
    along both axes: single ones stand out less, and a map of grains takes fewer bits.

    Args:
      images: images in any range.
      patch: side of the patches, in pixels.
      bin_range: centres of the first and the last bin.

    Raises:
      UserError: the sides are no multiples of `patch`.
    """
    deviation = jnp.std(_grey_patches(images, patch), axis=-1)
    density = information_density(images, patch, bin_range, sigma=0.03) + jnp.log1p(deviation / _LEAST_DEVIATION)
    padded = jnp.pad(density, ((0, 0), (1, 1), (1, 1)), mode='edge')
    rows = (padded[:, :-2] + 10 * padded[:, 1:-1] + padded[:, 2:]) / 12
    return (rows[..., :-2] + 10 * rows[..., 1:-1] + rows[..., 2:]) / 12


def density_thresholds(
    batches: Iterable[Float[Array | np.ndarray, 'b H W 3']],
    patch: int,
    grain_ratios: Sequence[float],
    bin_range: Sequence[float] = (-1.0, 1.0),
) -> tuple[float, ...]:
    """Measures densities that separate the grains so that a data set has the given shares, for `EntropyRouter`.

    Args:
      batches: images of the data set (some thousands suffice for two digits).
      patch: side of the coarsest cell, in pixels.
      grain_ratios: shares of the area, from coarse to fine.
      bin_range: centres of the first and the last bin; the router must have the same.

    Returns:
      Ascending percentiles, one fewer than there are grains.
    """
    check_grain_ratios(grain_ratios)
    density = jax.jit(lambda x: information_density(x, patch, bin_range))
    values = np.concatenate([np.asarray(density(jnp.asarray(images))).ravel() for images in batches])
    return share_thresholds(values, grain_ratios)


def share_thresholds(values: Float[np.ndarray, ' n'], grain_ratios: Sequence[float]) -> tuple[float, ...]:
    """Returns the percentiles between the shares `grain_ratios` of densities, ascending."""
    return tuple(float(np.quantile(values, min(share, 1.0))) for share in np.cumsum(grain_ratios)[:-1])


def _grey_patches(images: Float[Array, 'b H W 3'], patch: int) -> Float[Array, 'b h w p']:
    check_sides(images.shape[1:3], patch)
    b, height, width, _ = images.shape
    grey = jnp.einsum('bhwc,c->bhw', images, jnp.asarray(_LUMA), precision=jax.lax.Precision.HIGHEST)
    rows, columns = height // patch, width // patch
    return grey.reshape(b, rows, patch, columns, patch).transpose(0, 1, 3, 2, 4).reshape(b, rows, columns, patch**2)
