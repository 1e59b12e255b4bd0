"""From images to what the metrics know, through the stand-in network and through a network of three numbers."""

import dataclasses

import flax.linen as nn
import flax.struct
import jax
import numpy as np
import pytest

from vistok.data.images.byte_batches import open_byte_batches
from vistok.errors import UserError
from vistok.metrics.feature_extractor import FeatureExtractor, load_extractor
from vistok.metrics.feature_set import FeatureCollector, load_statistics, save_statistics
from vistok.metrics.feature_statistics import extract_features, open_reference
from vistok.metrics.protocols import PROTOCOLS, find_protocol


@flax.struct.dataclass
class Output:
    """What Inception gives, smaller."""

    pool: jax.Array
    spatial: jax.Array
    unbiased_logits: jax.Array


class MeanColours(nn.Module):
    """Mean colours."""

    @nn.compact
    def __call__(self, images):
        colours = images.mean((1, 2))
        return Output(colours, images[:, 0, :, 0], 5 * colours)


SMALL_ADM = dataclasses.replace(PROTOCOLS['adm'], side=4)


@pytest.fixture(scope='module')
def adm():
    return FeatureExtractor(SMALL_ADM, MeanColours(), {})


@pytest.fixture(scope='module')
def stand_in():
    return load_extractor(PROTOCOLS['stand_in'])


def pixels(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)


def sample_file(path, count=10, **more):
    np.savez(path, arr_0=pixels(count), labels=np.arange(count) % 3, **more)
    return str(path)


def test_what_is_found_does_not_depend_on_the_batches(adm, tmp_path):
    file = sample_file(tmp_path / 's.npz')
    one, other = (extract_features(open_byte_batches(file, batch_size=size), adm) for size in (4, 10))
    assert one.images_sha256 == other.images_sha256
    assert one.pool.count == 10
    np.testing.assert_allclose(one.pool.covariance, other.pool.covariance, rtol=1e-9)
    np.testing.assert_allclose(one.spatial.mean, other.spatial.mean)
    np.testing.assert_allclose(one.logits, other.logits)
    assert one.labels.tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2, 0]
    # 128 is black-and-white's middle: features are (mean - 128) / 128, the resize of 8 to 4 takes every other pixel.
    expected = (pixels(10)[:, ::2, ::2].mean((1, 2)) - 128) / 128
    np.testing.assert_allclose(one.features, expected, atol=1e-5)


def test_other_images_have_another_digest(adm):
    found = []
    for images in (pixels(4), pixels(4, seed=1), pixels(4).reshape(4, 4, 16, 3)):
        collector = FeatureCollector(adm, 'x', 4)
        collector.add(images)
        found.append(collector.finish().images_sha256)
    assert len(set(found)) == 3


def test_a_reference_keeps_features_spread_over_the_whole_set(adm):
    collector = FeatureCollector(adm, 'x', 5, keep=5, total=20)
    for start in range(0, 20, 5):
        collector.add(pixels(20)[start : start + 5])
    everything = (pixels(20)[:, ::2, ::2].mean((1, 2)) - 128) / 128
    np.testing.assert_allclose(collector.finish().features, everything[3::4], atol=1e-5)


def test_statistics_survive_the_file(adm, tmp_path):
    found = extract_features(open_byte_batches(sample_file(tmp_path / 's.npz')), adm)
    save_statistics(tmp_path / 'sub' / 'r.npz', found)
    again = open_reference(str(tmp_path / 'sub' / 'r.npz'), adm)
    for name in ('protocol', 'network_sha256', 'images', 'images_sha256'):
        assert getattr(again, name) == getattr(found, name)
    assert again.pool.count == 10
    np.testing.assert_array_equal(again.pool.covariance, found.pool.covariance)
    np.testing.assert_array_equal(again.spatial.mean, found.spatial.mean)
    np.testing.assert_array_equal(again.features, found.features)


def test_statistics_of_another_protocol_are_refused(adm, stand_in, tmp_path):
    save_statistics(tmp_path / 'r.npz', extract_features(open_byte_batches(sample_file(tmp_path / 's.npz')), adm))
    with pytest.raises(UserError, match="protocol 'adm', which cannot be used for 'stand_in'"):
        open_reference(str(tmp_path / 'r.npz'), stand_in)


def test_references_of_adm_bring_statistics_of_all_and_images_of_some(adm, tmp_path):
    moments = {'mu': np.ones(3), 'sigma': np.eye(3), 'mu_s': np.ones(4), 'sigma_s': np.eye(4)}
    found = open_reference(sample_file(tmp_path / 'adm.npz', count=6, **moments), adm)
    np.testing.assert_array_equal(found.pool.mean, np.ones(3))
    assert found.spatial is not None
    assert (found.features.shape, found.protocol, found.pool.count) == ((6, 3), 'adm', 0)
    assert len(found.images_sha256) == 64


def test_statistics_without_spatial_ones_are_those_of_pytorch_fid(adm, tmp_path):
    np.savez(tmp_path / 'p.npz', mu=np.ones(3), sigma=np.eye(3))
    assert load_statistics(tmp_path / 'p.npz').protocol == 'pytorch_fid'
    with pytest.raises(UserError, match="'pytorch_fid', which cannot be used for 'adm'"):
        open_reference(str(tmp_path / 'p.npz'), adm)


def test_the_stand_in_tells_images_apart(stand_in, tmp_path):
    found = extract_features(open_byte_batches('embedded:digits', split='validation', batch_size=64), stand_in)
    assert found.features.shape[1] == 192
    assert np.linalg.matrix_rank(found.features - found.features.mean(0)) > 50
    assert found.protocol == 'stand_in'
    assert found.logits is None
    assert len(found.network_sha256) == 64


def test_protocols_that_need_weights_say_which(tmp_path):
    with pytest.raises(UserError, match='needs the Inception weights of pytorch-fid'):
        load_extractor(PROTOCOLS['adm'])
    (tmp_path / 'w.pth').write_bytes(b'anything')
    with pytest.raises(UserError, match='not the published file: its sha256 starts with ee087417'):
        load_extractor(PROTOCOLS['adm'], tmp_path / 'w.pth')
    with pytest.raises(UserError, match='has the sha256'):
        load_extractor(PROTOCOLS['adm'], tmp_path / 'w.pth', sha256='0' * 64)
    with pytest.raises(UserError, match='comes with its weights'):
        load_extractor(PROTOCOLS['stand_in'], tmp_path / 'w.pth')
    with pytest.raises(UserError, match="'tensorflow' is none of adm, pytorch_fid"):
        find_protocol('tensorflow')


def test_a_set_without_readable_images_is_refused(adm, tmp_path):
    with pytest.raises(UserError, match='1 readable images; at least 2'):
        extract_features(open_byte_batches(sample_file(tmp_path / 's.npz', count=1)), adm)
