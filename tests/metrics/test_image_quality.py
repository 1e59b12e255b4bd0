"""PSNR and SSIM against recorded values of scikit-image and against their definitions."""

import math
from pathlib import Path

import numpy as np
import pytest

from vistok.metrics.image_quality import psnr, ssim

GOLDEN = Path(__file__).parents[1] / 'golden' / 'psnr_ssim' / 'io.npz'


@pytest.fixture(scope='module')
def golden():
    with np.load(GOLDEN) as arrays:
        return dict(arrays)


def signed(pixels):
    """Bytes as float32 images in [-1, 1]."""
    return (pixels / 127.5 - 1.0).astype(np.float32)


def test_psnr_equals_the_recorded_values(golden):
    values = psnr(signed(golden['reference']), signed(golden['test']))
    np.testing.assert_allclose(values, golden['psnr_u8'], atol=1e-4)
    np.testing.assert_allclose(values, golden['psnr_llamagen'], atol=1e-4)


def test_ssim_equals_the_recorded_gaussian_values(golden):
    values = ssim(signed(golden['reference']), signed(golden['test']))
    np.testing.assert_allclose(values, golden['ssim_gaussian'], atol=1e-5)


def test_llamagen_compat_equals_the_recorded_values_of_their_script(golden):
    values = ssim(signed(golden['reference']), signed(golden['test']), llamagen_compat=True)
    np.testing.assert_allclose(values, golden['ssim_llamagen'], atol=1e-5)


def test_psnr_of_a_known_error():
    originals = np.full((1, 4, 4, 3), -1.0, np.float32)
    reconstructions = originals + np.float32(2 * 51 / 255)  # 51 of 255 levels: a fifth of the range
    assert psnr(originals, reconstructions)[0] == pytest.approx(10 * math.log10(25), abs=1e-4)


def test_every_byte_survives_the_rounding():
    levels = signed(np.arange(256, dtype=np.uint8)).reshape(1, 16, 16, 1)
    assert psnr(levels, levels)[0] > 100  # only the float32 noise of the original is left
    quarter_level = np.float32(0.25 / 127.5)
    np.testing.assert_allclose(psnr(levels, levels + quarter_level), psnr(levels, levels))


def test_values_outside_the_range_are_clipped():
    originals = np.ones((1, 16, 16, 3), np.float32)
    assert psnr(originals, 5 * originals)[0] == math.inf
    assert ssim(originals, 5 * originals)[0] == pytest.approx(1.0)


def test_images_are_measured_one_by_one(golden):
    a, b = signed(golden['reference']), signed(golden['test'])
    for metric in (psnr, ssim):
        np.testing.assert_array_equal(metric(a, b)[1:], metric(a[1:], b[1:]))


def test_a_broken_reconstruction_gives_nan_and_spares_the_others(golden):
    a, b = signed(golden['reference']), signed(golden['test'])
    b[0, 10, 10, 0] = np.nan
    for metric in (psnr, ssim):
        values = metric(a, b)
        assert np.isnan(values[0])
        assert np.isfinite(values[1])


def test_images_smaller_than_the_window_are_refused():
    tiny = np.ones((1, 8, 20, 3), np.float32)
    assert ssim(tiny, tiny, llamagen_compat=True)[0] == pytest.approx(1.0)
    with pytest.raises(ValueError, match='at least 11x11 pixels, got 8x20'):
        ssim(tiny, tiny)
