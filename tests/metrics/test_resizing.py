"""The resize functions of the evaluators, by hand and against Pillow."""

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from vistok.metrics import resizing

ALL = (resizing.tf1_bilinear, resizing.torch_bilinear, resizing.pil_bicubic)


def row(*values):
    """An image of equal rows, one channel."""
    return jnp.tile(jnp.array(values, jnp.float32)[None, None, :, None], (1, len(values), 1, 1))


def resized_row(resize, values, side):
    return np.asarray(resize(row(*values), side))[0, 0, :, 0]


def test_tf1_starts_at_the_corner_without_half_a_pixel():
    np.testing.assert_allclose(resized_row(resizing.tf1_bilinear, (0, 12), 4), [0, 6, 12, 12], atol=1e-5)
    np.testing.assert_allclose(resized_row(resizing.tf1_bilinear, (0, 1, 2, 9), 2), [0, 2], atol=1e-6)


def test_torch_aligns_centres_and_does_not_smooth():
    np.testing.assert_allclose(resized_row(resizing.torch_bilinear, (0, 12), 4), [0, 3, 9, 12], atol=1e-5)
    # Half the size: each output lies between two pixels.  A quarter: only the middle two of four count.
    np.testing.assert_allclose(resized_row(resizing.torch_bilinear, (0, 4, 8, 0), 2), [2, 4], atol=1e-6)
    eight = (100, 4, 6, 100, 100, 2, 4, 100)
    np.testing.assert_allclose(resized_row(resizing.torch_bilinear, eight, 2), [5, 3], atol=1e-5)


@pytest.mark.parametrize(('height', 'width', 'side'), [(20, 33, 47), (64, 50, 23), (31, 31, 31)])
def test_bicubic_is_pillows(height, width, side):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.float32)
    pixels[:, : width // 2, 0], pixels[:, width // 2 :, 0] = 0, 255  # an edge, beyond which the cubic overshoots
    channels = [Image.fromarray(pixels[..., c]).resize((side, side), Image.Resampling.BICUBIC) for c in range(3)]
    expected = np.clip(np.stack([np.asarray(channel) for channel in channels], axis=-1), 0, 255)
    assert side == width or min(np.asarray(channel).min() for channel in channels) < 0  # so that clipping is seen
    np.testing.assert_allclose(resizing.pil_bicubic(jnp.asarray(pixels[None]), side)[0], expected, atol=2e-3)


@pytest.mark.parametrize('resize', ALL)
def test_rows_and_columns_are_treated_alike_and_grey_stays_grey(resize):
    image = jnp.asarray(np.random.default_rng(0).uniform(0, 255, (1, 9, 14, 3)), jnp.float32)
    turned = resize(image.swapaxes(1, 2), 21).swapaxes(1, 2)
    np.testing.assert_allclose(resize(image, 21), turned, atol=1e-3)
    np.testing.assert_allclose(resize(jnp.full((1, 9, 14, 3), 77.0), 21), 77.0, rtol=1e-5)
