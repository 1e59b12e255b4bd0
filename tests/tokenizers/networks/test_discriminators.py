"""The discriminators equal the official ones and convert both ways."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_packs import assert_close, load_pack

from vistok.collectives import name_replica_axis
from vistok.losses.adversarial import hinge_discriminator_loss
from vistok.tokenizers.convert.discriminators import PATCHGAN_IGNORED, STYLEGAN_IGNORED, patchgan_rules, stylegan_rules
from vistok.tokenizers.networks.patchgan import BatchNorm, PatchGAN
from vistok.tokenizers.networks.stylegan_discriminator import StyleGANDiscriminator
from vistok.weights.rules import to_official, to_ours, variable_shapes


def some_variables(model, images):
    """Quickly made variables: compiling flax's initializers takes seconds."""
    rng = np.random.default_rng(0)
    shapes = variable_shapes(model, images, train=False)

    def make(shape):
        scale = 0.1 if len(shape) == 1 else np.prod(shape[:-1]) ** -0.5
        return jnp.asarray(rng.normal(0, scale, shape) + 0.5 * (len(shape) == 1), jnp.float32)  # variances above 0

    return jax.tree.map(lambda s: make(s.shape), shapes)


def patchgan(layers):
    golden = load_pack('patchgan')
    model = PatchGAN(layers=layers)
    weights = golden.state_dict('' if layers == 3 else 'n2')
    shapes = variable_shapes(model, jnp.zeros((1, 64, 64, 3)), train=False)
    return golden, model, weights, to_ours(patchgan_rules(layers), weights, shapes, PATCHGAN_IGNORED)


@pytest.mark.parametrize(('layers', 'prefix'), [(3, ''), (2, 'n2_')])
def test_patchgan_equals_the_official_one(layers, prefix):
    golden, model, weights, converted = patchgan(layers)
    if layers == 3:
        golden.check_weights(weights)
        assert sum(x.size for x in jax.tree.leaves(converted.variables['params'])) == golden.manifest['n_params']
    real, fake = jnp.asarray(golden.nhwc('real')), jnp.asarray(golden.nhwc('fake'))
    for name, images in (('real', real), ('fake', fake)):
        logits = jax.jit(lambda v, x: model.apply(v, x, train=False))(converted.variables, images)
        assert_close(logits, golden.nhwc(f'{prefix}eval_logits_{name}'), name=name)

    def loss(params):
        logits = {}
        stats = converted.variables['batch_stats']
        for name, images in (('real', real), ('fake', fake)):
            variables = {'params': params, 'batch_stats': stats}
            logits[name], updated = model.apply(variables, images, train=True, mutable=['batch_stats'])
            stats = updated['batch_stats']
        return hinge_discriminator_loss(**logits), (logits, stats)

    (value, (logits, stats)), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(converted.variables['params'])
    for name in ('real', 'fake'):
        assert_close(logits[name], golden.nhwc(f'{prefix}train_logits_{name}'), name=name)
    assert_close(value, golden[f'{prefix}train_hinge_d_loss'])
    official_grad = golden[f'{prefix}grad:main.0.weight'].transpose(2, 3, 1, 0)
    assert_close(grads['conv_in']['kernel'], official_grad, 1e-3)
    assert_close(stats['norm_1']['mean'], golden[f'{prefix}running_mean_after'])
    assert_close(stats['norm_1']['var'], golden[f'{prefix}running_var_after'])


def test_patchgan_converts_back_bit_for_bit():
    _, _, weights, converted = patchgan(2)
    back = to_official(patchgan_rules(2), converted.variables)
    assert back.keys() == weights.keys() - set(converted.ignored)
    assert all(np.array_equal(back[name], weights[name]) for name in back)


def test_patchgan_statistics_change_only_where_mutable():
    model = PatchGAN(channels=4, layers=2)
    images = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
    variables = some_variables(model, images)
    frozen = jax.jit(lambda v: model.apply(v, images, train=True))(variables)
    logits, updated = jax.jit(lambda v: model.apply(v, images, train=True, mutable=['batch_stats']))(variables)
    np.testing.assert_allclose(frozen, logits, rtol=1e-5)
    assert not np.array_equal(updated['batch_stats']['norm_1']['mean'], variables['batch_stats']['norm_1']['mean'])


