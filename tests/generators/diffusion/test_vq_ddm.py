"""VQ-DDM as a generator: its bound, its samples, completion."""

import dataclasses
import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from vistok.experiments import assembly, registry
from vistok.experiments.config_files import load_config
from vistok.generators.diffusion.denoiser import NumberEmbedding
from vistok.generators.diffusion.timestep_sampling import sample_timesteps
from vistok.generators.diffusion.transformer_denoiser import TransformerDenoiser
from vistok.generators.diffusion.unet import UNet
from vistok.generators.diffusion.vq_ddm import VQDDM
from vistok.generators.generator import SampleConfig, TextFeatures
from vistok.generators.objective import GeneratorObjective
from vistok.tokenizers.tokenizer import Tokens, TokenSpec

TINY = {'channels': 8, 'channel_multipliers': (1, 2), 'layers': 1, 'heads': 2, 'timesteps': 8, 'evaluation_terms': 4}
SPEC = TokenSpec((7,), 4)
KINDS = {
    'paper': {'official': True},
    'masks, mixture, transformer': {
        'mask_share': 1.0,
        'prediction': 'mixture',
        'denoiser': 'transformer',
        'schedule': 'linear',
    },
    'both noises, two sub-codebooks': {
        'mask_share': 0.5,
        'denoiser': 'transformer',
        'spec': TokenSpec((7, 5), 4, ('vis', 'sem')),
    },
}


def make(kind):
    return VQDDM(**{'spec': SPEC, 'grid': (4, 4), 'num_classes': 3, **TINY, **KINDS[kind]})


@functools.cache
def variables_of(generator):
    variables = jax.jit(generator.init)(jax.random.key(0))
    rng = np.random.default_rng(0)
    return variables | {
        'params': jax.tree.map(lambda x: x + 0.1 * rng.standard_normal(x.shape, np.float32), variables['params'])
    }


def some_tokens(generator, count=4):
    rng = np.random.default_rng(1)
    shape = (count, *generator.grid)
    return Tokens(np.stack([rng.integers(0, n, shape, np.int32) for n in generator.spec.codebook_sizes], axis=-1))


@functools.partial(jax.jit, static_argnums=(0, 1))
def sample(generator, config, variables, cond, numbers):
    return generator.sample(variables, cond, jax.random.key(7), numbers, config).ids


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def complete(generator, config, repeats, variables, tokens, known, cond):
    return generator.inpaint(
        variables, tokens, known, cond, jax.random.key(7), jnp.arange(len(cond)), config, repeats=repeats
    ).ids


@pytest.fixture(scope='module', params=['paper', 'both noises, two sub-codebooks'])
def generator(request):
    return make(request.param)


def test_samples_of_several_codebooks_are_codeword_numbers_and_depend_on_their_number_alone():
    generator = make('both noises, two sub-codebooks')
    config, variables = SampleConfig(guidance_scale=2.0, steps=3), variables_of(generator)
    ids = sample(generator, config, variables, jnp.asarray([0, 1, 2]), jnp.asarray([5, 6, 7]))
    assert ids.shape == (3, 4, 4, len(generator.spec.codebook_sizes))
    for i, size in enumerate(generator.spec.codebook_sizes):
        assert 0 <= ids[..., i].min() <= ids[..., i].max() < size
    turned = sample(generator, config, variables, jnp.asarray([2, 0, 1]), jnp.asarray([7, 5, 6]))
    np.testing.assert_array_equal(turned, ids[jnp.asarray([2, 0, 1])])
    others = sample(generator, config, variables, jnp.asarray([0, 1, 2]), jnp.asarray([8, 9, 10]))
    assert (others != ids).any()


