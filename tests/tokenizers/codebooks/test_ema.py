"""A codebook of moving averages: it becomes the means of what is assigned to it, and never more than that."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vistok.collectives import name_replica_axis
from vistok.tokenizers.codebooks.ema import EMACodebook
from vistok.tokenizers.quantizers.vector import VectorQuantizer

CENTRES = np.asarray([[4.0, 0, 0], [0, 4, 0], [0, 0, 4], [-4, 0, 0]], np.float32)


def blobs(count, seed=0):
    rng = np.random.default_rng(seed)
    return (CENTRES[np.arange(count) % 4] + 0.1 * rng.standard_normal((count, 3))).astype(np.float32)


def trained(quantizer, steps=60, **options):
    z = jnp.asarray(blobs(64)).reshape(1, 8, 8, 3)
    variables = quantizer.init(jax.random.key(0), z, train=True)

    @jax.jit
    def step(variables, key):
        _, changed = quantizer.apply(
            variables, z, train=True, mutable='codebook_stats', rngs={'sampling': key}, **options
        )
        return {**variables, **changed}

    for i in range(steps):
        variables = step(variables, jax.random.key(i))
    return z, variables


def test_codewords_become_the_means_of_their_vectors():
    quantizer = VectorQuantizer(EMACodebook(4, 3, decay=0.8, restart=True, parent=None))
    z, variables = trained(quantizer)
    out = quantizer.apply(variables, z)
    codewords = np.asarray(variables['codebook_stats']['codebook']['codewords'])
    for i in np.unique(out.ids):
        np.testing.assert_allclose(codewords[i], np.asarray(z)[np.asarray(out.ids) == i].mean(0), atol=1e-3)
    assert np.abs(out.z_q - z).max() < 1
    assert 'params' not in variables


def test_unused_codewords_are_restarted_and_otherwise_left_behind():
    used = {}
    for restart in (False, True):
        quantizer = VectorQuantizer(EMACodebook(32, 3, restart=restart, parent=None))
        z, variables = trained(quantizer, steps=8)
        used[restart] = len(np.unique(quantizer.apply(variables, z).ids))
    assert used[True] > 3 * used[False]


def test_a_batch_smaller_than_the_codebook_still_restarts_all_of_it():
    codebook = EMACodebook(50, 3, restart=True)
    variables = codebook.init(jax.random.key(0))
    vectors = jnp.asarray(blobs(8))
    _, changed = codebook.apply(
        variables, vectors, jnp.zeros(8, jnp.int32), method='update', mutable='codebook_stats',
        rngs={'sampling': jax.random.key(1)},
    )  # fmt: skip
    rows = np.asarray(changed['codebook_stats']['codewords'])
    assert len(np.unique(rows, axis=0)) == 50
    assert np.abs(rows[:, None] - np.asarray(vectors)).max(-1).min(-1).max() < 0.01


def test_nothing_moves_outside_training_while_initializing_or_where_it_may_not():
    quantizer = VectorQuantizer(EMACodebook(4, 3, parent=None))
    z = jnp.asarray(blobs(16)).reshape(1, 4, 4, 3)
    variables = quantizer.init(jax.random.key(0), z, train=True)
    stats = variables['codebook_stats']['codebook']
    assert np.abs(stats['codewords']).max() <= 1 / 4
    np.testing.assert_array_equal(stats['counts'], np.ones(4))
    quantizer.apply(variables, z, train=True)
    _, changed = quantizer.apply(variables, z, mutable='codebook_stats')
    jax.tree.map(np.testing.assert_array_equal, changed['codebook_stats'], variables['codebook_stats'])


def test_weights_scale_each_positions_losses():
    quantizer = VectorQuantizer(EMACodebook(4, 3, parent=None))
    z = jnp.asarray(blobs(16)).reshape(1, 4, 4, 3)
    variables = quantizer.init(jax.random.key(0), z)
    plain = quantizer.apply(variables, z).losses
    for weights, factor in ((jnp.full((1, 4, 4, 1), 0.25), 0.25), (jnp.ones((1, 4, 4, 1)), 1.0)):
        weighted = quantizer.apply(variables, z, weights=weights).losses
        for name in plain:
            np.testing.assert_allclose(weighted[name], factor * plain[name], rtol=1e-5)
    half = quantizer.apply(variables, z, weights=jnp.zeros((1, 4, 4, 1)).at[:, :2].set(1.0)).losses['commitment']
    alone = quantizer.apply(variables, z[:, :2]).losses['commitment']
    np.testing.assert_allclose(half, alone / 2, rtol=1e-5)


@pytest.mark.parametrize('restart', [False, True])
def test_replicas_agree_with_one_device_on_the_whole_batch(restart):
    codebook = EMACodebook(4, 3, restart=restart)
    variables = codebook.init(jax.random.key(0))
    vectors, ids = jnp.asarray(blobs(800)), jnp.asarray(np.arange(800) % 4)

    def update(vectors, ids):
        options = {'method': 'update', 'mutable': 'codebook_stats', 'rngs': {'sampling': jax.random.key(1)}}
        return codebook.apply(variables, vectors, ids, **options)[1]['codebook_stats']

    whole = jax.jit(update)(vectors, ids)
    with name_replica_axis('batch'):
        parts = jax.pmap(update, axis_name='batch')(vectors[:800].reshape(2, 400, 3), ids.reshape(2, 400))
    for name, value in whole.items():
        np.testing.assert_allclose(parts[name][0], parts[name][1])
        np.testing.assert_allclose(parts[name][0], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('size', [4, 50])  # fewer and more codewords than vectors
def test_restarts_are_the_same_vectors_on_replicas_and_on_one_device(size):
    codebook = EMACodebook(size, 3, restart=True)
    variables = codebook.init(jax.random.key(0))
    vectors = jnp.asarray(blobs(16))

    def update(vectors):
        options = {'method': 'update', 'mutable': 'codebook_stats', 'rngs': {'sampling': jax.random.key(1)}}
        ids = jnp.zeros(len(vectors), jnp.int32)
        return codebook.apply(variables, vectors, ids, **options)[1]['codebook_stats']

    whole = jax.jit(update)(vectors)
    with name_replica_axis('batch'):
        parts = jax.pmap(update, axis_name='batch')(vectors.reshape(4, 4, 3))
    for part in parts['codewords']:
        np.testing.assert_allclose(part, whole['codewords'], rtol=1e-5, atol=1e-6)
