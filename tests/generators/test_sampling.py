"""Filters, guidance and the draw, on small cases counted by hand, and against the official sampler."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from autoregressive_cases import GENERATORS, variables_of
from golden_packs import load_pack

from vistok.generators.autoregressive.speculative_decoding import speculative_jacobi_decode
from vistok.generators.generator import SampleConfig
from vistok.generators.sampling import draw, filter_logits, fold_in_rows, guidance_scales, guide, row_keys


def kept(probabilities, **options):
    logits = jnp.log(jnp.asarray([probabilities], jnp.float32))
    return np.flatnonzero(np.isfinite(filter_logits(logits, SampleConfig(**options))[0])).tolist()


@pytest.mark.parametrize(
    ('options', 'expected'),
    [
        ({}, [0, 1, 2, 3]),
        ({'top_k': 1}, [1]),
        ({'top_k': 2}, [1, 2, 3]),  # two tie for the second place
        ({'top_k': 3}, [1, 2, 3]),
        ({'top_k': 4}, [0, 1, 2, 3]),
        ({'top_k': 9}, [0, 1, 2, 3]),
        ({'top_p': 0.1}, [1]),  # the first one crosses it
        ({'top_p': 0.45}, [1, 2]),  # of equals the lower number comes first
        ({'top_p': 0.7}, [1, 2, 3]),
        ({'top_p': 0.95}, [0, 1, 2, 3]),
        ({'top_k': 3, 'top_p': 0.5}, [1, 2]),  # shares of what top-k left: 0.44, 0.28, 0.28
        ({'top_k': 3, 'top_p': 0.4}, [1]),
    ],
)
def test_what_filters_leave(options, expected):
    assert kept([0.1, 0.4, 0.25, 0.25], **options) == expected


@pytest.mark.parametrize(
    'wrong', [{'temperature': -1.0}, {'top_k': -1}, {'top_p': 0.0}, {'top_p': 1.1}, {'window': -1}]
)
def test_options_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
        SampleConfig(**wrong)


def test_temperature_divides_before_top_p_looks():
    assert kept([0.1, 0.4, 0.26, 0.24], top_p=0.5) == [1, 2]
    assert kept([0.1, 0.4, 0.26, 0.24], top_p=0.5, temperature=0.1) == [1]


@pytest.mark.parametrize(
    ('name', 'options'),
    [
        ('t1', {}),
        ('t07', {'temperature': 0.7}),
        ('k5', {'top_k': 5}),
        ('p09', {'top_p': 0.9}),
        ('t13k12p08', {'temperature': 1.3, 'top_k': 12, 'top_p': 0.8}),
    ],
)
def test_probabilities_are_those_of_the_official_sampler(name, options):
    pack = load_pack('llamagen_gpt_b')
    logits = filter_logits(jnp.asarray(pack['sampler_logits'][:, -1]), SampleConfig(**options))
    np.testing.assert_allclose(jax.nn.softmax(logits), pack[f'sampler_probs_{name}'], atol=1e-6)


def test_draws_follow_the_filtered_probabilities():
    probabilities = np.array([0.1, 0.4, 0.3, 0.2])
    count = 20000
    logits = jnp.tile(jnp.log(jnp.asarray(probabilities, jnp.float32)), (count, 1))
    config = SampleConfig(top_k=3, temperature=0.8)
    ids = draw(logits, row_keys(jax.random.key(0), jnp.arange(count)), config)
    expected = np.where(probabilities > 0.1, probabilities**1.25, 0)
    expected *= count / expected.sum()
    found = np.bincount(ids, minlength=4)
    assert found[0] == 0
    assert ((found - expected)[1:] ** 2 / expected[1:]).sum() < 13.8  # chi-square, 2 degrees of freedom, p = 0.001


def test_temperature_zero_takes_the_most_likely_whatever_the_key():
    logits = jnp.asarray([[0.0, 3.0, 2.9], [1.0, 0.0, -1.0]])
    for seed in range(4):
        ids = draw(logits, row_keys(jax.random.key(seed), jnp.arange(2)), SampleConfig(temperature=0.0))
        np.testing.assert_array_equal(ids, [1, 0])


def test_every_sample_and_position_has_its_own_noise():
    keys = row_keys(jax.random.key(0), jnp.asarray([0, 1, 0]))
    here, there = (jax.random.key_data(fold_in_rows(keys, number)) for number in (0, 1))
    np.testing.assert_array_equal(here[0], here[2])
    assert (here[0] != here[1]).any()
    assert (here != there).any(axis=-1).all()


def test_guidance_goes_from_the_null_condition_through_the_condition():
    logits = jnp.asarray([[1.0, 2.0], [3.0, 3.0], [0.0, 0.0], [1.0, 5.0]])
    np.testing.assert_allclose(guide(logits, jnp.float32(1)), logits[:2])
    np.testing.assert_allclose(guide(logits, jnp.float32(0)), logits[2:])
    np.testing.assert_allclose(guide(logits, jnp.float32(3)), [[3, 6], [7, -1]])


def test_schedules_of_guidance():
    config = SampleConfig(guidance_scale=4.0)
    np.testing.assert_array_equal(guidance_scales(config, 3), [4, 4, 4])
    interval = dataclasses.replace(config, guidance_schedule='interval', guidance_interval=2)
    np.testing.assert_array_equal(guidance_scales(interval, 4), [4, 4, 1, 1])
    rising = guidance_scales(dataclasses.replace(config, guidance_schedule='power_cosine'), 4)
    np.testing.assert_allclose(rising, 1 + 3 * (1 - np.cos(np.pi * np.array([0, 0.25, 0.5, 0.75]))) / 2, rtol=1e-6)
    later = dataclasses.replace(config, guidance_schedule='power_cosine', guidance_power=3.0)
    assert (guidance_scales(later, 4)[1:] < rising[1:]).all()
    with pytest.raises(ValueError, match="unknown guidance_schedule 'linear'; known: constant, interval, power_cosine"):
        guidance_scales(dataclasses.replace(config, guidance_schedule='linear'), 4)


def test_speculated_ids_follow_the_distribution_of_the_model():
    """All 17 * 17 pairs of a grid of two, against the probabilities of the network (chi-square)."""
    count = 4000
    generator = dataclasses.replace(GENERATORS['class'], grid=(1, 2))
    variables, cond = variables_of('class'), jnp.full((count,), 2)
    config = SampleConfig(window=2, temperature=0.7)
    keys = row_keys(jax.random.key(5), jnp.arange(count))
    found = jax.jit(lambda v: speculative_jacobi_decode(generator, v, cond, None, keys, config))(variables)

    firsts = jnp.arange(17)
    pairs = jnp.stack([firsts, jnp.zeros_like(firsts)], axis=1)[..., None]
    logits = jax.jit(lambda v: generator.network.apply(v, pairs, cond[:17], method='logits'))(variables)[0] / 0.7
    first, second = jax.nn.softmax(logits[0, 0]), jax.nn.softmax(logits[:, 1])
    expected = count * np.asarray(first[:, None] * second).ravel()
    counts = np.bincount(np.asarray(found.ids[:, 0] * 17 + found.ids[:, 1]), minlength=17 * 17)
    order = np.argsort(expected)
    rare = np.cumsum(expected[order]) < 10  # cells too rare for the statistic are counted together
    cells = np.where(np.isin(np.arange(17 * 17), order[rare]), 17 * 17, np.arange(17 * 17))
    group = lambda x: np.bincount(cells, weights=x, minlength=17 * 17 + 1)  # noqa: E731
    seen, wanted = group(counts), group(expected)
    used = wanted > 0
    statistic, freedom = ((seen - wanted)[used] ** 2 / wanted[used]).sum(), used.sum() - 1
    assert abs(statistic - freedom) < 4 * np.sqrt(2 * freedom)


def test_guesses_that_stand_save_passes():
    generator = dataclasses.replace(GENERATORS['class'], grid=(4, 4))
    sure = jax.tree.map(jnp.zeros_like, variables_of('class'))  # every logit is 0: greedy ids are all 0
    config = SampleConfig(window=4, temperature=0.0)
    keys = row_keys(jax.random.key(0), jnp.arange(2))
    found = jax.jit(lambda v: speculative_jacobi_decode(generator, v, jnp.zeros((2,), jnp.int32), None, keys, config))(
        sure
    )
    np.testing.assert_array_equal(found.ids, 0)
    np.testing.assert_array_equal(found.passes, 4)
