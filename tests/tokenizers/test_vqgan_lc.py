"""VQGAN-LC: the published sizes, the switches of its codebook, and what a step may move."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_packs import random_variables

from vistok.tokenizers.codebooks.codebook import ProjectedCodebook, Projector, Table
from vistok.tokenizers.vqgan_lc import PRESETS, VQGANLC
from vistok.weights.rules import variable_shapes

SIZES = {
    'channels': 8,
    'channel_multipliers': (1, 2),
    'res_blocks': 1,
    'latent_channels': 16,
    'codebook_size': 32,
    'codebook_dim': 4,
}
IMAGE = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)


def count(tree):
    return sum(x.size for x in jax.tree.leaves(tree))


def test_the_f16_preset_has_the_published_number_of_parameters():
    shapes = variable_shapes(VQGANLC(**PRESETS['f16']), IMAGE)
    assert count(shapes) == 148_558_483  # the table included
    assert count(shapes['frozen']) == 76_800_000


def test_the_f8_preset_has_attention_in_the_middle_only():
    module = VQGANLC(**PRESETS['f8'])
    assert module.spec.downsample_factor == 8
    trunk = variable_shapes(module, IMAGE)['params']['encoder']['trunk']
    assert not [name for name in trunk if 'attention' in name]
    assert 'attention' in trunk['mid']


@pytest.mark.parametrize(
    ('arguments', 'trained', 'frozen'),
    [
        ({'table_width': 12}, {'projector'}, 32 * 12),
        ({'table_width': 12, 'projector': 'mlp'}, {'projector'}, 32 * 12),
        ({'table_width': 4, 'projector': 'none'}, set(), 32 * 4),
        ({'table_width': 12, 'table_trained': True}, {'projector', 'table'}, 0),
        ({'table_width': 4, 'projector': 'none', 'table_trained': True}, {'table'}, 0),
    ],
)
def test_the_switches_decide_what_is_trained(arguments, trained, frozen):
    shapes = variable_shapes(VQGANLC(**SIZES, **arguments), jax.ShapeDtypeStruct((1, 4, 4, 3), jnp.float32))
    assert set(shapes['params'].get('quantizer', {}).get('codebook', {})) == trained
    assert count(shapes.get('frozen', {})) == frozen


def test_switches_that_make_no_model_are_refused():
    with pytest.raises(ValueError, match="unknown projector 'conv'; known: linear, mlp, none"):
        variable_shapes(VQGANLC(**SIZES, projector='conv'), IMAGE)
    with pytest.raises(ValueError, match='table_width 768 must be codebook_dim 4'):
        variable_shapes(VQGANLC(**SIZES, projector='none'), IMAGE)


def test_one_chosen_codeword_moves_all_codewords():
    codebook = ProjectedCodebook(Table(16, 6), Projector(3))
    variables = codebook.init(jax.random.key(0))
    gradient = jax.grad(lambda params: jnp.sum(codebook.apply(variables | {'params': params})[5]))(variables['params'])
    stepped = jax.tree.map(lambda x, g: x - 0.1 * g, variables['params'], gradient)
    moved = codebook.apply(variables | {'params': stepped}) - codebook.apply(variables)
    assert (np.abs(moved).max(axis=1) > 0).all()


def test_an_mlp_bends_and_a_linear_map_does_not():
    rows = jax.random.normal(jax.random.key(0), (5, 6))
    for hidden, bends in (((), False), ((8,), True)):
        projector = Projector(3, hidden)
        variables = projector.init(jax.random.key(1), rows)
        there, back, zero = (projector.apply(variables, x) for x in (rows, -rows, 0 * rows))
        assert (np.abs(there + back - 2 * zero).max() > 1e-3) == bends


def test_a_fresh_table_is_gaussian_and_the_linear_projector_has_the_published_spread():
    module = VQGANLC(**SIZES | {'codebook_size': 2000}, table_width=64)
    variables = module.init(jax.random.key(0), jnp.zeros((1, 4, 4, 3)))
    rows = variables['frozen']['quantizer']['codebook']['table']['codewords']
    np.testing.assert_allclose(rows.std(), 64**-0.5, rtol=0.02)
    dense = variables['params']['quantizer']['codebook']['projector']['dense_0']
    np.testing.assert_allclose(dense['kernel'].std(), 0.5, rtol=0.15)
    assert np.abs(dense['bias']).max() <= 64**-0.5


@functools.cache
def gradient():
    module = VQGANLC(**SIZES, table_width=12)
    images = jax.random.uniform(jax.random.key(0), (2, 8, 8, 3), minval=-1, maxval=1)
    variables = random_variables(variable_shapes(module, images))

    def loss(variables):
        output = module.apply(variables, images, train=True)
        return jnp.mean((output.reconstruction - images) ** 2) + sum(output.losses.values())

    return jax.jit(jax.grad(lambda params: loss(variables | {'params': params})))(variables['params'])


def test_gradients_reach_encoder_projector_and_decoder():
    for part in (
        gradient()['encoder']['trunk']['conv_in']['kernel'],
        gradient()['quantizer']['codebook']['projector']['dense_0']['kernel'],
        gradient()['decoder']['conv_out']['kernel'],
    ):
        assert float(jnp.abs(part).max()) > 0
