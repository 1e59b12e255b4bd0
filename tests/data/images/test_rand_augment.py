"""RandAugment and random erasing: the arguments, images and sizes of timm, and all randomness from the generator."""

import collections

import numpy as np
import pytest
from golden_packs import load_pack
from image_files import colour_image
from PIL import Image

from vistok.data.images import rand_augment as module
from vistok.data.images.augment import Distortions, augment
from vistok.data.images.rand_augment import OPERATIONS, Operation, rand_augment
from vistok.data.images.random_boxes import box_sides
from vistok.data.images.random_erasing import AREA_SHARES, draw_hole, erase_at_random
from vistok.errors import UserError

PACK = load_pack('recognition')
TIMM = dict(
    zip(
        ['AutoContrast', 'Equalize', 'Invert', 'Rotate', 'PosterizeIncreasing', 'SolarizeIncreasing', 'SolarizeAdd',
         'ColorIncreasing', 'ContrastIncreasing', 'BrightnessIncreasing', 'SharpnessIncreasing', 'ShearX', 'ShearY',
         'TranslateXRel', 'TranslateYRel'],
        OPERATIONS,
        strict=True,
    )
)  # fmt: skip


def test_the_operations_are_those_of_timm():
    assert list(TIMM) == PACK.manifest['rand_augment_operations']


@pytest.mark.parametrize(('number', 'name'), list(enumerate(OPERATIONS)))
def test_magnitudes_become_the_arguments_of_timm(number, name):
    for level, expected in zip(PACK['rand_augment_levels'], PACK['rand_augment_arguments'][number], strict=True):
        found = [OPERATIONS[name].argument(float(level), sign) for sign in (1, -1)]
        np.testing.assert_allclose(found, expected, atol=1e-12, err_msg=f'{name} at {level}')


@pytest.mark.parametrize(('number', 'name'), list(enumerate(OPERATIONS)))
def test_operations_give_the_images_of_timm(number, name):
    operation, image = OPERATIONS[name], Image.fromarray(PACK['image'])
    magnitudes = zip(PACK.manifest['rand_augment_view_magnitudes'], (1, -1), strict=True)
    for view, (magnitude, sign) in zip(PACK['rand_augment_views'][number], magnitudes, strict=True):
        found = np.asarray(operation.apply(image, operation.argument(magnitude, sign)))
        assert np.abs(found.astype(int) - view).max() <= 1, name  # another Pillow may round otherwise


def test_two_operations_are_drawn_and_half_of_them_carried_out(monkeypatch):
    drawn, magnitudes, signs = collections.Counter(), [], collections.Counter()

    def note(magnitude, sign):
        magnitudes.append(magnitude)
        signs[sign] += 1
        return 0.0

    def counted(name):
        return Operation(note, lambda image, _: drawn.update([name]) or image)

    monkeypatch.setattr(module, 'OPERATIONS', {name: counted(name) for name in OPERATIONS})
    rng, image = np.random.default_rng(0), np.zeros((4, 4, 3), np.uint8)
    for _ in range(3000):
        rand_augment(image, rng)
    assert 2800 < sum(drawn.values()) < 3200  # 3,000 expected, deviation 39
    assert set(drawn) == set(OPERATIONS)
    assert min(drawn.values()) > 140  # 200 expected, deviation 14
    assert min(signs.values()) > 1350
    assert max(magnitudes) <= 10
    assert 8.9 < np.median(magnitudes) < 9.1
    assert 0.3 < np.std(magnitudes) < 0.5  # of the normal distribution, clipped at two deviations


def test_a_small_magnitude_is_clipped_at_zero(monkeypatch):
    magnitudes = []
    note = Operation(lambda magnitude, _: magnitudes.append(magnitude) or 0.0, lambda image, _: image)
    monkeypatch.setattr(module, 'OPERATIONS', {'one': note})
    rng = np.random.default_rng(0)
    for _ in range(100):
        rand_augment(np.zeros((4, 4, 3), np.uint8), rng, 0.0)
    assert min(magnitudes) == 0 < max(magnitudes) < 2


def test_erased_rectangles_have_the_sides_of_timm():
    for height, width, share, log_aspect, *expected in PACK['erasing_sides']:
        # timm's ratio is height over width.
        found = box_sides(share * height * width, 1 / np.exp(log_aspect))
        fits = found[0] < height and found[1] < width
        assert found == tuple(expected) if fits else expected == [0, 0]


def test_holes_are_smaller_than_the_image_and_cover_the_stated_range():
    rng = np.random.default_rng(0)
    holes = [draw_hole(rng, 40, 60) for _ in range(2000)]
    shares = [hole.height * hole.width / 2400 for hole in holes if hole is not None]
    assert len(shares) > 1990
    assert all(0 <= hole.top <= 40 - hole.height and 0 <= hole.left <= 60 - hole.width for hole in holes if hole)
    assert all(hole.height < 40 and hole.width < 60 for hole in holes if hole)
    assert AREA_SHARES[0] - 0.005 < min(shares) < 0.03
    assert 0.31 < max(shares) < AREA_SHARES[1] + 0.015
    assert 0.15 < np.mean(shares) < 0.19


def test_a_share_of_the_images_gets_a_hole_of_noise_and_keeps_the_rest():
    image = colour_image(0, 32, 32)
    before, rng, erased = image.copy(), np.random.default_rng(0), 0
    for _ in range(400):
        view = erase_at_random(image, rng, 0.25)
        changed = (view != image).any(axis=-1)
        if not changed.any():
            continue
        erased += 1
        rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
        inside = view[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert changed.sum() > 0.95 * inside[..., 0].size
        if inside.size > 600:
            assert 40 < inside.std() < 80  # 58, less where clipped
    assert 70 < erased < 130
    np.testing.assert_array_equal(image, before)


def test_distortions_follow_from_the_generator_and_change_nothing_that_was_drawn_before_them():
    image = colour_image(0, 40, 40)
    options = {'size': 32, 'how': 'random_resized_crop', 'flip': True}
    plain = [augment(image, np.random.default_rng(seed), **options) for seed in range(8)]
    strong = Distortions(rand_augment=9.0, erasing=0.5)
    views = [augment(image, np.random.default_rng(seed), **options, distortions=strong) for seed in range(8)]
    again = [augment(image, np.random.default_rng(seed), **options, distortions=strong) for seed in range(8)]
    np.testing.assert_array_equal(views, again)
    differ = [(a != b).any() for a, b in zip(plain, views, strict=True)]
    assert 3 <= sum(differ) < 8  # all distortions pass some images unchanged


@pytest.mark.parametrize(
    ('settings', 'answer'),
    [
        ({'least_area': 0.0}, r'above 0 and at most 1, got 0\.0'),
        ({'least_area': 1.5}, r'above 0 and at most 1, got 1\.5'),
        ({'rand_augment': 11.0}, r'magnitude of rand_augment must be in \[0, 10\], got 11\.0'),
        ({'erasing': -0.1}, r'probability of random erasing must be in \[0, 1\], got -0\.1'),
    ],
)
def test_settings_out_of_range_are_answered_in_a_sentence(settings, answer):
    with pytest.raises(UserError, match=answer):
        Distortions(**settings)
