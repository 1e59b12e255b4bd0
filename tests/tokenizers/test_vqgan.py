"""VQGAN: the sizes that were published, its grid, and where gradients reach."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_packs import random_variables

from vistok.tokenizers.tokenizer import TokenSpec
from vistok.tokenizers.vqgan import PRESETS, VQGAN
from vistok.weights.rules import variable_shapes

TINY = VQGAN(channels=8, channel_multipliers=(1, 2), res_blocks=1, latent_channels=16, codebook_size=32, codebook_dim=4)


@pytest.fixture(scope='module')
def images():
    return jax.random.uniform(jax.random.key(0), (2, 16, 8, 3), minval=-1, maxval=1)


@pytest.fixture(scope='module')
def variables(images):
    return random_variables(variable_shapes(TINY, images))


@pytest.mark.parametrize(
    ('preset', 'parameters'), [('vq16', 71_883_403), ('vq8', 70_109_835), ('taming_f16', 72_141_699)]
)
def test_presets_have_the_published_numbers_of_parameters(preset, parameters):
    shapes = variable_shapes(VQGAN(**PRESETS[preset]), jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32))
    assert sum(x.size for x in jax.tree.leaves(shapes)) == parameters


def test_spec_tells_codebook_and_grid():
    assert TINY.spec == TokenSpec((32,), 2, ('code',))
    assert VQGAN(**PRESETS['vq8']).spec.downsample_factor == 8


def test_grid_is_smaller_than_the_image_by_the_downsample_factor(images, variables):
    tokens = jax.jit(functools.partial(TINY.apply, method='encode'))(variables, images)
    assert tokens.ids.shape == (2, 8, 4, 1)


def test_gradient_reaches_encoder_decoder_and_codewords(images, variables):
    def loss(variables):
        output = TINY.apply(variables, images, train=True)
        return jnp.mean((output.reconstruction - images) ** 2) + sum(output.losses.values())

    gradient = jax.jit(jax.grad(loss))(variables)['params']
    for part in (
        gradient['encoder']['trunk']['conv_in']['kernel'],
        gradient['quant_conv']['kernel'],
        gradient['decoder']['conv_out']['kernel'],
        gradient['quantizer']['codebook']['codewords'],
    ):
        assert float(jnp.abs(part).max()) > 0


def test_last_layer_names_the_kernel_that_makes_the_pixels(images, variables):
    kernel = functools.reduce(lambda tree, key: tree[key], TINY.last_layer, variables['params'])
    assert kernel.shape[-1] == 3


def test_entropy_is_asked_for_in_training_only(images, variables):
    model = TINY.clone(entropy_weight=0.1)

    def terms(train):
        return set(jax.eval_shape(lambda v, x: model.apply(v, x, train=train).losses, variables, images))

    losses = {train: terms(train) for train in (True, False)}
    assert losses == {True: {'codebook', 'commitment', 'entropy'}, False: {'codebook', 'commitment'}}


def test_reduced_precision_leaves_parameters_and_result_in_float32(images):
    def run(images):
        output, variables = TINY.clone(dtype=jnp.bfloat16, remat=True).init_with_output(jax.random.key(0), images)
        return variables, output.reconstruction, output.losses

    assert {x.dtype for x in jax.tree.leaves(jax.eval_shape(run, images))} == {np.dtype('float32')}


def test_images_that_do_not_fit_the_grid_are_refused(variables):
    with pytest.raises(ValueError, match=r'multiples of 2, got \(15, 8\)'):
        TINY.apply(variables, jnp.zeros((1, 15, 8, 3)), method='encode')
