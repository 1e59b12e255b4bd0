"""FQGAN: its factors, what they predict, and the sizes that were published."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_packs import random_variables

from vistok.tokenizers.fqgan import FQGAN, PRESETS
from vistok.tokenizers.tokenizer import Tokens
from vistok.weights.rules import variable_shapes

TINY = FQGAN(
    factors=('vis', 'sem'),
    teachers=('', 'judge'),
    teacher_widths=(0, 12),
    channels=8,
    channel_multipliers=(1, 2),
    res_blocks=1,
    latent_channels=16,
    codebook_size=32,
    codebook_dim=4,
    image_size=8,
    adapter_layers=1,
    adapter_heads=2,
    head_layers=1,
    head_heads=2,
)


@pytest.fixture(scope='module')
def images():
    return jax.random.uniform(jax.random.key(0), (2, 8, 8, 3), minval=-1, maxval=1)


@pytest.fixture(scope='module')
def variables(images):
    return random_variables(variable_shapes(TINY, images))


@pytest.fixture(scope='module')
def apply():
    return jax.jit(TINY.apply, static_argnames=('train', 'method'))


def count(shapes):
    return sum(x.size for x in jax.tree.leaves(shapes))


@pytest.mark.parametrize(
    ('preset', 'without', 'total'), [('dual', 111.3e6, 150_410_131), ('triple', 131.7e6, 159_295_515)]
)
def test_presets_have_the_published_numbers_of_parameters(preset, without, total):
    shapes = variable_shapes(FQGAN(**PRESETS[preset]), jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32))
    heads = sum(count(part) for name, part in shapes['params'].items() if name.startswith('predictor_'))
    assert count(shapes) == total
    assert round((total - heads) / 1e5) == round(without / 1e5)


def test_spec_names_the_factors():
    assert TINY.spec.codebook_sizes == (32, 32)
    assert TINY.spec.codebook_names == ('vis', 'sem')


def test_one_id_per_factor_in_the_order_of_the_factors(images, variables, apply):
    ids = apply(variables, images, method='encode').ids
    assert ids.shape == (2, 4, 4, 2)

    def alone(fqgan, images):
        return fqgan.quantizer.sem(fqgan.latents(images)['sem']).ids

    expected = jax.jit(functools.partial(TINY.apply, method=alone))(variables, images)
    np.testing.assert_array_equal(ids[..., 1], expected)


def test_each_factor_moves_its_own_channels_of_the_latents(variables, apply):
    zeros = apply(variables, Tokens(jnp.zeros((1, 2, 2, 2), jnp.int32)), method='embed')
    changed = apply(variables, Tokens(jnp.zeros((1, 2, 2, 2), jnp.int32).at[..., 1].set(5)), method='embed')
    moved = np.flatnonzero(np.abs(changed - zeros).max((0, 1, 2)))
    assert set(moved) <= set(range(4, 8))
    assert len(moved)


def test_losses_are_named_by_term_and_factor(images, variables, apply):
    terms = {'codebook', 'commitment', 'entropy'}
    expected = {f'{term}/{factor}' for term in terms for factor in TINY.factors} | {'disentangle'}
    assert set(apply(variables, images, train=True).losses) == expected


def test_features_are_predicted_in_training_only_and_by_teacher(images, variables, apply):
    predictions = apply(variables, images, train=True).predictions
    assert {name: x.shape for name, x in predictions.items()} == {'judge': (2, 12)}
    assert apply(variables, images, train=False).predictions == {}


def test_predicted_features_and_disentangling_teach_the_encoder_and_not_the_codebooks(images, variables):
    def losses(variables):
        output = TINY.apply(variables, images, train=True)
        predicted = output.predictions['judge']
        return {
            'prediction': jnp.sum(predicted**2 * jnp.arange(predicted.shape[-1])),
            'disentangle': output.losses['disentangle'],
        }

    def gradients(variables):
        values, pull_back = jax.vjp(losses, variables)
        one_hot = {name: {other: float(other == name) * jnp.ones(()) for other in values} for name in values}
        return {name: pull_back(cotangent)[0]['params'] for name, cotangent in one_hot.items()}

    for name, gradient in jax.jit(gradients)(variables).items():
        assert all(float(jnp.abs(x).max()) == 0 for x in jax.tree.leaves(gradient['quantizer'])), name
        assert float(jnp.abs(gradient['quant_conv_sem']['kernel']).max()) > 0, name
        assert float(jnp.abs(gradient['trunk']['conv_in']['kernel']).max()) > 0, name


def test_other_image_sizes_are_served_by_interpolated_positions(variables):
    def run(variables, images):
        output = TINY.apply(variables, images, train=True)
        return output.tokens.ids, output.reconstruction

    ids, reconstruction = jax.eval_shape(run, variables, jax.ShapeDtypeStruct((1, 12, 6, 3), jnp.float32))
    assert ids.shape == (1, 6, 3, 2)
    assert reconstruction.shape == (1, 12, 6, 3)


def test_a_teacher_serves_one_factor():
    with pytest.raises(ValueError, match='each teacher serves one factor'):
        TINY.clone(teachers=('judge', 'judge')).init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))


def test_unequal_numbers_of_factors_and_teachers_are_refused():
    with pytest.raises(ValueError, match='must be equally many'):
        TINY.clone(teachers=('judge',)).init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))


def test_reduced_precision_leaves_parameters_and_results_in_float32(images):
    def run(images):
        model = TINY.clone(dtype=jnp.bfloat16, remat=True)
        output, variables = model.init_with_output(jax.random.key(0), images, train=True)
        return variables, output.reconstruction, output.losses, output.predictions

    assert {x.dtype for x in jax.tree.leaves(jax.eval_shape(run, images))} == {np.dtype('float32')}
