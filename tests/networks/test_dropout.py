"""Dropout is flax's on one device, and on several replicas that of the whole batch."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vistok.collectives import name_replica_axis
from vistok.networks.dropout import Dropout

REPLICAS = 4


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_on_one_device_it_is_the_layer_of_flax(dtype):
    class Twice(nn.Module):
        layer: type

        @nn.compact
        def __call__(self, x):
            return self.layer(0.5, deterministic=False)(self.layer(0.1)(x, deterministic=False))

    x = jax.random.normal(jax.random.key(0), (8, 5, 3), dtype)
    ours, theirs = (Twice(layer).apply({}, x, rngs={'dropout': jax.random.key(1)}) for layer in (Dropout, nn.Dropout))
    assert ours.dtype == dtype
    np.testing.assert_array_equal(ours, theirs)


def test_nothing_is_dropped_without_a_rate_or_outside_training():
    x = jnp.ones((2, 3))
    np.testing.assert_array_equal(Dropout(0.0, deterministic=False).apply({}, x), x)
    np.testing.assert_array_equal(Dropout(0.5, deterministic=True).apply({}, x), x)


def test_replicas_drop_what_one_device_drops():
    x = jax.random.normal(jax.random.key(0), (REPLICAS * 2, 7))

    def drop(x):
        return Dropout(0.5, deterministic=False).apply({}, x, rngs={'dropout': jax.random.key(1)})

    with name_replica_axis('replica'):
        parts = jax.pmap(drop, axis_name='replica', devices=jax.devices()[:REPLICAS])(x.reshape(REPLICAS, 2, 7))
    np.testing.assert_array_equal(parts.reshape(x.shape), drop(x))
    dropped = np.asarray(parts) == 0
    assert all((dropped[0] != dropped[i]).any() for i in range(1, REPLICAS))