def test_completion_never_changes_what_is_known(generator):
    tokens = some_tokens(generator)
    known = np.random.default_rng(2).random((4, 4, 4)) < 0.5
    known[0], known[1] = True, False
    cond = jnp.asarray([0, 1, 2, 3])
    ids = complete(generator, SampleConfig(steps=3), 2, variables_of(generator), tokens, known, cond)
    np.testing.assert_array_equal(ids[known], tokens.ids[known])
    assert (ids[~known] != tokens.ids[~known]).any()
    # Nothing depends on the values that unknown cells had.
    hidden = Tokens(np.where(known[..., None], tokens.ids, 0))
    np.testing.assert_array_equal(
        complete(generator, SampleConfig(steps=3), 2, variables_of(generator), hidden, known, cond), ids
    )


@pytest.mark.parametrize('kind', ['paper', 'masks, mixture, transformer'])
def test_one_batch_can_be_overfitted_and_is_then_completed(kind):
    generator = dataclasses.replace(make(kind), denoiser='transformer', channels=16)  # quicker to train than the U-Net
    tokens = some_tokens(generator, 2)
    cond, optimizer = jnp.asarray([0, 1]), optax.adam(1e-2)
    variables = dict(variables_of(generator))
    params = variables.pop('params')

    @jax.jit
    def train(params, rest):
        def step(carry, number):
            params, rest, state = carry

            def loss(params):
                many = Tokens(jnp.repeat(tokens.ids, 8, axis=0))
                given = {'params': params, **rest}
                found = generator.loss(given, many, jnp.repeat(cond, 8), jax.random.key(number), train=True)
                return found.loss, (found.metrics['bits_per_token'], found.state)

            (_, (bits, state_of_model)), grads = jax.value_and_grad(loss, has_aux=True)(params)
            updates, state = optimizer.update(grads, state, params)
            return (optax.apply_updates(params, updates), rest | state_of_model, state), bits

        return jax.lax.scan(step, (params, rest, optimizer.init(params)), jnp.arange(250))

    (params, rest, _), bits = train(params, variables)
    assert np.mean(bits[-20:]) < 0.3 * np.mean(bits[:20])
    assert rest['diffusion_stats']['visits'].sum() == 250 * 16
    known = np.random.default_rng(3).random((2, 4, 4)) < 0.6
    filled = complete(generator, SampleConfig(), 1, {'params': params, **rest}, tokens, known, cond)
    assert np.mean(filled == tokens.ids) > 0.95


def test_the_unet_learns_and_the_finest_features_matter():
    generator = VQDDM(SPEC, (4, 4), 3, **{**TINY, 'channel_multipliers': (1,)})
    tokens, variables = some_tokens(generator), variables_of(generator)

    def loss(params):
        return generator.loss(variables | {'params': params}, tokens, jnp.arange(4), jax.random.key(0), train=True).loss

    gradients = jax.jit(jax.grad(loss))(variables['params'])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    assert all(np.abs(kernel).max() > 0 for kernel in jax.tree.leaves(gradients['up_0_res_0']))


class Ignorant(nn.Module):
    """Finds everything equally likely."""

    @nn.compact
    def __call__(self, states, time, cond, *, train=False):
        return jnp.zeros((*states.shape[:3], 7)) + self.param('zero', nn.initializers.zeros, ())


def test_the_whole_bound_of_a_uniform_prediction_is_log2_of_the_codebook_size(monkeypatch):
    monkeypatch.setattr(VQDDM, 'network', property(lambda self: Ignorant()))
    generator = VQDDM(SPEC, (32, 32), 0, timesteps=10, evaluation_terms=10, mask_share=0.9)
    tokens = some_tokens(generator, 8)
    variables = generator.init(jax.random.key(0))
    lossy = jax.jit(functools.partial(generator.loss, train=False))
    bits = lossy(variables, tokens, jnp.zeros(8, jnp.int32), jax.random.key(0)).metrics['bits_per_token']
    np.testing.assert_allclose(bits, math.log2(7), rtol=0.02)
    # Terms drawn by importance estimate the same.
    uneven = {'mean_square': jnp.linspace(1.0, 9.0, 10), 'visits': jnp.full(10, 11.0)}
    training = jax.jit(functools.partial(generator.loss, train=True))
    many = Tokens(np.tile(tokens.ids, (50, 1, 1, 1)))
    found = training(variables | {'diffusion_stats': uneven}, many, jnp.zeros(400, jnp.int32), jax.random.key(0))
    np.testing.assert_allclose(found.metrics['bits_per_token'], math.log2(7), rtol=0.02)


