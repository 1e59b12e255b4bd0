"""SimVQ and the networks of Open-MAGVIT2: sizes, the grid, depth to space, and what is trained."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vistok.tokenizers.magvit2 import depth_to_space
from vistok.tokenizers.simvq import PRESETS, SimVQ, SimVQGAN
from vistok.tokenizers.tokenizer import TokenSpec
from vistok.weights.rules import variable_shapes

IMAGE = jax.ShapeDtypeStruct((1, 128, 128, 3), jnp.float32)
TINY = {'channels': 8, 'channel_multipliers': (1, 2), 'res_blocks': 1, 'codebook_size': 32, 'codebook_dim': 8}


def count(tree):
    return sum(x.size for x in jax.tree.leaves(tree))


@pytest.mark.parametrize('preset', PRESETS)
def test_presets_have_the_published_shapes(preset):
    module = SimVQ(**PRESETS[preset])
    shapes = variable_shapes(module, IMAGE)
    assert count(shapes['frozen']) == 128 * module.codebook_size
    assert count(shapes['params']['quantizer']) == 128 * 128 + 128
    ids = jax.eval_shape(lambda v: module.apply(v, jnp.zeros(IMAGE.shape), method='encode').ids, shapes)
    assert ids.shape == (1, 16, 16, 1)
    assert module.spec == TokenSpec((module.codebook_size,), 8)


def test_there_is_no_attention_and_no_projection_around_the_codebook():
    params = variable_shapes(SimVQ(), IMAGE)['params']
    assert set(params) == {'encoder', 'decoder', 'quantizer'}
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    assert not [path for path in paths if 'attention' in path]
    biases = [path for path in paths if 'conv1' in path or 'conv2' in path or 'shortcut' in path]
    assert not [path for path in biases if 'bias' in path]


def test_depth_to_space_puts_four_channel_groups_into_a_square():
    x = jnp.arange(8.0).reshape(1, 1, 1, 8)
    np.testing.assert_array_equal(depth_to_space(x)[0], [[[0, 1], [2, 3]], [[4, 5], [6, 7]]])


def test_depth_to_space_keeps_pixels_in_place():
    x = jnp.arange(6.0).reshape(1, 2, 3, 1)
    np.testing.assert_array_equal(depth_to_space(jnp.repeat(x, 4, axis=-1))[0, ::2, ::2], x[0])


@pytest.mark.parametrize('module', [SimVQ(**TINY), SimVQGAN(**TINY, latent_channels=16)])
def test_only_the_map_is_trained(module):
    shapes = variable_shapes(module, jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32))
    assert set(shapes['params']['quantizer']['codebook']) == {'projector'}
    assert shapes['frozen']['quantizer']['codebook']['table']['codewords'].shape == (32, 8)


def test_table_and_map_start_as_published():
    variables = SimVQ(**TINY | {'codebook_size': 4000}).init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    rows = variables['frozen']['quantizer']['codebook']['table']['codewords']
    np.testing.assert_allclose(rows.std(), 8**-0.5, rtol=0.02)
    dense = variables['params']['quantizer']['codebook']['projector']['dense_0']
    for part in (dense['kernel'], dense['bias']):
        assert 0 < np.abs(part).max() <= 8**-0.5
    np.testing.assert_allclose(dense['kernel'].std(), 24**-0.5, rtol=0.3)
