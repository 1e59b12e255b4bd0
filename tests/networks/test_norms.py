"""Norms are exact where the mean is 1,000 deviations, and are the general layers elsewhere."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vistok.networks.norms import BatchNorm, GroupNorm, LayerNorm
from vistok.tokenizers.networks import patchgan

SHAPE = (2, 48, 40, 32)


def group_statistics(x, groups):
    b, h, w, c = x.shape
    parts = x.reshape(b, h, w, groups, c // groups)
    mean, var = parts.mean((1, 2, 4), keepdims=True), parts.var((1, 2, 4), keepdims=True)
    return tuple(np.broadcast_to(value, parts.shape).reshape(x.shape) for value in (mean, var))


def statistics(axes):
    return lambda x: (x.mean(axes, keepdims=True), x.var(axes, keepdims=True))


# Layer, its arguments, epsilon, and mean and variance of every value in float64.
NORMS = {
    'group': (GroupNorm(), {}, 1e-6, lambda x: group_statistics(x, 8)),
    'group of the diffusion U-Net': (GroupNorm(4, epsilon=1e-5), {}, 1e-5, lambda x: group_statistics(x, 4)),
    'layer': (LayerNorm(epsilon=1e-5), {}, 1e-5, statistics(-1)),
    'rms': (nn.RMSNorm(epsilon=1e-5), {}, 1e-5, lambda x: (0.0, (x**2).mean(-1, keepdims=True))),
    'batch': (BatchNorm(use_running_average=False, epsilon=1e-5), {}, 1e-5, statistics((0, 1, 2))),
    'batch of PatchGAN': (patchgan.BatchNorm(), {'train': True}, 1e-5, statistics((0, 1, 2))),
}


@pytest.mark.parametrize('offset', [0.0, 30.0, 1_000.0, -10_000.0])
@pytest.mark.parametrize('name', NORMS)
def test_results_and_gradients_are_those_of_float64_whatever_the_mean(name, offset):
    module, arguments, epsilon, moments = NORMS[name]
    rng = np.random.default_rng(0)
    x = jnp.asarray(offset + rng.standard_normal(SHAPE), jnp.float32)
    variables = jax.tree.map(np.asarray, module.init(jax.random.key(0), x, **arguments))
    variables['params']['scale'] = np.ones_like(variables['params']['scale'])
    weights = rng.standard_normal(SHAPE).astype(np.float32)

    @jax.jit
    def value_and_gradient(x):
        apply = functools.partial(module.apply, variables, mutable='batch_stats', **arguments)
        y, pull_back = jax.vjp(lambda x: apply(x)[0], x)
        return y, pull_back(weights)[0]

    y, gradient = value_and_gradient(x)
    mean, var = moments(np.asarray(x, np.float64))
    inverse = 1 / np.sqrt(var + epsilon)
    expected = (x - mean) * inverse
    np.testing.assert_allclose(y, expected, atol=1e-3 * max(1, abs(offset) / 1_000))
    if name == 'rms':
        back = weights - expected * (weights * expected).mean(-1, keepdims=True)
    else:
        average = lambda v: moments(v)[0]  # noqa: E731
        back = weights - average(weights.astype(np.float64)) - expected * average(weights * expected)
    np.testing.assert_allclose(gradient / inverse, back, atol=1e-3 * max(1, abs(offset) / 1_000))


def randomised(variables, seed=1):
    leaves, tree = jax.tree.flatten(variables)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    return jax.tree.unflatten(tree, [0.3 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)])


@pytest.mark.parametrize(('channels', 'groups'), [(256, 32), (128, 32), (64, 16), (16, 4), (2, 1)])
def test_group_norm_is_the_general_layer(channels, groups):
    x = 3 + 2 * jax.random.normal(jax.random.key(0), (2, 5, 7, channels))
    variables = randomised(GroupNorm().init(jax.random.key(0), x))
    general = nn.GroupNorm(num_groups=groups, epsilon=1e-6, use_fast_variance=False)
    np.testing.assert_allclose(GroupNorm().apply(variables, x), general.apply(variables, x), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(GroupNorm(groups).apply(variables, x), GroupNorm().apply(variables, x))


def test_group_norm_keeps_float32_statistics_in_bfloat16():
    x = (100 + jax.random.normal(jax.random.key(0), (1, 64, 64, 32))).astype(jnp.bfloat16)
    module = GroupNorm(dtype=jnp.bfloat16)
    y = module.apply(module.init(jax.random.key(0), x), x)
    assert y.dtype == jnp.bfloat16
    assert abs(float(jnp.mean(y.astype(jnp.float32)))) < 0.01
    assert abs(float(jnp.std(y.astype(jnp.float32))) - 1) < 0.02


def test_channels_that_do_not_fall_into_groups_are_refused():
    with pytest.raises(ValueError, match='42 channels cannot be cut into 10'):
        GroupNorm().init(jax.random.key(0), jnp.zeros((1, 4, 4, 42)))
