"""Crops have the stated sizes and places, take all randomness from the generator, and cover what they should."""

import numpy as np
import pytest
from golden_packs import load_pack
from image_files import colour_image
from PIL import Image

from vistok.data.images.augment import (
    Augmentation,
    TooSmall,
    augment,
    centre_crop,
    middle_box,
    random_crop,
    random_resized_crop,
    resize_crop,
    resize_shorter_side,
    zoom_crop,
)
from vistok.data.images.random_boxes import Box, box_sides, draw_place, draw_sides

SIZES = [(64, 64), (64, 100), (100, 64), (129, 257), (20, 31), (33, 500), (3, 2)]


@pytest.mark.parametrize('how', Augmentation.__args__)
@pytest.mark.parametrize(('height', 'width'), SIZES)
def test_view_is_square_bytes_and_follows_from_the_generator(how, height, width):
    image = colour_image(0, height, width)
    if how == 'random_crop' and min(height, width) < 32:
        with pytest.raises(TooSmall, match=f'{width}x{height} pixels, less than the crop of 32x32'):
            augment(image, np.random.default_rng(0), size=32, how=how, flip=True)
        return
    views = [augment(image, np.random.default_rng(5), size=32, how=how, flip=True) for _ in range(2)]
    assert views[0].shape == (32, 32, 3)
    assert views[0].dtype == np.uint8
    np.testing.assert_array_equal(*views)


def test_random_crop_reaches_every_position_equally():
    image = np.zeros((6, 7, 3), np.uint8)
    image[..., 0], image[..., 1] = np.arange(6)[:, None], np.arange(7)
    rng = np.random.default_rng(0)
    counts = np.zeros((4, 5), int)
    for _ in range(4000):
        view = random_crop(image, rng, 3)
        counts[view[0, 0, 0], view[0, 0, 1]] += 1
        np.testing.assert_array_equal(np.diff(view[..., 0].astype(int), axis=0), 1)
    assert counts.min() > 140  # 200 expected, standard deviation 14


def test_resize_crop_draws_every_side_from_size_to_a_quarter_more(monkeypatch):
    sides = set()
    monkeypatch.setattr(
        'vistok.data.images.augment.resize_shorter_side',
        lambda image, side: sides.add(side) or np.zeros((side, side, 3), np.uint8),
    )
    rng = np.random.default_rng(0)
    for _ in range(2000):
        resize_crop(np.zeros((8, 8, 3), np.uint8), rng, 256)
    assert sides == set(range(256, 321))


def test_zoom_crop_reaches_from_the_whole_image_to_four_times_its_size(monkeypatch):
    sides = []
    monkeypatch.setattr(
        'vistok.data.images.augment.resize_shorter_side',
        lambda image, side: sides.append(side) or np.zeros((side, side, 3), np.uint8),
    )
    rng = np.random.default_rng(0)
    for _ in range(2000):
        zoom_crop(np.zeros((8, 8, 3), np.uint8), rng, 64)
    assert min(sides) == 64
    assert max(sides) in (255, 256)
    assert 900 < sum(side < 128 for side in sides) < 1100


def test_random_resized_crops_have_the_sides_of_torchvision():
    pack = load_pack('recognition')
    for height, width, share, log_aspect, *expected in pack['crop_sides']:
        assert box_sides(share * height * width, np.exp(log_aspect)) == tuple(expected)
    for height, width, *box in pack['crop_fallbacks'].tolist():
        assert middle_box(height, width) == tuple(box)


def test_random_resized_crops_are_distributed_as_those_of_torchvision():
    rng, boxes = np.random.default_rng(0), []
    for _ in range(4000):
        sides = draw_sides(rng, (0.2, 1.0), 4 / 3, (200, 300))
        boxes.append(middle_box(200, 300) if sides is None else draw_place(rng, sides, (200, 300)))
    top, left, height, width = np.array(boxes).T
    places = (top / np.maximum(200 - height, 1), left / np.maximum(300 - width, 1))
    shares = np.stack([height * width / 60_000, width / height, *places])
    found = np.quantile(shares, np.linspace(0.05, 0.95, 19), axis=1)
    assert abs(found - load_pack('recognition')['crop_quantiles']).max() < 0.05  # deviations of 0.01 on either side


def test_random_resized_crop_is_the_resized_box_of_torchvision(monkeypatch):
    pack = load_pack('recognition')
    box = Box(*pack['crop_box'].tolist())
    monkeypatch.setattr('vistok.data.images.augment.draw_sides', lambda *_: (box.height, box.width))
    monkeypatch.setattr('vistok.data.images.augment.draw_place', lambda *_: box)
    view = random_resized_crop(pack['image'], np.random.default_rng(0), 16)
    assert abs(view.astype(int) - pack['crop_view']).max() <= 1  # another Pillow may round otherwise


def test_random_resized_crop_of_a_strip_is_its_middle():
    strip = colour_image(0, 12, 120)
    middle = Image.fromarray(strip[:, 52:68]).resize((8, 8), Image.Resampling.BICUBIC)
    views = [random_resized_crop(strip, np.random.default_rng(seed), 8, 1.0) for seed in range(3)]
    np.testing.assert_array_equal(views, [np.asarray(middle)] * 3)


def test_half_of_the_views_are_mirrored_and_none_without_flip():
    image = colour_image(1, 16, 16)
    rng = np.random.default_rng(0)
    views = [augment(image, rng, size=16, how='random_crop', flip=True) for _ in range(400)]
    mirrored = [np.array_equal(view, image[:, ::-1]) for view in views]
    assert all(m or np.array_equal(view, image) for m, view in zip(mirrored, views, strict=True))
    assert 160 < sum(mirrored) < 240
    views = [augment(image, rng, size=16, how='random_crop', flip=False) for _ in range(50)]
    assert all(np.array_equal(view, image) for view in views)


def test_centre_crop_of_an_exact_image_is_the_image():
    image = colour_image(2, 32, 32)
    np.testing.assert_array_equal(centre_crop(image, 32), image)


@pytest.mark.parametrize(('height', 'width', 'top', 'left'), [(32, 41, 0, 4), (39, 32, 3, 0)])
def test_centre_crop_takes_the_middle_rounded_down(height, width, top, left):
    image = colour_image(2, height, width)
    np.testing.assert_array_equal(centre_crop(image, 32), image[top : top + 32, left : left + 32])


def test_large_images_are_halved_by_box_until_less_than_twice_the_size():
    for height in (128, 130):
        image = colour_image(4, height, 140)
        half = Image.fromarray(image).resize((70, height // 2), Image.Resampling.BOX)
        np.testing.assert_array_equal(
            resize_shorter_side(image, 32), np.asarray(half.resize((35, 32), Image.Resampling.BOX))
        )
    once = Image.fromarray(colour_image(4, 100, 126)).resize((63, 50), Image.Resampling.BOX)
    expected = np.asarray(once.resize((40, 32), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(resize_shorter_side(colour_image(4, 100, 126), 32), expected)


@pytest.mark.parametrize(('height', 'width'), SIZES)
def test_shorter_side_is_exact(height, width):
    assert min(resize_shorter_side(colour_image(0, height, width), 48).shape[:2]) == 48


def test_unknown_augmentation_is_answered_with_the_known_ones():
    with pytest.raises((ValueError, TypeError), match=r"resize_crop.*'stretch'|how"):
        augment(colour_image(0), np.random.default_rng(0), size=8, how='stretch', flip=False)
