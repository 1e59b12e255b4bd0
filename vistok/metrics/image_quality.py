"""PSNR and SSIM of reconstructions, per image, in float64 on the host.

Both compare on [0, 1] after the reconstruction has been rounded to 8 bits, as it would be when written to a file; the
original is taken as it is.
"""

import numpy as np
from jaxtyping import Float
from skimage.metrics import structural_similarity

from vistok.errors import UserError


def psnr(
    originals: Float[np.ndarray, 'n h w c'], reconstructions: Float[np.ndarray, 'n h w c']
) -> Float[np.ndarray, ' n']:
    """Computes the peak signal-to-noise ratio of each image in dB: `10 log10(1 / mse)` over all pixels and channels.

    The figure of a data set is the mean of these values, not the ratio of the mean error.

    Args:
      originals: images in [-1, 1].
      reconstructions: images in [-1, 1]; values outside are clipped.

    Returns:
      One value per image: infinite for an exact reconstruction, NaN where the reconstruction holds a NaN.
    """
    error = _unit(originals) - _quantize(reconstructions)
    with np.errstate(divide='ignore'):  # an exact reconstruction
        return -10.0 * np.log10(np.mean(error**2, axis=(1, 2, 3)))


def ssim(
    originals: Float[np.ndarray, 'n h w c'],
    reconstructions: Float[np.ndarray, 'n h w c'],
    *,
    llamagen_compat: bool = False,
) -> Float[np.ndarray, ' n']:
    """Computes the structural similarity of each image, the mean over pixels and channels (Wang et al. 2004).

    Gaussian window of 11x11 pixels with sigma 1.5, data range 1, K1 = 0.01, K2 = 0.03; the 5 border pixels, where the
    window does not fit, are left out.

    Args:
      originals: images in [-1, 1].
      reconstructions: images in [-1, 1]; values outside are clipped.
      llamagen_compat: uniform 7x7 window and a data range of 2, as in the evaluation script of LlamaGen.  That range
        is twice the true one and raises the scores: compare only with numbers of the same kind.

    Returns:
      One value per image, at most 1; NaN where the reconstruction holds a NaN.

    Raises:
      UserError: the images are smaller than the window.
    """
    window = 7 if llamagen_compat else 11
    height, width = originals.shape[1:3]
    if min(height, width) < window:
        raise UserError(f'ssim needs images of at least {window}x{window} pixels, got {height}x{width}')
    if llamagen_compat:
        options = {'win_size': window, 'data_range': 2.0}
    else:
        options = {'gaussian_weights': True, 'sigma': 1.5, 'use_sample_covariance': False, 'data_range': 1.0}
    pairs = zip(_unit(originals), _quantize(reconstructions), strict=True)
    return np.array([structural_similarity(a, b, channel_axis=-1, **options) for a, b in pairs], np.float64)


def _unit(images: Float[np.ndarray, '*n h w c']) -> Float[np.ndarray, '*n h w c']:
    return (images.astype(np.float64) + 1.0) / 2.0


def _quantize(images: Float[np.ndarray, '*n h w c']) -> Float[np.ndarray, '*n h w c']:
    """Converts images from [-1, 1] to [0, 1], rounded to 256 levels as `visualization.to_uint8` does, but keeps NaN."""
    return np.floor(np.clip(127.5 * images.astype(np.float64) + 128.0, 0, 255)) / 255.0