def test_batch_norm_starts_neutral():
    variables = BatchNorm().init(jax.random.key(1), 5 + jnp.zeros((2, 4, 4, 3)), True)
    np.testing.assert_array_equal(variables['batch_stats']['mean'], np.zeros(3))
    np.testing.assert_array_equal(variables['batch_stats']['var'], np.ones(3))
    np.testing.assert_allclose(variables['params']['scale'], np.ones(3), atol=0.1)


def test_batch_norm_on_replicas_equals_the_whole_batch():
    model = BatchNorm()
    x = 3 + jax.random.normal(jax.random.key(0), (8, 4, 4, 5)) * jnp.arange(1, 6)
    variables = model.init(jax.random.key(1), x, True)

    def step(x):
        with name_replica_axis('data'):
            return model.apply(variables, x, True, mutable=['batch_stats'])

    whole, whole_stats = model.apply(variables, x, True, mutable=['batch_stats'])
    parts, stats = jax.pmap(step, axis_name='data', devices=jax.devices()[:4])(x.reshape(4, 2, 4, 4, 5))
    np.testing.assert_allclose(parts.reshape(x.shape), whole, atol=1e-5)
    for name in ('mean', 'var'):
        np.testing.assert_allclose(stats['batch_stats'][name][3], whole_stats['batch_stats'][name], rtol=1e-5)


@pytest.mark.parametrize(('size', 'prefix'), [(256, ''), (64, 's64_')])
def test_stylegan_discriminator_equals_the_official_one(size, prefix):
    golden = load_pack('stylegan_disc')
    model = StyleGANDiscriminator(image_size=size)
    images = jnp.asarray(golden.nhwc(prefix + 'input'))
    weights = golden.state_dict(prefix.rstrip('_'))
    converted = to_ours(stylegan_rules(), weights, variable_shapes(model, images), STYLEGAN_IGNORED)
    logits, state = jax.jit(
        lambda v, x: model.apply(v, x, capture_intermediates=lambda module, _: module.name == 'block_0')
    )(converted.variables, images)
    assert_close(logits[:, 0, 0], golden[prefix + 'logits'])
    if size == 64:
        block = state['intermediates']['block_0']['__call__'][0]
        assert_close(jnp.moveaxis(block, -1, 1)[:, ::8], golden['s64_block2_c8'])
        back = to_official(stylegan_rules(), converted.variables)
        assert all(np.array_equal(back[name], weights[name]) for name in weights if name not in converted.ignored)
    else:
        golden.check_weights(weights)
        assert sum(x.size for x in jax.tree.leaves(converted.variables)) == golden.manifest['n_params']


def test_stylegan_discriminator_names_a_wrong_size():
    with pytest.raises(ValueError, match='images of 32x64 given, 64x64 wanted'):
        StyleGANDiscriminator(image_size=64).init(jax.random.key(0), jnp.zeros((1, 32, 64, 3)))
    with pytest.raises(ValueError, match='image_size 48 must be a power of two'):
        StyleGANDiscriminator(image_size=48).init(jax.random.key(0), jnp.zeros((1, 48, 48, 3)))


@pytest.mark.parametrize('model', [PatchGAN(channels=8), StyleGANDiscriminator(image_size=16)], ids=['patch', 'style'])
def test_bfloat16_keeps_parameters_and_logits_in_float32(model):
    side = getattr(model, 'image_size', 32)
    images = jax.random.normal(jax.random.key(0), (2, side, side, 3))
    variables = some_variables(model, images)
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype('float32')}
    full = jax.jit(lambda v: model.apply(v, images, train=False))(variables)
    half = jax.jit(lambda v: model.clone(dtype=jnp.bfloat16).apply(v, images, train=False))(variables)
    assert half.dtype == jnp.float32
    assert not np.array_equal(half, full)
    np.testing.assert_allclose(half, full, atol=0.05)
