"""FVQ and its kin: published sizes, codewords that part from each other, plain forms that are the same tokenizer."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from golden_packs import random_variables

from vistok.tokenizers.fvq import FVQ, PRESETS, MultiScaleFVQ, ResidualFVQ
from vistok.tokenizers.plain_codebook import to_plain_codebook
from vistok.tokenizers.quantizers.vector import VectorQuantizer
from vistok.tokenizers.residual_vqgan import MultiScaleVQGAN, ResidualVQGAN
from vistok.tokenizers.tokenizer import TokenSpec
from vistok.tokenizers.trained import TrainedTokenizer
from vistok.weights.rules import variable_shapes

SIZES = {
    'channels': 8,
    'channel_multipliers': (1, 2),
    'res_blocks': 1,
    'latent_channels': 16,
    'codebook_size': 64,
    'codebook_dim': 8,
    'bridge_patch': 2,
    'bridge_width': 16,
    'bridge_depth': 1,
    'bridge_heads': 2,
}
SUMS = {
    'residual': (ResidualFVQ(**SIZES, depth=3), ResidualVQGAN),
    'multiscale': (MultiScaleFVQ(**SIZES, scales=(1, 3, 8)), MultiScaleVQGAN),
}
IMAGE = jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.float32)


@pytest.mark.parametrize(
    ('preset', 'arguments', 'parameters'),
    [
        ('16384', {}, 79_227_523),
        ('65536', {}, 98_114_179),
        ('16384', {'bridge_positions': True, 'bridge_conditioned': True}, 80_411_011 - 1024 * 256),
    ],
)
def test_presets_have_the_published_numbers_of_parameters(preset, arguments, parameters):
    shapes = variable_shapes(FVQ(**PRESETS[preset], **arguments), jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32))
    assert sum(x.size for x in jax.tree.leaves(shapes['params'])) == parameters


def test_the_largest_preset_fits_its_bridge():
    shapes = variable_shapes(FVQ(**PRESETS['262144']), jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32))
    assert shapes['params']['quantizer']['codebook']['table']['codewords'].shape == (262_144, 256)


def test_each_depth_and_each_scale_is_a_sub_codebook():
    assert SUMS['residual'][0].spec == TokenSpec((64,) * 3, 2, ('depth_0', 'depth_1', 'depth_2'))
    assert SUMS['multiscale'][0].spec == TokenSpec((64,) * 3, 2, ('scale_1', 'scale_3', 'scale_8'))


@pytest.mark.parametrize('kind', SUMS)
@pytest.mark.parametrize('arguments', [{'normalize': True}, {'entropy_weight': 0.1}])
def test_sums_of_codewords_have_no_unit_norm_and_no_entropy(kind, arguments):
    with pytest.raises(ValueError, match='neither unit norm nor an entropy loss'):
        variable_shapes(SUMS[kind][0].clone(**arguments), IMAGE)


def test_codewords_part_from_each_other_in_the_first_steps():
    """At first all vectors get codeword 0, and only the bridge's last layer gets a gradient."""
    codebook = FVQ(**SIZES).make_codebook()
    quantizer = VectorQuantizer(codebook)
    z = jax.random.normal(jax.random.key(1), (1, 16, 16, 8))
    params = jax.jit(quantizer.init)(jax.random.key(0), z)['params']
    optimizer = optax.adam(1e-2)

    @jax.jit
    def step(params, state):
        def loss(params):
            quantized = quantizer.apply({'params': params}, z)
            return quantized.losses['codebook'], quantized.ids

        (_, ids), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state, ids, gradient

    state, used, first = optimizer.init(params), [], None
    for _ in range(200):
        params, state, ids, gradient = step(params, state)
        used.append(len(np.unique(ids)))
        first = gradient if first is None else first
    bridge = first['codebook']['bridge']
    moved = {name for name, layer in bridge.items() if any(np.any(x != 0) for x in jax.tree.leaves(layer))}
    assert moved == {'recover'}
    assert used[0] == 1
    assert used[-1] > 32


def test_the_decoder_has_a_gradient_of_moderate_size_where_all_codewords_are_zero():
    """Norms of a map that is zero everywhere multiply it by a thousand each."""
    module = FVQ(**SIZES | {'channel_multipliers': (1, 2, 2), 'res_blocks': 1})
    params = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))

    def loss(latents):
        return jnp.mean((module.apply(params, latents, method='decode_latents') - 1) ** 2)

    gradient = jax.jit(jax.grad(loss))(jnp.zeros((1, 4, 4, 8)))
    assert 0 < jnp.abs(gradient).max() < 10


@pytest.mark.parametrize('kind', SUMS)
def test_baked_sums_of_codewords_give_the_same_tokens_and_images(kind):
    module, plain = SUMS[kind]
    trained = TrainedTokenizer(module, random_variables(variable_shapes(module, IMAGE)))
    images = np.random.default_rng(1).uniform(-1, 1, IMAGE.shape).astype(np.float32)
    baked = to_plain_codebook(trained)
    assert type(baked.module) is plain
    assert set(baked.variables['params']['quantizer']['codebook']) == {'codewords'}
    tokens = trained.encode(images)
    assert len(np.unique(tokens.ids)) > 1
    np.testing.assert_array_equal(baked.encode(images).ids, tokens.ids)
    np.testing.assert_allclose(baked.decode(tokens), trained.decode(tokens), atol=1e-5)


def test_images_of_other_sizes_have_scales_in_proportion():
    module = SUMS['multiscale'][0]
    variables = random_variables(variable_shapes(module, IMAGE))
    images = jax.random.uniform(jax.random.key(1), (1, 32, 16, 3), minval=-1, maxval=1)
    ids = np.asarray(jax.jit(functools.partial(module.apply, method='encode'))(variables, images).ids)
    assert ids.shape == (1, 16, 8, 3)
    assert (ids[0, :8, :, 0] == ids[0, 0, 0, 0]).all()  # two cells, one above the other
    assert (ids[0, 8:, :, 0] == ids[0, 8, 0, 0]).all()
