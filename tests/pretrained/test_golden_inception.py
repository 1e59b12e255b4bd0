"""Inception and the ways into it against numbers recorded from pytorch-fid."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from golden_packs import Pack, load_pack

import vistok
from vistok.experiments import official_models
from vistok.metrics.feature_extractor import FeatureExtractor
from vistok.metrics.protocols import PROTOCOLS
from vistok.weights.rules import Network

BLOCKS = ('Conv2d_2b_3x3', 'Conv2d_4a_3x3', 'Mixed_6d', 'Mixed_6e')


@dataclasses.dataclass(frozen=True)
class Case:
    """The pack, the network made of it, and what the network says to the recorded images."""

    pack: Pack
    state_dict: dict
    network: Network
    resized: np.ndarray
    features: dict
    blocks: dict


@functools.partial(jax.jit, static_argnums=0)
def run(module, variables, images):
    resized = PROTOCOLS['pytorch_fid'].prepare(images)
    wanted = lambda part, _: part.name in BLOCKS  # noqa: E731
    output, state = module.apply(variables, resized, capture_intermediates=wanted, mutable='intermediates')
    blocks = {name: state['intermediates'][name]['__call__'][0] for name in BLOCKS}
    return resized, dataclasses.asdict(output), blocks


@pytest.fixture(scope='module')
def case():
    pack = load_pack('inception_fid')
    state_dict = pack.state_dict()
    network = vistok.from_official('inception_fid', state_dict)
    found = run(network.module, network.variables, pack['images'])
    return Case(pack, state_dict, network, *jax.device_get(found))


def test_generated_weights_are_the_recorded_ones(case):
    case.pack.check_weights(case.state_dict)
    count = sum(x.size for x in jax.tree.leaves(case.network.variables['params']))
    assert count == case.pack.manifest['n_params']


def test_images_reach_the_network_as_in_pytorch_fid(case):
    np.testing.assert_allclose(case.resized.transpose(0, 3, 1, 2)[:, :, ::13, ::13], case.pack['resized'], atol=1e-5)


@pytest.mark.parametrize(('block', 'name'), [(0, 'Conv2d_2b_3x3'), (1, 'Conv2d_4a_3x3'), (2, 'Mixed_6e')])
def test_blocks_compute_the_official_numbers(case, block, name):
    x = case.blocks[name]
    if block < 2:
        x = nn.max_pool(jnp.asarray(x), (3, 3), (2, 2))
    np.testing.assert_allclose(np.mean(x, axis=(1, 2)), case.pack[f'block{block}_mean'], atol=1e-4)


def test_features_and_logits_are_the_official_ones(case):
    np.testing.assert_allclose(case.features['pool'], case.pack['pool3'], atol=1e-4)
    np.testing.assert_allclose(case.features['logits'], case.pack['logits'], atol=1e-4)
    unbiased = case.pack['logits'] - case.state_dict['fc.bias']
    np.testing.assert_allclose(case.features['unbiased_logits'], unbiased, atol=1e-4)


def test_spatial_features_are_the_first_channels_of_the_first_branch(case):
    assert case.features['spatial'].shape == (2, 17 * 17 * 7)
    np.testing.assert_array_equal(case.features['spatial'].reshape(2, 17, 17, 7), case.blocks['Mixed_6d'][..., :7])


def test_official_weights_come_back_bit_for_bit(case):
    back = official_models.export_variables('inception_fid', case.network.variables)
    assert set(back) == set(case.state_dict) - set(case.network.ignored)
    assert all(np.array_equal(back[name], case.state_dict[name]) for name in back)
    assert all(name.endswith('num_batches_tracked') for name in case.network.ignored)


def test_the_extractor_of_a_protocol_gives_the_same_numbers_also_for_a_short_batch(case):
    extractor = FeatureExtractor(PROTOCOLS['pytorch_fid'], case.network.module, case.network.variables)
    found = extractor(case.pack['images'][:1], batch_size=2)
    np.testing.assert_allclose(found.pool, case.pack['pool3'][:1], atol=1e-4)
    assert found.spatial is None
    assert found.logits is None
