"""Autoregressive generators: likelihoods, cached steps, and samples that depend on seed, number and condition only."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from autoregressive_cases import GENERATORS, ONE, THREE, condition, tokens, variables_of
from jax.sharding import NamedSharding, PartitionSpec

from vistok.generators.autoregressive import far, llamagen
from vistok.generators.autoregressive.decoding import SampledToken, decode
from vistok.generators.autoregressive.far import FAR
from vistok.generators.autoregressive.int8 import int8_weights
from vistok.generators.autoregressive.llamagen import LlamaGen
from vistok.generators.autoregressive.unstack_layers import unstack_layers
from vistok.generators.generator import SampleConfig
from vistok.generators.trained import TrainedGenerator
from vistok.tokenizers.tokenizer import Tokens, TokenSpec
from vistok.training.sharding import make_mesh, parameter_spec, path_name

GUIDED = SampleConfig(guidance_scale=1.7, top_p=0.95)


@functools.cache
def sampled(name, count=8):
    return np.asarray(
        TrainedGenerator(GENERATORS[name], variables_of(name)).sample_tokens(condition(name, count), 3, GUIDED).ids
    )


@functools.partial(jax.jit, static_argnums=0)
def full_logits(generator, variables, ids, cond):
    return generator.network.apply(variables, ids, cond, method='logits')


@functools.partial(jax.jit, static_argnums=0)
def raw_sample(generator, variables, cond):
    return generator.sample(variables, cond, jax.random.key(3), jnp.arange(len(cond)), GUIDED).ids


@functools.partial(jax.jit, static_argnums=0)
def loss(generator, variables, ids, cond, seed):
    return generator.loss(variables, Tokens(ids), cond, jax.random.key(seed), train=True)


def reading(generator, variables, ids, cond, *, compiled=True):
    """The logits that a walk along given ids sees, `[b, n, K]` for each sub-codebook."""
    b, slots = len(ids), len(generator.spec.codebook_sizes)
    flat = jnp.asarray(ids).reshape(b, -1, slots)

    def choose(state, logits, position, codebook_index):
        return SampledToken(
            flat[:, position, codebook_index],
            state | {codebook_index: state[codebook_index].at[:, position].set(logits)},
        )

    nothing = {
        codebook_index: jnp.zeros((b, flat.shape[1], size))
        for codebook_index, size in enumerate(generator.spec.codebook_sizes)
    }

    def run(variables):
        return decode(generator, variables, cond, choose, nothing, compiled=compiled).state

    return (jax.jit(run) if compiled else run)(variables)


@functools.cache
def read(name):
    return reading(GENERATORS[name], variables_of(name), tokens(name, 3).ids, condition(name, 3))


@functools.cache
def whole(name):
    return full_logits(GENERATORS[name], variables_of(name), tokens(name, 3).ids.reshape(3, 6, -1), condition(name, 3))


@pytest.mark.parametrize('name', GENERATORS)
def test_cached_steps_give_the_logits_of_the_whole_pass(name):
    for codebook_index, logits in read(name).items():
        expected = whole(name)[codebook_index][..., : GENERATORS[name].spec.codebook_sizes[codebook_index]]
        assert np.abs(expected).max() > 0.5
        np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_layers_on_their_own_with_turned_matrices_give_the_logits_of_the_stack():
    generator, variables = GENERATORS['class'], variables_of('class')
    apart = unstack_layers(variables)
    assert {'layers_0', 'layers_1'} <= set(apart['params']['decoder'])
    jax.tree.map(np.testing.assert_array_equal, unstack_layers(apart), apart)
    ids, cond = tokens('class', 3).ids, condition('class', 3)
    of_stack, of_layers = (reading(generator, v, ids, cond) for v in (variables, apart))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), of_layers, of_stack)


def test_a_walk_step_by_step_is_the_compiled_walk():
    by_hand = reading(GENERATORS['far'], variables_of('far'), tokens('far', 3).ids, condition('far', 3), compiled=False)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), by_hand, read('far'))


@pytest.mark.parametrize('name', GENERATORS)
def test_a_logit_depends_on_earlier_ids_only(name):
    ids = tokens(name, 3).ids.reshape(3, 6, -1)
    slots = ids.shape[-1]
    ids[:, 3, slots - 1] = (ids[:, 3, slots - 1] + 1) % GENERATORS[name].spec.codebook_sizes[-1]
    changed = full_logits(GENERATORS[name], variables_of(name), ids, condition(name, 3))
    for before, after in zip(whole(name), changed, strict=True):
        np.testing.assert_array_equal(before[:, :4], after[:, :4])
        assert (np.abs(before - after)[:, 4:].max(axis=(1, 2)) > 1e-4).all()


@pytest.mark.parametrize('name', GENERATORS)
def test_the_loss_is_the_mean_cross_entropy(name):
    found = TrainedGenerator(GENERATORS[name], variables_of(name)).loss(tokens(name, 3), condition(name, 3))
    ids = tokens(name, 3).ids.reshape(3, 6, -1)
    nll = [
        -np.take_along_axis(np.asarray(jax.nn.log_softmax(x)), ids[..., codebook_index, None], -1).mean()
        for codebook_index, x in enumerate(whole(name))
    ]
    np.testing.assert_allclose(found.loss, np.mean(nll), rtol=1e-5)
    np.testing.assert_allclose(found.metrics['bits_per_token'], np.mean(nll) / math.log(2), rtol=1e-5)


def test_a_fresh_generator_guesses_uniformly():
    fresh = jax.jit(GENERATORS['class'].init)(jax.random.key(0))
    found = TrainedGenerator(GENERATORS['class'], fresh).loss(tokens('class', 3), condition('class', 3))
    np.testing.assert_allclose(found.loss, math.log(17), rtol=1e-6)


@pytest.mark.parametrize('name', ['class', 'text'])
def test_a_dropped_condition_is_the_null_condition(name):
    model, ids, cond = TrainedGenerator(GENERATORS[name], variables_of(name)), tokens(name, 3), condition(name, 3)
    always = dataclasses.replace(model.generator, condition_dropout=1.0)
    dropped = loss(always, model.variables, ids.ids, cond, 0).loss
    null = model.loss(ids, always.null_condition(model.variables, cond)).loss
    np.testing.assert_allclose(dropped, null, rtol=1e-6)
    assert abs(dropped - model.loss(ids, cond).loss) > 1e-4


def test_padding_of_a_caption_says_nothing():
    cond = condition('text', 3)
    padded = dataclasses.replace(cond, features=cond.features + jnp.where(cond.mask[..., None], 0.0, 5.0))
    ids = tokens('text', 3).ids.reshape(3, 6, 1)
    noisy = full_logits(GENERATORS['text'], variables_of('text'), ids, padded)
    np.testing.assert_allclose(whole('text')[0], noisy[0], atol=1e-6)


def test_label_smoothing_mixes_the_uniform_distribution_in():
    smooth = dataclasses.replace(GENERATORS['class'], condition_dropout=0.0, label_smoothing=0.1)
    variables, ids, cond = variables_of('class'), tokens('class', 3), condition('class', 3)
    hard = TrainedGenerator(GENERATORS['class'], variables).loss(ids, cond)
    soft = loss(smooth, variables, ids.ids, cond, 0)
    uniform = -np.asarray(jax.nn.log_softmax(whole('class')[0])).mean()
    np.testing.assert_allclose(soft.loss, 0.9 * hard.loss + 0.1 * uniform, rtol=1e-5)
    np.testing.assert_allclose(soft.metrics['bits_per_token'], hard.metrics['bits_per_token'], rtol=1e-6)


@pytest.mark.parametrize('noise', [{'dropout': 0.3}, {'replaced': 0.3}])
def test_noise_is_for_training_only(noise):
    generator = dataclasses.replace(GENERATORS['gpt'], condition_dropout=1e-9, **noise)
    ids, cond, variables = tokens('gpt', 3), condition('gpt', 3), variables_of('gpt')
    training = [float(loss(generator, variables, ids.ids, cond, seed).loss) for seed in (0, 1)]
    clean = TrainedGenerator(GENERATORS['gpt'], variables).loss(ids, cond).loss
    assert abs(training[0] - training[1]) > 1e-4
    np.testing.assert_array_equal(TrainedGenerator(generator, variables).loss(ids, cond).loss, clean)


def test_variables_prepared_once_give_the_same_samples_and_nothing_is_left_to_prepare():
    model = TrainedGenerator(GENERATORS['class'], variables_of('class'))
    assert len(np.unique(sampled('class'))) > 3
    np.testing.assert_array_equal(sampled('class'), raw_sample(model.generator, model.variables, condition('class', 8)))
    assert model.sampling_variables is model.sampling_variables
    assert 'kernel' not in model.sampling_variables['params']['output_0']
    assert model.sampling_variables['params']['norm']['scale'] is model.variables['params']['norm']['scale']
    again = model.generator.prepare_for_sampling(model.sampling_variables)
    assert all(a is b for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(model.sampling_variables), strict=True))


@pytest.mark.parametrize(('data', 'model_axis'), [(8, 1), (2, 4)])
def test_devices_do_not_change_samples(data, model_axis, monkeypatch):
    monkeypatch.setattr('vistok.training.sharding.SMALLEST_SPLIT', 1)
    mesh = make_mesh(data, 1, model_axis)
    put = lambda x, spec: jax.device_put(x, NamedSharding(mesh, spec))  # noqa: E731
    variables = jax.tree_util.tree_map_with_path(
        lambda path, x: put(x, parameter_spec(path_name(path), x.shape, mesh)), variables_of('class')
    )
    if model_axis > 1:
        assert not variables['params']['decoder']['layers']['attention']['qkv']['kernel'].is_fully_replicated
    cond, numbers = (put(x, PartitionSpec('data')) for x in (condition('class', 8), jnp.arange(8)))
    ids = TrainedGenerator(GENERATORS['class'], variables).sample_tokens(cond, 3, GUIDED, sample_ids=numbers).ids
    np.testing.assert_array_equal(ids, sampled('class'))


@pytest.mark.parametrize('name', ['class', 'text'])
def test_a_window_of_guesses_gives_the_same_ids(name):
    model = TrainedGenerator(GENERATORS[name], variables_of(name))
    ids = model.sample_tokens(condition(name, 8), 3, dataclasses.replace(GUIDED, window=4)).ids
    np.testing.assert_array_equal(ids, sampled(name))


@pytest.mark.parametrize(
    'changes',
    [{'dtype': jnp.bfloat16}, {'cache_dtype': jnp.bfloat16}, {'cache_dtype': jnp.int8}, {}],
    ids=['bfloat16', 'bfloat16 cache', 'int8 cache', 'int8 weights'],
)
def test_fewer_bits_hardly_change_the_cross_entropy(changes):
    """In nats per token, of what the cached steps predict."""
    ids, cond = tokens('class', 3), condition('class', 3)
    variables = variables_of('class') if changes else int8_weights(variables_of('class'))
    coarse = dataclasses.replace(GENERATORS['class'], **changes)
    stepped = reading(coarse, coarse.prepare_for_sampling(variables), ids.ids, cond)

    def cross_entropy(logits):
        return -jax.nn.log_softmax(logits[0])[np.arange(3)[:, None], np.arange(6), ids.ids.reshape(3, 6)].mean()

    assert 0 < abs(cross_entropy(stepped) - cross_entropy(read('class'))) < 0.01
    if not changes:
        assert variables['params']['decoder']['layers']['attention']['qkv']['kernel'].dtype == jnp.int8
        found = TrainedGenerator(coarse, variables).loss(ids, cond).loss  # the whole pass reads integers as well
        np.testing.assert_allclose(found, cross_entropy(stepped), rtol=1e-5)


@pytest.mark.parametrize('remat', [False, True])
def test_remat_computes_the_blocks_again_in_the_backward_pass(remat):
    generator = dataclasses.replace(GENERATORS['class'], remat=remat)

    def of(variables):
        ids, cond = Tokens(tokens('class', 3).ids), condition('class', 3)
        return generator.loss(variables, ids, cond, jax.random.key(1), train=True).loss

    assert ('remat' in str(jax.make_jaxpr(jax.grad(of))(variables_of('class')))) == remat


@pytest.mark.parametrize(
    ('generator', 'sizes', 'millions'),
    [
        *((LlamaGen, llamagen.SIZES[name], count) for name, count in
          {'b': 110.89, 'l': 342.91, 'xl': 774.70, 'xxl': 1410.97, '3b': 3096.66}.items()),
        *((FAR, far.SIZES[name], count) for name, count in {'b': 417.10, 'l': 901.20}.items()),
    ],
)  # fmt: skip
def test_published_sizes_have_the_published_parameters(generator, sizes, millions):
    codebooks = (16384,) if generator is LlamaGen else (16384, 16384)
    spec = TokenSpec(codebooks, 16, ('vis', 'sem')[: len(codebooks)])
    shapes = jax.eval_shape(generator(spec, (16, 16), 1000, **sizes).init, jax.random.key(0))
    assert sum(x.size for x in jax.tree.leaves(shapes)) / 1e6 == pytest.approx(millions, abs=0.006)


def test_what_does_not_fit_is_answered_in_a_sentence():
    model = TrainedGenerator(GENERATORS['class'], variables_of('class'))
    with pytest.raises(ValueError, match='there is no class 6: classes are 0 to 4, and 5 asks for nothing'):
        model.sample_tokens([0, 6])
    with pytest.raises(ValueError, match='conditioned on class numbers, got text features'):
        model.sample_tokens(condition('text', 1))
    cond = condition('text', 1)
    with pytest.raises(ValueError, match='captions have 4 vectors of 6 numbers'):
        TrainedGenerator(GENERATORS['text'], variables_of('text')).sample_tokens(
            dataclasses.replace(cond, features=cond.features[:, :3], mask=cond.mask[:, :3])
        )
    unconditional = dataclasses.replace(GENERATORS['class'], condition_dropout=0.0)
    with pytest.raises(ValueError, match='guidance needs a generator that was trained with condition_dropout'):
        TrainedGenerator(unconditional, variables_of('class')).sample_tokens([0], config=GUIDED)
    with pytest.raises(ValueError, match='a window of guesses needs one id per position'):
        TrainedGenerator(GENERATORS['far'], variables_of('far')).sample_tokens([0], config=SampleConfig(window=4))
    with pytest.raises(ValueError, match='one id per position'):
        LlamaGen(THREE, (2, 2), 5)
    with pytest.raises(ValueError, match='tokens of one grain'):
        LlamaGen(dataclasses.replace(ONE, grains=(1, 2)), (2, 2), 5)
    with pytest.raises(ValueError, match='unknown rotation'):
        jax.eval_shape(dataclasses.replace(GENERATORS['class'], cond_rope='half').init, jax.random.key(0))
    with pytest.raises(ValueError, match='width 16 is not a multiple of heads 3'):
        jax.eval_shape(dataclasses.replace(GENERATORS['gpt'], heads=3).init, jax.random.key(0))
