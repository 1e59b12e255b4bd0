"""What is drawn is what was given; files are whole or absent."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from vistok.visualization import class_sheet, reconstruction_sheet, save_png, to_uint8


def plain(level, count, height, width):
    return np.full((count, height, width, 3), level, np.float32)


def test_every_byte_survives_a_round_trip():
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    np.testing.assert_array_equal(to_uint8((levels / 127.5 - 1).astype(np.float32)), levels)


def test_out_of_range_and_nan_values_become_valid_bytes():
    values = np.array([-9.0, -1.0, np.nan, 1.0, 9.0, np.inf], np.float32).reshape(1, 6, 1)
    assert to_uint8(values).ravel().tolist() == [0, 0, 128, 255, 255, 255]


def test_each_original_stands_above_its_reconstruction():
    rng = np.random.default_rng(0)
    originals = rng.uniform(-1, 1, (2, 128, 128, 3)).astype(np.float32)
    reconstructions = rng.uniform(-1, 1, (2, 128, 128, 3)).astype(np.float32)
    sheet = reconstruction_sheet(originals, reconstructions)
    for i in range(2):
        pair = np.concatenate(
            [to_uint8(originals[i]), np.full((2, 128, 3), 255, np.uint8), to_uint8(reconstructions[i])]
        )
        windows = np.lib.stride_tricks.sliding_window_view(sheet, pair.shape)[:, :, 0]
        assert (windows[:, :, 0, 0] == pair[0, 0]).all(-1).any()
        assert any((windows[y, x] == pair).all() for y, x in np.argwhere((windows[:, :, 0, 0] == pair[0, 0]).all(-1)))


def test_small_images_are_enlarged_and_large_ones_are_not():
    small = reconstruction_sheet(plain(-1, 1, 32, 32), plain(-1, 1, 32, 32))
    assert (small == 0).all(-1).sum() >= 2 * 128 * 128
    large = reconstruction_sheet(plain(-1, 1, 256, 256), plain(-1, 1, 256, 256))
    assert (large == 0).all(-1).sum() == pytest.approx(2 * 256 * 256, rel=0.001)


def test_many_images_are_broken_into_bands():
    sheet = reconstruction_sheet(plain(-1, 24, 64, 64), plain(-1, 24, 64, 64))
    assert sheet.shape[1] <= 1400
    assert (sheet == 0).all(-1).sum() >= 2 * 24 * 128 * 128


def test_captions_are_drawn_and_counted():
    images = plain(0, 2, 64, 64)
    bare, captioned = (reconstruction_sheet(images, images, c) for c in (None, ['31.2 dB', 'x' * 500]))
    assert captioned.shape[0] > bare.shape[0]
    assert captioned.shape[1] == bare.shape[1]
    with pytest.raises(ValueError, match='one caption for each of 2 images, got 1'):
        reconstruction_sheet(images, images, ['alone'])


def test_grains_are_shown_below_in_one_colour_each_with_their_shares():
    images = np.random.default_rng(0).uniform(-1, 1, (2, 128, 128, 3)).astype(np.float32)
    grain = np.ones((2, 32, 32), np.int32)
    grain[0, :, :16], grain[1] = 4, 2
    bare, mapped = (reconstruction_sheet(images, images, ['a', 'b'], g) for g in (None, grain))
    assert mapped.shape[0] >= bare.shape[0] + 128
    assert mapped.shape[1] == bare.shape[1]
    third = mapped[6 + 2 * 130 : 6 + 2 * 130 + 128, 22:150].astype(int)
    hue = third - third.mean(-1, keepdims=True)
    left, right = hue[:, :64].mean((0, 1)), hue[:, 64:].mean((0, 1))
    assert np.abs(hue[:, :64] - left).max() < 2  # the colour is the grain's, the brightness the image's
    assert np.abs(left - right).max() > 30
    assert np.corrcoef(third.mean(-1)[:, :64].ravel(), to_uint8(images)[0, :, :64].mean(-1).ravel())[0, 1] > 0.9
    below = mapped[6 + 3 * 130 + 15 : -6, 22:150]
    assert (below < 128).any()
    with pytest.raises(ValueError, match='one map of grains for each of 2 images, got 1'):
        reconstruction_sheet(images, images, None, grain[:1])


def test_an_empty_sheet_is_refused():
    with pytest.raises(ValueError, match='at least one image'):
        reconstruction_sheet(plain(0, 0, 8, 8), plain(0, 0, 8, 8))


def test_png_holds_the_exact_pixels_and_replaces_an_older_file(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    path = tmp_path / 'new' / 'folder' / 'a.png'
    save_png(path, np.zeros((5, 7, 3), np.uint8))
    save_png(path, image)
    np.testing.assert_array_equal(np.asarray(Image.open(path)), image)
    assert [p.name for p in path.parent.iterdir()] == ['a.png']


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / 'a.png'
    save_png(path, np.zeros((5, 7, 3), np.uint8))
    before = path.read_bytes()

    def fail(self, file, format):
        file.write(b'half')
        raise OSError('disk full')

    monkeypatch.setattr(Image.Image, 'save', fail)
    with pytest.raises(OSError, match='disk full'):
        save_png(path, np.ones((5, 7, 3), np.uint8))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ['a.png']


def test_a_sheet_of_classes_has_a_row_for_each_and_its_pixels():
    images = np.zeros((2, 3, 16, 16, 3), np.uint8)
    images[1, 2] = (200, 10, 30)
    sheet = class_sheet(images, ['cat', 'a name that is much too long for the margin before the row'])
    rows, columns = np.nonzero((sheet == (200, 10, 30)).all(-1))
    assert len(rows) == (4 * 16) ** 2  # enlarged by a whole factor
    assert rows.min() > sheet.shape[0] / 2 - 4
    assert columns.min() > sheet.shape[1] / 2
    assert (sheet[rows.min() - 30] == 0).any()  # the image above


def test_a_sheet_of_classes_needs_images_and_a_name_for_each_row():
    with pytest.raises(ValueError, match='at least one image'):
        class_sheet(np.zeros((0, 3, 8, 8, 3), np.uint8), [])
    with pytest.raises(ValueError, match='one name for each of 2 rows, got 1'):
        class_sheet(np.zeros((2, 1, 8, 8, 3), np.uint8), ['cat'])


def test_arrays_of_jax_become_the_same_bytes_also_when_compiled():
    images = np.linspace(-1.5, 1.5, 4 * 5 * 3, dtype=np.float32).reshape(4, 5, 3)
    images[0, 0] = np.nan, np.inf, -np.inf
    expected = to_uint8(images)
    assert expected[0, 0].tolist() == [128, 255, 0]
    for convert in (to_uint8, jax.jit(to_uint8)):
        found = convert(jnp.asarray(images))
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, expected)
