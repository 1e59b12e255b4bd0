"""Mixtures of images: the boxes, images and targets of timm, and batches that depend on the seed alone."""

import numpy as np
import pytest
from golden_packs import load_pack
from image_files import colour_image

from vistok.data.images.mixing import Mixing, Mixture, cut_mixture
from vistok.data.images.pipeline import train_batches
from vistok.data.images.source import ImageRecord
from vistok.errors import UserError

PACK = load_pack('recognition')


class Images:
    """Twelve images of as many classes."""

    name = 'images'
    class_names = tuple('abcdefghijkl')

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> ImageRecord:
        return ImageRecord(colour_image(index, 20, 20), index, str(index))


def batches(count=3, mixing=Mixing(mixup=0.8, cutmix=1.0), **options):  # noqa: B008 - it is frozen
    settings = {'image_size': 16, 'batch_size': 8, 'seed': 3, 'threads': 0, 'mixing': mixing} | options
    iterator = train_batches(Images(), **settings)
    return [next(iterator) for _ in range(count)]


def test_cut_boxes_and_shares_are_those_of_timm():
    for height, width, share, row, column, *expected in PACK['cutmix_boxes']:
        found = cut_mixture(share, (int(height), int(width)), (int(row), int(column)))
        np.testing.assert_allclose([*found.box, found.share], expected, atol=1e-12)


@pytest.mark.parametrize('name', ['mixup', 'cutmix'])
def test_mixed_images_are_those_of_timm(name):
    mixture = Mixture(0.3) if name == 'mixup' else cut_mixture(0.3, (8, 6), (5, 1))
    found = mixture.apply(PACK['mix_images'].transpose(0, 2, 3, 1))
    # Of two images, timm mixes the first with the second whether it draws for a batch or for a pair.
    for mode in ('batch', 'pair'):
        np.testing.assert_allclose(found, PACK[f'{name}_{mode}_images'].transpose(0, 2, 3, 1), atol=1e-6)


def test_a_mixed_batch_has_both_labels_and_the_share_of_the_first():
    for batch in batches():
        assert batch['image'].shape == (8, 16, 16, 3)
        assert batch['image'].dtype == np.float32
        assert abs(batch['image']).max() <= 1
        labels, others = batch['label'].reshape(-1, 2), batch['other_label'].reshape(-1, 2)
        np.testing.assert_array_equal(labels, others[:, ::-1])
        assert batch['share'].dtype == np.float32
        np.testing.assert_array_equal(batch['share'][::2], batch['share'][1::2])
        assert len(np.unique(batch['share'])) > 1


def test_the_mixed_images_are_the_augmented_ones():
    plain = batches(mixing=Mixing())
    for mixed, batch in zip(batches(mixing=Mixing(mixup=0.8)), plain, strict=True):
        share = mixed['share'][:, None, None, None]
        other = batch['image'].reshape(4, 2, 16, 16, 3)[:, ::-1].reshape(8, 16, 16, 3)
        np.testing.assert_allclose(mixed['image'], share * batch['image'] + (1 - share) * other, atol=1e-6)
        np.testing.assert_array_equal(mixed['label'], batch['label'])


def test_mixtures_depend_on_the_seed_alone_and_processes_share_them_out():
    one = batches()
    for a, b in zip(one, batches(threads=2), strict=True):
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])
    assert not np.array_equal(one[0]['share'], batches(seed=4)[0]['share'])
    parts = [batches(process_index=i, process_count=2) for i in range(2)]
    for whole, *shared in zip(one, *parts, strict=True):
        both = {name: np.concatenate([part[name].reshape(2, 2, -1) for part in shared], axis=1) for name in whole}
        for name, joined in both.items():
            np.testing.assert_array_equal(joined.reshape(whole[name].shape), whole[name], err_msg=name)


def test_a_group_of_images_is_mixed_in_one_way():
    shares = np.concatenate([batch['share'] for batch in batches(mixing=Mixing(mixup=0.8, group=16), count=4)])
    assert len(np.unique(shares[:16])) == len(np.unique(shares[16:])) == 1
    assert shares[0] != shares[16]


def test_a_position_in_the_stream_can_be_restored():
    settings = {'image_size': 16, 'batch_size': 8, 'seed': 3, 'threads': 0, 'mixing': Mixing(cutmix=1.0)}
    first, second = train_batches(Images(), **settings), train_batches(Images(), **settings)
    next(first)
    second.restore(first.state())
    restored = next(second)
    for name, values in next(first).items():
        np.testing.assert_array_equal(values, restored[name])


def test_shares_follow_the_beta_distribution_and_half_of_the_mixtures_are_cut():
    rng, mixing = np.random.default_rng(0), Mixing(mixup=0.8, cutmix=1.0)
    drawn = [mixing.draw(rng, 64, 64) for _ in range(4000)]
    averaged = [mixture.share for mixture in drawn if mixture.box is None]
    assert 1850 < len(averaged) < 2150
    assert 0.47 < np.mean(averaged) < 0.53
    assert 0.095 - 0.01 < np.var(averaged) < 0.095 + 0.01  # 1 / (4 (2 a + 1))
    assert all(Mixing(mixup=1.0).draw(rng, 8, 8).box is None for _ in range(20))
    assert all(Mixing(cutmix=1.0).draw(rng, 8, 8).box is not None for _ in range(20))


def test_a_share_of_the_pixels_is_that_of_the_label():
    rng = np.random.default_rng(0)
    pair = np.stack([np.zeros((24, 18, 1), np.float32), np.ones((24, 18, 1), np.float32)])
    for mixing in (Mixing(mixup=0.8), Mixing(cutmix=1.0)):
        for _ in range(50):
            mixture = mixing.draw(rng, 24, 18)
            np.testing.assert_allclose(mixture.apply(pair)[0].mean(), 1 - mixture.share, atol=1e-6)


@pytest.mark.parametrize(
    ('settings', 'answer'),
    [
        ({'mixup': -1.0}, r'mixup must be at least 0, got -1\.0'),
        ({'cutmix': -0.5}, r'cutmix must be at least 0, got -0\.5'),
        ({'switch': 1.5}, r'must be in \[0, 1\], got 1\.5'),
        ({'group': 3}, 'must be even and at least 2, got 3'),
    ],
)
def test_settings_out_of_range_are_answered_in_a_sentence(settings, answer):
    with pytest.raises(UserError, match=answer):
        Mixing(**settings)


def test_an_odd_number_of_images_is_refused():
    with pytest.raises(UserError, match='an even number of images in each process, got 3'):
        batches(batch_size=6, process_count=2)