def test_steps_are_spread_over_a_batch_in_proportion_to_their_chances():
    generator = VQDDM(SPEC, (4, 4), 0, **TINY)
    sizes = jnp.asarray([4.0, 4.0, 1.0, 1.0, 1.0, 1.0, 4.0, 4.0]) ** 2
    statistics = {'mean_square': sizes, 'visits': jnp.full(8, 11.0)}
    times = sample_timesteps(jax.random.key(0), generator.time_probabilities({'diffusion_stats': statistics}), 200)
    np.testing.assert_allclose(np.bincount(times.t, minlength=8), [40, 40, 10, 10, 10, 10, 40, 40], atol=1)
    np.testing.assert_allclose(times.probability, np.where(np.isin(times.t, [2, 3, 4, 5]), 0.05, 0.2), rtol=1e-3)
    statistics = {'mean_square': sizes, 'visits': jnp.arange(8.0) + 4}  # one not visited often enough
    times = sample_timesteps(jax.random.key(0), generator.time_probabilities({'diffusion_stats': statistics}), 200)
    np.testing.assert_array_equal(np.bincount(times.t), 25)


def test_the_condition_matters_unless_it_is_hidden():
    generator = make('masks, mixture, transformer')
    tokens, variables, rng = some_tokens(generator), variables_of(generator), jax.random.key(0)

    def bits(generator, train):
        loss = jax.jit(functools.partial(generator.loss, train=train))
        return [float(loss(variables, tokens, jnp.asarray(cond), rng).loss) for cond in ([0, 1, 2, 0], [1, 2, 0, 1])]

    seen, other = bits(generator, train=False)
    assert seen != other
    hidden, other = bits(dataclasses.replace(generator, condition_dropout=1.0), train=True)
    assert hidden == other


def test_tokens_may_enter_as_numbers_and_then_pull_the_prediction_to_themselves():
    ids = jnp.asarray([0, 3, 6]).reshape(1, 1, 3, 1)
    low, middle, high = NumberEmbedding((7,), 4).init_with_output(jax.random.key(0), ids)[0][0, 0]
    np.testing.assert_allclose(middle, (low + high) / 2, rtol=1e-5)

    generator = dataclasses.replace(make('paper'), token_input='number')
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(generator.init, jax.random.key(0)))
    noised = jnp.asarray(some_tokens(generator).ids)
    logits = generator._logits(zeros, noised, 0.5, jnp.zeros(4, jnp.int32))  # of a network that itself says nothing
    np.testing.assert_array_equal(logits, jax.nn.one_hot(noised[..., 0], 7))
    for changes in ({'mask_share': 1.0}, {'denoiser': 'transformer'}):
        with pytest.raises(ValueError, match="token_input 'number' goes with the U-Net and without masks"):
            dataclasses.replace(make('paper'), token_input='number', **changes)


@pytest.mark.parametrize('kind', [UNet, TransformerDenoiser])
def test_bfloat16_keeps_parameters_and_logits_in_float32(kind):
    sizes = {'states': (7,), 'outputs': 7, 'channels': 8}
    sizes |= {'channel_multipliers': (1,)} if kind is UNet else {'layers': 1, 'heads': 2}
    x = jnp.asarray(np.random.default_rng(0).integers(0, 7, (2, 4, 4, 1), np.int32))
    inputs = (x, jnp.asarray([0.1, 0.9]), jnp.asarray([0, 1]))
    variables = jax.jit(kind(**sizes).init)(jax.random.key(0), *inputs)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype('float32')}
    exact = jax.jit(kind(**sizes).apply)(variables, *inputs)
    rounded = jax.jit(kind(**sizes, dtype=jnp.bfloat16, remat=True).apply)(variables, *inputs)
    assert rounded.dtype == exact.dtype == jnp.float32
    assert 0 < np.abs(rounded - exact).max() < 0.05 * np.abs(exact).max()


