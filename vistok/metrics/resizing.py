"""Image resizing of published evaluators (TensorFlow 1, PyTorch, Pillow); FID depends on which one is used.

Each is linear in rows and in columns, so each is a pair of matrices.  They are computed on the host in float64 and
applied in float32 with exact products.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Weights = Callable[[int, int], np.ndarray]


def tf1_bilinear(images: Float[Array, 'b h w c'], side: int) -> Float[Array, 'b {side} {side} c']:
    """Resizes like TensorFlow 1's bilinear: output i lies at input i * in / out (no half-pixel shift), not
    antialiased.
    """
    return _resize(_tf1_bilinear_weights, images, side)


def torch_bilinear(images: Float[Array, 'b h w c'], side: int) -> Float[Array, 'b {side} {side} c']:
    """Resizes like PyTorch's bilinear: pixel centres at half integers (`align_corners=False`), not antialiased."""
    return _resize(_torch_bilinear_weights, images, side)


def pil_bicubic(images: Float[Array, 'b h w c'], side: int) -> Float[Array, 'b {side} {side} c']:
    """Resizes like Pillow's bicubic on float channels: antialiased, a = -0.5, clipped to [0, 255], not rounded.

    Clean-FID (Parmar, Zhang, Zhu 2022) measures after this one.
    """
    return jnp.clip(_resize(_pil_bicubic_weights, images, side), 0.0, 255.0)


def _resize(weights: Weights, images: Float[Array, 'b h w c'], side: int) -> Float[Array, 'b s s c']:
    rows, columns = (weights(source, side) for source in images.shape[1:3])
    exact = jax.lax.Precision.HIGHEST
    images = jnp.einsum('iw,bhwc->bhic', columns, images, precision=exact)
    return jnp.einsum('ih,bhwc->biwc', rows, images, precision=exact)


def _interpolating(position: np.ndarray, source: int) -> np.ndarray:
    """Builds the matrix of linear interpolation between the two nearest pixels; border pixels are repeated."""
    position = np.clip(position, 0, source - 1)
    low = np.floor(position).astype(int)
    matrix = np.zeros((len(position), source))
    row = np.arange(len(position))
    matrix[row, low] = 1 - (position - low)
    matrix[row, np.minimum(low + 1, source - 1)] += position - low
    return matrix.astype(np.float32)


@functools.cache
def _tf1_bilinear_weights(source: int, target: int) -> np.ndarray:
    return _interpolating(np.arange(target) * source / target, source)


@functools.cache
def _torch_bilinear_weights(source: int, target: int) -> np.ndarray:
    return _interpolating((np.arange(target) + 0.5) * source / target - 0.5, source)


@functools.cache
def _pil_bicubic_weights(source: int, target: int) -> np.ndarray:
    if source == target:  # Pillow copies
        return np.eye(source, dtype=np.float32)
    a = -0.5
    scale = max(source / target, 1.0)  # shrinking widens the kernel
    centre = (np.arange(target) + 0.5) * source / target
    # Pixels whose centres lie within the rounded support count, as Pillow counts them.
    first = np.maximum(np.floor(centre - 2 * scale + 0.5), 0)[:, None]
    last = np.minimum(np.floor(centre + 2 * scale + 0.5), source)[:, None]
    pixel = np.arange(source)[None, :]
    x = np.abs((pixel + 0.5 - centre[:, None]) / scale)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    weights = np.where(x < 1, near, np.where(x < 2, far, 0.0))
    weights = np.where((pixel >= first) & (pixel < last), weights, 0.0)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
