"""Discrete diffusion against products of matrices, for five tokens."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vistok.generators.diffusion import discrete_diffusion as diffusion

K = 5
T = 6
SHARES = [0.0, 0.9, 1.0]


def matrix(what, i, masks):
    """Row: state before, column: state after; float64."""
    keep, redraw, mask = (np.exp(np.float64(np.asarray(x)[i])) for x in (what.keep, what.redraw, what.mask))
    q = np.zeros((K + 1, K + 1))
    q[:K, :K] = keep * np.eye(K) + redraw / K
    q[:K, K] = mask
    q[K, K] = 1
    return q if masks else q[:K, :K]


@functools.cache
def case(share):
    """The steps, their matrices and the product of each with those before it."""
    steps, masks = diffusion.noise_steps('cos2', T, share), share > 0
    single = [matrix(steps.step, i, masks) for i in range(T)]
    together = [np.eye(len(single[0]))]
    for q in single:
        together.append(together[-1] @ q)
    return steps, single, together


def every(share):
    """Each x_0, x_t and step with q(x_t | x_0) > 0, and its posterior by Bayes' rule."""
    _, single, together = case(share)
    states = len(single[0])
    for t in range(T):
        for x_0 in range(K):
            for x_t in range(states):
                joint = together[t][x_0] * single[t][:, x_t]
                if joint.sum() > 1e-12:
                    yield t, x_0, x_t, joint / joint.sum()


@pytest.mark.parametrize('share', SHARES)
def test_steps_lead_to_what_is_said_of_them_together(share):
    steps, _, together = case(share)
    for i in range(T):
        np.testing.assert_allclose(matrix(steps.after, i, share > 0), together[i + 1], atol=1e-6)
        np.testing.assert_allclose(matrix(steps.before, i, share > 0), together[i], atol=1e-6)
        np.testing.assert_allclose(together[i].sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize('share', SHARES)
@pytest.mark.parametrize('count', [1, 2, 4])
def test_jumps_are_products_of_steps(share, count):
    _, single, _ = case(share)
    jumps = diffusion.noise_steps('cos2', T, share, count)
    last = 0
    for i, time in enumerate(jumps.time):
        reached = round(float(time) * T) + 1
        np.testing.assert_allclose(
            matrix(jumps.step, i, share > 0), functools.reduce(np.matmul, single[last:reached]), atol=1e-6
        )
        last = reached
    assert last == T


@pytest.mark.parametrize('share', SHARES)
def test_posteriors_are_bayes_rule_and_sum_to_one(share):
    steps = case(share)[0]
    t, x_0, x_t, expected = (jnp.asarray(np.asarray(x)) for x in zip(*every(share), strict=True))
    found = diffusion.posterior(diffusion.log_one_hot(x_0, K), x_t, steps.at(t), masks=share > 0)
    np.testing.assert_allclose(np.exp(found), expected, atol=2e-6)
    np.testing.assert_allclose(np.exp(found).sum(axis=-1), 1, atol=2e-6)


@pytest.mark.parametrize('share', SHARES)
def test_the_mixture_averages_posteriors_over_the_prediction(share):
    _, single, together = case(share)
    guess = np.random.default_rng(0).dirichlet(np.ones(K)).astype(np.float32)
    rows = []
    for t in range(T):
        for x_t in range(len(single[0])):
            joint = together[t][:K] * single[t][:, x_t]
            if share == 1 and x_t < K:  # seen as it is: nothing else is possible
                expected = np.eye(K + 1)[x_t]
            else:
                expected = guess @ (joint / joint.sum(axis=1, keepdims=True))
            rows.append((t, x_t, expected))
    t, x_t, expected = (jnp.asarray(np.asarray(x)) for x in zip(*rows, strict=True))
    log_x0 = jnp.broadcast_to(np.log(guess), (len(t), K))
    found = np.exp(diffusion.mixture(log_x0, x_t, case(share)[0].at(t), masks=share > 0))
    np.testing.assert_allclose(found, expected, atol=5e-6)
    other = np.exp(diffusion.posterior(log_x0, x_t, case(share)[0].at(t), masks=share > 0))
    assert (np.abs(other - expected).max() < 5e-6) == (share == 1)  # with masks alone the two are the same


@pytest.mark.parametrize('share', SHARES)
def test_the_bound_of_a_uniform_prediction_is_log2_of_the_codebook_size(share):
    steps, _, together = case(share)
    t, x_0, x_t = (jnp.asarray(np.asarray(x)) for x in zip(*(found[:3] for found in every(share)), strict=True))
    at, masks = steps.at(t), share > 0
    log_q = diffusion.posterior(diffusion.log_one_hot(x_0, K), x_t, at, masks=masks)
    log_p = diffusion.posterior(jnp.full((len(t), K), -np.log(K)), x_t, at, masks=masks)
    terms = diffusion.variational_term(log_q, log_p, x_0, t)
    chance = np.asarray(together)[np.asarray(t) + 1, x_0, x_t]
    total = (chance * terms).sum() / K + diffusion.prior_divergence(steps, K)  # over all x_0
    np.testing.assert_allclose(total / np.log(2), np.log2(K), rtol=1e-5)


@pytest.mark.parametrize('share', SHARES)
def test_noise_is_drawn_as_often_as_its_probability(share):
    steps, _, together = case(share)
    ids = jnp.full((20_000,), 3)
    after = jax.tree.map(lambda x: x[3], steps.after)
    noised = diffusion.add_noise(jax.random.key(0), ids, after, K, masks=share > 0)
    shares = np.bincount(noised, minlength=len(together[4])) / len(ids)
    np.testing.assert_allclose(shares, together[4][3], atol=0.012)
    nothing = jax.tree.map(lambda x: x[0], steps.before)
    np.testing.assert_array_equal(diffusion.add_noise(jax.random.key(0), ids, nothing, K, masks=share > 0), ids)


def test_masks_stay_masks():
    steps = diffusion.noise_steps('linear', T, 0.5)
    masked = jnp.full((100,), K)
    first = jax.tree.map(lambda x: x[0], steps.step)
    np.testing.assert_array_equal(diffusion.add_noise(jax.random.key(0), masked, first, K, masks=True), masked)


def test_sampling_starts_where_noise_ends():
    assert diffusion.prior_divergence(diffusion.noise_steps('cos', 1000, 0.0), 1024) < 1e-5
    steps = diffusion.noise_steps('linear', 1000, 1.0)
    start = diffusion.sample_first_state(jax.random.key(0), (1000,), steps, K, masks=True)
    np.testing.assert_array_equal(start, K)


def test_what_does_not_exist_is_refused():
    with pytest.raises(ValueError, match='known: cos, cos2, linear'):
        diffusion.log_kept('square', 10)
    with pytest.raises(ValueError, match='mask_share must be in'):
        diffusion.noise_steps('cos', 10, 1.5)
    with pytest.raises(ValueError, match=r'in \[1, 10\], got 11'):
        diffusion.noise_steps('cos', 10, 0.0, 11)