def test_the_official_network_has_no_skip_at_the_finest_level_and_no_norm_before_attention():
    x = jnp.zeros((1, 4, 4, 1), jnp.int32)
    inputs = (x, jnp.zeros(1), jnp.zeros(1, jnp.int32))
    sizes = {'states': (7,), 'outputs': 7, 'channels': 8, 'channel_multipliers': (1, 2)}
    official, ours = (
        jax.eval_shape(UNet(**sizes, official=official).init, jax.random.key(0), *inputs)['params']
        for official in (True, False)
    )
    assert set(ours) - set(official) == {'up_1_res_0', 'up_1_res_1', 'up_1_attention'}
    assert set(ours['mid_attention']) - set(official['mid_attention']) == {'norm'}


@pytest.mark.parametrize('variant', ['celebahq256', 'church256,masks', 'imagenet256,transformer', 'cifar10,mixed'])
def test_every_config_builds_its_generator(variant):
    config = load_config(f'configs/vq_ddm.py:{variant}')
    sizes = {'codebook_sizes': (1024,), 'codebook_names': ('code',), 'downsample_factor': 16, 'grains': (1,)}
    config.tokens = ConfigDict({**sizes, 'grid': (16, 16), 'num_classes': 0})
    generator = registry.build_generator(config.model, config.tokens)
    params = jax.eval_shape(generator.init, jax.random.key(0))['params']
    if variant == 'celebahq256':  # the size of the official network
        assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 117_586_568
    assert registry.build_sample_config(config.sample).steps == config.sample.steps
    assembly.build_train_step(config, GeneratorObjective(generator))


def test_what_does_not_fit_is_refused():
    ok = {'spec': SPEC, 'grid': (4, 4), 'num_classes': 3, **TINY}
    for change, message in (
        ({'denoiser': 'mlp'}, 'known: unet, transformer'),
        ({'prediction': 'noise'}, 'known: x0, mixture, direct'),
        ({'prediction': 'direct', 'mask_share': 1.0}, 'neither masks nor clean tokens'),
        ({'spec': TokenSpec((7,), 4, grains=(1, 2))}, r'grains \(1, 2\)'),
        ({'timesteps': 1}, 'at least 2'),
        ({'evaluation_terms': 9}, r'in \[1, 8\], got 9'),
        ({'schedule': 'sine'}, 'known: cos'),
    ):
        with pytest.raises(ValueError, match=message):
            VQDDM(**{**ok, **change})
    args = (jnp.zeros(1, jnp.int32), jax.random.key(0), jnp.zeros(1, jnp.int32))
    with pytest.raises(ValueError, match='in 8 steps only, got 2'):
        VQDDM(**ok, prediction='direct').sample({}, *args, SampleConfig(steps=2))
    with pytest.raises(ValueError, match='cannot be guided'):
        VQDDM(**{**ok, 'num_classes': 0}).sample({}, *args, SampleConfig(guidance_scale=2.0))
    text = TextFeatures(jnp.zeros((1, 2, 3)), jnp.ones((1, 2), bool))
    with pytest.raises(ValueError, match='class numbers, got text'):
        VQDDM(**ok).sample({}, text, *args[1:], SampleConfig())
    with pytest.raises(ValueError, match='multiples of 2 for 2 levels'):
        VQDDM(**{**ok, 'grid': (3, 4)}).init(jax.random.key(0))
