"""Codebooks that follow the vectors are updated by every quantizer, in training only and alike on any devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vistok.collectives import name_replica_axis
from vistok.tokenizers.codebooks.codebook import LearnedCodebook, unit_norm
from vistok.tokenizers.codebooks.ema import EMACodebook
from vistok.tokenizers.quantizers.factorized import FactorizedQuantizer
from vistok.tokenizers.quantizers.multiscale import MultiScaleQuantizer, _area, _bicubic
from vistok.tokenizers.quantizers.residual import ResidualQuantizer
from vistok.tokenizers.quantizers.vector import VectorQuantizer

SIZE, DIM, DECAY, EPSILON = 6, 3, 0.9, 1e-5
SCALES = (1, 2, 4)
CODEBOOKS = {
    'plain': lambda: LearnedCodebook(SIZE, DIM, parent=None),
    'ema': lambda: EMACodebook(SIZE, DIM, DECAY, EPSILON, parent=None),
}
QUANTIZERS = {
    'vector': lambda codebook: VectorQuantizer(codebook()),
    'vector of unit norm': lambda codebook: VectorQuantizer(codebook(), normalize=True),
    'factorized': lambda codebook: FactorizedQuantizer(
        (VectorQuantizer(codebook()), VectorQuantizer(codebook())), ('vis', 'sem')
    ),
    'residual': lambda codebook: ResidualQuantizer(codebook(), depth=3),
    'multiscale': lambda codebook: MultiScaleQuantizer(codebook(), DIM, SCALES),
}
Z = np.random.default_rng(0).standard_normal((8, 4, 4, DIM)).astype(np.float32)


def vectors(kind):
    z = jnp.asarray(Z)
    return {'vis': z, 'sem': 2 * z[:, ::-1]} if kind == 'factorized' else z


@functools.cache
def made(kind, codebook):
    """A quantizer, its variables with codewords that lie among the vectors, and a training step of it."""
    module = QUANTIZERS[kind](CODEBOOKS[codebook])
    rng = np.random.default_rng(1)

    def spread(path, value):
        name = path[-1].key
        if name in ('kernel', 'bias'):  # of the convolutions of a multi-scale quantizer: the identity
            return jnp.zeros_like(value).at[1, 1].set(jnp.eye(DIM)) if name == 'kernel' else jnp.zeros_like(value)
        return value if name == 'counts' else jnp.asarray(rng.standard_normal(value.shape), jnp.float32)

    variables = jax.tree_util.tree_map_with_path(spread, module.init(jax.random.key(0), vectors(kind)))
    for codebook_stats in variables.get('codebook_stats', {}).values():
        for stats in codebook_stats.values() if kind == 'factorized' else [codebook_stats]:
            stats['sums'] = stats['codewords']

    def step(variables, z):
        out, changed = module.apply(variables, z, train=True, mutable=list(variables))
        return out.ids, changed

    return module, variables, step


def assignments(kind, ids, rows):
    """The vectors that were compared with the codewords `rows`, and which of these was nearest, in NumPy."""
    if kind == 'vector of unit norm':
        return np.asarray(unit_norm(jnp.asarray(Z))), ids
    residual, pairs = Z, []
    for i in range(ids.shape[-1] if kind in ('residual', 'multiscale') else 0):
        if kind == 'residual':
            pairs.append((residual, ids[..., i]))
            residual = residual - rows[ids[..., i]]
        else:
            area, enlarge = _area(4, SCALES[i]), _bicubic(SCALES[i], 4)
            coarse = ids[:, :: 4 // SCALES[i], :: 4 // SCALES[i], i]
            pairs.append((np.einsum('pi,qj,bijd->bpqd', area, area, residual), coarse))
            residual = residual - np.einsum('ip,jq,bpqd->bijd', enlarge, enlarge, rows[coarse])
    if pairs:
        return tuple(np.concatenate([x.reshape(-1, *x.shape[3:]) for x in part]) for part in zip(*pairs, strict=True))
    return Z, ids


def expected_codewords(vectors, ids, rows):
    one_hot = np.eye(SIZE)[ids.reshape(-1)]
    counts = DECAY + (1 - DECAY) * one_hot.sum(0)
    sums = DECAY * rows + (1 - DECAY) * one_hot.T @ vectors.reshape(-1, DIM)
    total = counts.sum()
    return sums / (total * (counts + EPSILON) / (total + SIZE * EPSILON))[:, None]


@pytest.mark.parametrize('kind', QUANTIZERS)
def test_codewords_move_to_the_means_of_the_vectors_assigned_to_them(kind):
    _, variables, step = made(kind, 'ema')
    ids, changed = jax.jit(step)(variables, vectors(kind))
    before, after = variables['codebook_stats'], changed['codebook_stats']
    if kind != 'factorized':
        before, after, ids = {'': before}, {'': after}, np.asarray(ids)[..., None]
    for i, name in enumerate(('vis', 'sem') if kind == 'factorized' else ('',)):
        rows = np.asarray(before[name]['codebook']['codewords'])
        z, chosen = assignments(kind, np.asarray(ids)[..., i], rows)
        z = np.asarray(vectors(kind)[name]) if name else z
        codewords = after[name]['codebook']['codewords']
        np.testing.assert_allclose(codewords, expected_codewords(z, chosen, rows), rtol=1e-5, atol=1e-6)
        assert np.abs(codewords - rows)[np.unique(chosen)].max(1).min() > 1e-3


@pytest.mark.parametrize('kind', QUANTIZERS)
def test_codebooks_learned_by_gradient_are_left_alone(kind):
    _, variables, step = made(kind, 'plain')
    _, changed = jax.jit(step)(variables, vectors(kind))
    jax.tree.map(np.testing.assert_array_equal, changed, variables)


@pytest.mark.parametrize('codebook', CODEBOOKS)
@pytest.mark.parametrize('kind', QUANTIZERS)
def test_nothing_moves_in_evaluation(kind, codebook):
    module, variables, _ = made(kind, codebook)
    _, changed = module.apply(variables, vectors(kind), mutable=list(variables))
    jax.tree.map(np.testing.assert_array_equal, changed, variables)


@pytest.mark.parametrize('kind', QUANTIZERS)
def test_eight_devices_agree_with_one_under_jit_and_pmap(kind):
    _, variables, step = made(kind, 'ema')
    ids, one = jax.jit(step)(variables, vectors(kind))
    across = NamedSharding(Mesh(np.asarray(jax.devices()), ('data',)), PartitionSpec('data'))
    sharded_ids, sharded = jax.jit(step)(variables, jax.device_put(vectors(kind), across))
    with name_replica_axis('batch'):
        parts = jax.tree.map(lambda x: x.reshape(8, 1, *x.shape[1:]), vectors(kind))
        replica_ids, replicas = jax.pmap(step, axis_name='batch', in_axes=(None, 0))(variables, parts)
    np.testing.assert_array_equal(sharded_ids, ids)
    np.testing.assert_array_equal(replica_ids.reshape(ids.shape), ids)

    def agree(one, sharded, replicas):
        np.testing.assert_allclose(sharded, one, rtol=1e-5, atol=1e-6)
        for replica in replicas:
            np.testing.assert_allclose(replica, one, rtol=1e-5, atol=1e-6)

    jax.tree.map(agree, one, sharded, replicas)
