"""Stochastic depth: whole samples are dropped, in expectation nothing changes, and devices do not matter."""

import jax
import jax.numpy as jnp
import numpy as np

from vistok.collectives import name_replica_axis
from vistok.networks.transformer import TransformerBlock, drop_samples


def test_samples_are_dropped_whole_and_the_others_scaled():
    x = jax.random.normal(jax.random.key(0), (2000, 3, 4))
    dropped = drop_samples(jax.random.key(1), x, 0.25)
    ratio = np.asarray(dropped) / np.asarray(x)
    per_sample = ratio.reshape(2000, -1)
    np.testing.assert_allclose(
        ratio, np.broadcast_to(np.where(per_sample[:, :1] > 0, 4 / 3, 0)[..., None], ratio.shape), rtol=1e-5
    )
    assert 440 < (per_sample[:, 0] == 0).sum() < 560
    np.testing.assert_array_equal(drop_samples(jax.random.key(1), x, 0.0), x)


def test_what_is_dropped_depends_on_the_number_of_the_sample_and_not_on_the_devices():
    x = jnp.ones((16, 1, 1))
    whole = drop_samples(jax.random.key(2), x, 0.5)

    def part(x):
        with name_replica_axis('replica'):
            return drop_samples(jax.random.key(2), x, 0.5)

    parts = jax.pmap(part, axis_name='replica')(x.reshape(8, 2, 1, 1))
    np.testing.assert_array_equal(parts.reshape(16, 1, 1), whole)
    assert 0 < np.sum(whole == 0) < 16


def test_a_block_leaves_out_its_branches_in_training_only():
    block, x = TransformerBlock(2), jax.random.normal(jax.random.key(0), (64, 3, 4))
    variables = jax.jit(block.init)(jax.random.key(1), x)
    apply = jax.jit(block.apply, static_argnames='train')
    rngs = {'drop_path': jax.random.key(2)}
    found = apply(variables, x, train=True, drop_path=0.5, rngs=rngs)
    unchanged = np.all(found == x, axis=(1, 2))  # both branches dropped: a quarter of the samples
    assert 5 < unchanged.sum() < 30
    plain = apply(variables, x)
    np.testing.assert_array_equal(apply(variables, x, drop_path=0.5), plain)
    np.testing.assert_allclose(apply(variables, x, train=True, drop_path=0.0, rngs=rngs), plain, atol=1e-6)
