"""Quantizers without codebook: every id has one vector, every vector near it gets it, and entropies are exact."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vistok.tokenizers.codebooks.codebook import unit_norm
from vistok.tokenizers.quantizers.scalar import BinarySphericalQuantizer, FiniteScalarQuantizer, LookupFreeQuantizer

Z = 2 * jax.random.normal(jax.random.key(0), (2, 3, 5, 4))
QUANTIZERS = {
    'fsq': (FiniteScalarQuantizer((8, 5, 4, 3)), (480,)),
    'lfq': (LookupFreeQuantizer(4), (16,)),
    'lfq in groups': (LookupFreeQuantizer(4, groups=2), (4, 4)),
    'bsq': (BinarySphericalQuantizer(4), (16,)),
}


def all_ids(sizes):
    ids = np.asarray(list(itertools.product(*map(range, sizes))), np.int32)
    return jnp.asarray(ids if len(sizes) > 1 or sizes == (16,) else ids[:, 0])[None, None]


@pytest.mark.parametrize('kind', QUANTIZERS)
def test_ids_alone_give_the_quantized_vectors(kind):
    module, sizes = QUANTIZERS[kind]
    out = module.apply({}, Z)
    assert out.ids.dtype == jnp.int32
    assert out.ids.min() >= 0
    assert out.ids.max() < max(sizes)
    np.testing.assert_array_equal(module.apply({}, out.ids, method='embed'), out.z_q)


@pytest.mark.parametrize('kind', QUANTIZERS)
def test_every_id_has_a_vector_of_its_own_that_is_given_it_back(kind):
    module, sizes = QUANTIZERS[kind]
    ids = all_ids(sizes)
    vectors = module.apply({}, ids, method='embed')
    assert len(np.unique(np.asarray(vectors).reshape(-1, 4), axis=0)) == ids.shape[2]
    # FSQ's vectors are what its bound makes of a latent: undo the bound first.
    latents = vectors
    if kind == 'fsq':
        levels = np.array([8, 5, 4, 3])
        half, offset = (levels - 1) * 1.001 / 2, np.where(levels % 2 == 0, 0.5, 0)
        latents = jnp.arctanh((vectors * (levels // 2) + offset) / half) - np.arctanh(offset / half)
    np.testing.assert_array_equal(module.apply({}, latents).ids, ids)


def test_fsq_rounds_to_as_many_values_as_there_are_levels():
    z = jnp.stack([jnp.linspace(-9, 9, 2001)] * 4, axis=-1)[None, None]
    z_q = np.asarray(FiniteScalarQuantizer((8, 5, 4, 3)).apply({}, z).z_q)[0, 0]
    assert [len(np.unique(z_q[:, i])) for i in range(4)] == [8, 5, 4, 3]
    assert (np.diff(z_q, axis=0) >= 0).all()
    assert np.abs(z_q).max() == 1
    np.testing.assert_array_equal(FiniteScalarQuantizer((8, 5)).apply({}, jnp.zeros((1, 1, 1, 2))).z_q, 0)


def test_fsq_passes_the_gradient_of_its_bound_and_has_no_losses():
    module = FiniteScalarQuantizer((5, 5, 5, 5))
    gradient = jax.grad(lambda z: jnp.sum(module.apply({}, z).z_q))(Z)
    np.testing.assert_allclose(gradient, (1 - jnp.tanh(Z) ** 2) * 1.001, rtol=1e-5, atol=1e-6)
    assert module.apply({}, Z, train=True).losses == {}


def test_signs_are_the_nearest_of_all_codewords():
    for kind in ('lfq', 'bsq'):
        module, sizes = QUANTIZERS[kind]
        codewords = np.asarray(module.apply({}, all_ids(sizes), method='embed')).reshape(16, 4)
        z = np.asarray(unit_norm(Z) if kind == 'bsq' else Z)
        nearest = ((z[..., None, :] - codewords) ** 2).sum(-1).argmin(-1)
        np.testing.assert_array_equal(module.apply({}, Z).ids[..., 0], nearest)
        np.testing.assert_allclose((codewords**2).sum(-1), 1 if kind == 'bsq' else 4, rtol=1e-6)


def test_signs_pass_the_gradient_straight_through():
    weights = jax.random.normal(jax.random.key(3), Z.shape)
    gradient = jax.grad(lambda z: jnp.sum(weights * LookupFreeQuantizer(4).apply({}, z).z_q))(Z)
    np.testing.assert_array_equal(gradient, weights)
    sphere = jax.grad(lambda z: jnp.sum(weights * BinarySphericalQuantizer(4).apply({}, z).z_q))(Z)
    np.testing.assert_allclose(sphere, jax.grad(lambda z: jnp.sum(weights * unit_norm(z)))(Z), rtol=1e-5, atol=1e-6)


def joint_entropy_loss(z, codewords, temperature):
    z, codewords = np.asarray(z, np.float64), np.asarray(codewords, np.float64)
    logits = -((z[:, None] - codewords) ** 2).sum(-1) / temperature
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)

    def entropy(p):
        return -(p * np.log(np.maximum(p, 1e-300))).sum(-1)

    return entropy(p).mean() - entropy(p.mean(0))


def test_entropy_of_signs_is_that_of_all_codewords():
    module = LookupFreeQuantizer(4, entropy_weight=0.5)
    codewords = np.asarray(list(itertools.product((-1, 1), repeat=4)))
    expected = 0.5 * joint_entropy_loss(Z.reshape(-1, 4), codewords, 1.0)
    np.testing.assert_allclose(module.apply({}, Z, train=True).losses['entropy'], expected, rtol=1e-3)
    assert set(module.apply({}, Z).losses) == {'commitment'}


def test_entropy_on_the_sphere_is_exact_for_each_bit():
    module = BinarySphericalQuantizer(4, entropy_weight=1.0, entropy_temperature=0.3)
    z = np.asarray(unit_norm(Z)).reshape(-1, 4)
    expected = sum(joint_entropy_loss(z[:, i : i + 1], [[-0.5], [0.5]], 0.3) for i in range(4))
    np.testing.assert_allclose(module.apply({}, Z, train=True).losses['entropy'], expected, rtol=1e-4)
    assert set(module.apply({}, Z, train=True).losses) == {'entropy'}


def test_gradients_are_finite_where_bits_are_certain():
    module = BinarySphericalQuantizer(4, entropy_temperature=1e-3)
    gradient = jax.grad(lambda z: module.apply({}, z, train=True).losses['entropy'])(100 * Z)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize(
    ('module', 'message'),
    [
        (FiniteScalarQuantizer((8, 5)), 'z has 4 channels, there are 2 levels'),
        (FiniteScalarQuantizer((8, 1, 3, 3)), 'at least 2 levels'),
        (FiniteScalarQuantizer((2**8, 2**8, 2**8, 2**8)), r'more than 2\^30'),
        (LookupFreeQuantizer(6), 'z has 4 channels, there are 6 bits'),
        (LookupFreeQuantizer(4, groups=3), '4 bits cannot be cut into 3 ids'),
        (LookupFreeQuantizer(62, groups=2), 'at most 30'),
    ],
)
def test_sizes_that_do_not_fit_are_refused(module, message):
    with pytest.raises(ValueError, match=message):
        module.apply({}, Z, train=True)


def test_an_entropy_over_too_many_codewords_is_refused():
    with pytest.raises(ValueError, match='24 bits are more than 20; take more groups'):
        LookupFreeQuantizer(24).apply({}, jnp.zeros((1, 1, 1, 24)), train=True)
