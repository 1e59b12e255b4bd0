"""Windows: each cell has one owner, all have one shape, and their joints do not show."""

import tracemalloc

import numpy as np
import pytest

from vistok.compression.windows import StripBlender, WindowAxis

SIZES = [
    (4, 12, 4, 1),
    (12, 12, 4, 1),
    (100, 12, 4, 1),
    (100, 32, 8, 4),
    (33, 32, 8, 1),
    (96, 32, 0, 4),
    (25, 3, 1, 1),
    (36, 12, 4, 4),
]


@pytest.mark.parametrize(('cells', 'window', 'halo', 'unit'), SIZES)
def test_every_cell_has_one_owner_with_its_halo(cells, window, halo, unit):
    owners = np.zeros(cells, int)
    assert (len(WindowAxis(cells, window, halo, unit)) == 1) == (cells <= window)
    for span in WindowAxis(cells, window, halo, unit):
        owners[span.core] += 1
        assert span.stop - span.start == min(window, cells)
        assert span.core_start % unit == span.core_stop % unit == span.start % unit == 0
        assert 0 <= span.start <= max(span.core_start - halo, 0)
        assert min(span.core_stop + halo, cells) <= span.stop <= cells
    assert (owners == 1).all()


@pytest.mark.parametrize(('cells', 'window', 'halo', 'unit'), SIZES)
def test_weights_add_up_to_one(cells, window, halo, unit):
    axis = WindowAxis(cells, window, halo, unit)
    total = np.zeros(3 * cells)
    for number, span in enumerate(axis):
        weights = axis.compute_blend_weights(number, 3)
        total[3 * span.start : 3 * span.stop] += weights
        assert weights.min() >= 0
    np.testing.assert_allclose(total, 1, atol=1e-6)


def blended(image, window, halo, scale, offset=lambda y, x: 0.0):
    """The image, cut into windows and put together again; each window may be brighter or darker."""
    vertical, horizontal = (WindowAxis(side // scale, window, halo) for side in image.shape[:2])
    strips = StripBlender(vertical, scale, image.shape[1])
    across = [horizontal.compute_blend_weights(number, scale) for number in range(len(horizontal))]

    def windows(row, span):
        for column, (x, weights) in enumerate(zip(horizontal, across, strict=True)):
            place = slice(x.start * scale, x.stop * scale)
            part = image[span.start * scale : span.stop * scale, place] + np.float32(offset(row, column))
            yield place, part * weights[:, None]

    return [strips.blend_row(row, windows(row, span)) for row, span in enumerate(vertical)]


def test_windows_that_agree_give_the_image():
    image = np.random.default_rng(0).uniform(-1, 1, (132, 88, 3)).astype(np.float32)
    rows = blended(image, 12, 4, 4)
    assert max(map(len, rows)) <= 12 * 4
    np.testing.assert_allclose(np.concatenate(rows), image, atol=1e-6)


def test_windows_that_disagree_fade_into_each_other():
    whole = np.concatenate(blended(np.zeros((200, 200, 3), np.float32), 24, 4, 4, lambda y, x: (y + x) % 2))
    assert 0 <= whole.min() < 0.1
    assert 0.9 < whole.max() <= 1
    steps = max(np.abs(np.diff(whole, axis=0)).max(), np.abs(np.diff(whole, axis=1)).max())
    assert steps < 1.01 / (2 * 4 * 4)


def test_millions_of_windows_take_no_memory():
    """A header of a few bytes may claim an image that is one pixel wide and 134 million high."""
    tracemalloc.start()
    axis = WindowAxis(1 << 27, 1, 0)
    StripBlender(axis, 1, 1)
    assert len(axis) == 1 << 27
    assert (axis[-1].core_stop, axis[-1].window) == (1 << 27, slice((1 << 27) - 1, 1 << 27))
    assert tracemalloc.get_traced_memory()[1] < 1 << 16
    tracemalloc.stop()
