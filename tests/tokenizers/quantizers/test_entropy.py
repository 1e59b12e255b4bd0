"""The entropy loss equals its definition, and replicas together compute the global one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vistok.collectives import name_replica_axis, replica_mean
from vistok.tokenizers.codebooks.codebook import unit_norm
from vistok.tokenizers.quantizers import entropy
from vistok.tokenizers.quantizers.entropy import entropy_loss


def naive(z, codebook, temperature=0.01):
    """The definition, with every probability in memory."""
    d = jnp.sum((z[:, None] - codebook) ** 2, axis=-1)
    p = jax.nn.softmax(-d / temperature)
    row_entropy = -jnp.sum(p * jax.nn.log_softmax(-d / temperature), axis=-1)
    mean = jnp.mean(p, axis=0)
    return jnp.mean(row_entropy) + jnp.sum(mean * jnp.log(mean + 1e-5))


def vectors(seed, *shape):
    return unit_norm(jax.random.normal(jax.random.key(seed), shape))


def with_gradients(loss, z, codebook, temperature):
    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)), static_argnums=2)(z, codebook, temperature)


def assert_gradients_close(ours, expected):
    for a, b in zip(ours, expected, strict=True):
        assert np.abs(a - b).max() <= 1e-4 * np.abs(b).max()


@pytest.mark.parametrize('temperature', [0.01, 1.0])
@pytest.mark.parametrize('size', [1, 63, 500])
def test_equals_the_definition(monkeypatch, size, temperature):
    monkeypatch.setattr(entropy, '_PROBABILITIES_AT_ONCE', 1)  # tiles of 64: one, and a padded last one
    z, codebook = vectors(0, 70, 8), vectors(1, size, 8)
    value, grads = with_gradients(entropy_loss, z, codebook, temperature)
    expected, expected_grads = with_gradients(naive, z, codebook, temperature)
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-5)
    if size > 1:
        assert_gradients_close(grads, expected_grads)
    else:
        assert not any(np.any(np.abs(g) > 1e-4) for g in grads)


def test_error_stays_at_the_rounding_of_the_logits(monkeypatch):
    monkeypatch.setattr(entropy, '_PROBABILITIES_AT_ONCE', 1)
    z, codebook = 30 * vectors(0, 40, 8), 20 * vectors(1, 200, 8)
    value, grads = with_gradients(entropy_loss, z, codebook, 0.01)
    largest_logit = 2 * 30 * 20 / 0.01
    assert abs(value - with_gradients(naive, z, codebook, 0.01)[0]) < np.finfo(np.float32).eps * largest_logit
    assert all(np.isfinite(g).all() for g in grads)


def test_sure_and_even_assignments_reach_the_minimum():
    codebook = jnp.eye(8)
    np.testing.assert_allclose(entropy_loss(codebook, codebook), -np.log(8), rtol=1e-3)
    assert entropy_loss(codebook, codebook) < entropy_loss(codebook[jnp.zeros(8, int)], codebook) < 1e-3


def test_mean_of_replica_gradients_is_the_global_gradient():
    z, codebook = vectors(0, 4, 20, 8), vectors(1, 100, 8)

    def replica(z, codebook):
        with name_replica_axis('data'):
            value, (dz, dc) = jax.value_and_grad(entropy_loss, argnums=(0, 1))(z, codebook)
            return replica_mean(value), dz, replica_mean(dc)

    devices = jax.devices()[:4]
    value, dz, dc = jax.pmap(replica, axis_name='data', in_axes=(0, None), devices=devices)(z, codebook)
    expected, (expected_dz, expected_dc) = with_gradients(naive, z.reshape(-1, 8), codebook, 0.01)
    np.testing.assert_allclose(value, np.full(4, expected), rtol=1e-5)
    # A replica differentiates the sum of all replicas' losses, four times the global loss, by its own rows.
    assert_gradients_close((dz.reshape(-1, 8) / 4, dc[0]), (expected_dz, expected_dc))


def test_no_buffer_holds_all_probabilities():
    z, codebook = jnp.zeros((4096, 8)), jnp.zeros((16384, 8))
    compiled = jax.jit(jax.grad(entropy_loss, argnums=(0, 1))).lower(z, codebook).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 64 * 2**20 < 4 * z.shape[0] * codebook.shape[0]


def test_temperature_must_be_positive():
    with pytest.raises(ValueError, match='temperature must be positive, got 0'):
        entropy_loss(jnp.zeros((1, 2)), jnp.zeros((1, 2)), 0.0)
