"""Draws and rows of the whole batch are the same numbers on one device and on replicas."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vistok.collectives import name_replica_axis, replica_count, replica_draw, replica_take

REPLICAS, ROWS = 4, 3


def on_replicas(function, *parts):
    with name_replica_axis('replica'):
        return jax.pmap(function, axis_name='replica', devices=jax.devices()[:REPLICAS])(*parts)


DRAWS = {
    'uniform': lambda rows: jax.random.uniform(jax.random.key(0), (rows, 5)),
    'permutation': lambda rows: jax.random.permutation(jax.random.key(0), rows),
    'two fields': lambda rows: {'a': jnp.arange(rows), 'b': jax.random.bernoulli(jax.random.key(1), 0.5, (rows, 2))},
    'keys': lambda rows: jax.vmap(lambda key: jax.random.uniform(key, (2,)))(jax.random.split(jax.random.key(0), rows)),
}


@pytest.mark.parametrize('name', DRAWS)
def test_a_replica_draws_its_samples_of_the_whole_batch(name):
    whole = replica_draw(DRAWS[name], REPLICAS * ROWS)
    parts = on_replicas(lambda _: replica_draw(DRAWS[name], ROWS), jnp.zeros(REPLICAS))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a.reshape(b.shape), b), parts, whole)


def test_keys_can_be_drawn_before_they_are_used():
    def draw(_):
        keys = replica_draw(functools.partial(jax.random.split, jax.random.key(0)), ROWS)
        return jax.vmap(lambda key: jax.random.uniform(key, (2,)))(keys)

    whole = jax.vmap(lambda key: jax.random.uniform(key, (2,)))(jax.random.split(jax.random.key(0), REPLICAS * ROWS))
    np.testing.assert_array_equal(on_replicas(draw, jnp.zeros(REPLICAS)).reshape(whole.shape), whole)


def test_rows_of_the_whole_batch_are_the_same_on_all_replicas():
    x = jax.random.normal(jax.random.key(0), (REPLICAS * ROWS, 2))
    rows = jnp.asarray([11, 0, 5, 5, 3])
    found = on_replicas(lambda part: replica_take(part, rows), x.reshape(REPLICAS, ROWS, 2))
    for part in found:
        np.testing.assert_array_equal(part, x[rows])
    np.testing.assert_array_equal(replica_take(x, rows), x[rows])


def test_replicas_are_counted():
    assert replica_count() == 1
    np.testing.assert_array_equal(on_replicas(lambda x: x + replica_count(), jnp.zeros(REPLICAS)), REPLICAS)
