"""Vector and factorized quantizers: values, straight-through gradients, and who is pulled by which loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vistok.tokenizers.codebooks.codebook import LearnedCodebook, unit_norm
from vistok.tokenizers.quantizers.factorized import FactorizedQuantizer, disentangle_loss
from vistok.tokenizers.quantizers.vector import VectorQuantizer

Z = jax.random.normal(jax.random.key(1), (2, 4, 3, 8))


def with_codewords(rows):
    return {'params': {'codebook': {'codewords': jnp.asarray(rows)}}}


CODEWORDS = jax.random.normal(jax.random.key(2), (50, 8))


def quantizer(**kwargs) -> VectorQuantizer:
    return VectorQuantizer(LearnedCodebook(50, 8), **kwargs)


@pytest.mark.parametrize('normalize', [False, True])
def test_z_q_is_the_nearest_codeword_and_what_embed_returns(normalize):
    q = quantizer(normalize=normalize)
    out = q.apply(with_codewords(CODEWORDS), Z)
    rows, z = (unit_norm(CODEWORDS), unit_norm(Z)) if normalize else (CODEWORDS, Z)
    d = ((np.asarray(z)[..., None, :] - np.asarray(rows)) ** 2).sum(-1)
    np.testing.assert_array_equal(out.ids, d.argmin(-1))
    np.testing.assert_array_equal(out.z_q, np.asarray(rows)[d.argmin(-1)])
    np.testing.assert_array_equal(out.z_q, q.apply(with_codewords(CODEWORDS), out.ids, method='embed'))


def test_straight_through_gradient_is_the_identity():
    weights = jax.random.normal(jax.random.key(3), Z.shape)
    q = quantizer()

    def loss(z, variables):
        return jnp.sum(weights * q.apply(variables, z).z_q)

    dz, dparams = jax.grad(loss, argnums=(0, 1))(Z, with_codewords(CODEWORDS))
    np.testing.assert_array_equal(dz, weights)
    assert not np.any(dparams['params']['codebook']['codewords'])


def test_straight_through_gradient_passes_the_normalization_of_z():
    weights = jax.random.normal(jax.random.key(3), Z.shape)
    q = quantizer(normalize=True)
    dz = jax.grad(lambda z: jnp.sum(weights * q.apply(with_codewords(CODEWORDS), z).z_q))(Z)
    np.testing.assert_allclose(dz, jax.grad(lambda z: jnp.sum(weights * unit_norm(z)))(Z), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('normalize', [False, True])
def test_each_loss_pulls_only_its_own_side(normalize):
    q = quantizer(normalize=normalize, codebook_weight=0.5, commitment_weight=2.0)

    def naive(z, rows, term):
        if normalize:
            z, rows = unit_norm(z), unit_norm(rows)
        chosen = rows[jnp.argmin(((z[..., None, :] - rows) ** 2).sum(-1), axis=-1)]
        if term == 'codebook':
            return 0.5 * jnp.mean((chosen - jax.lax.stop_gradient(z)) ** 2)
        return 2 * jnp.mean((jax.lax.stop_gradient(chosen) - z) ** 2)

    for term, moved in (('codebook', 1), ('commitment', 0)):
        ours = jax.value_and_grad(lambda z, c, t=term: q.apply(with_codewords(c), z).losses[t], argnums=(0, 1))
        value, grads = jax.jit(ours)(Z, CODEWORDS)
        theirs = jax.value_and_grad(lambda z, c, t=term: naive(z, c, t), argnums=(0, 1))
        expected, expected_grads = jax.jit(theirs)(Z, CODEWORDS)
        np.testing.assert_allclose(value, expected, rtol=1e-6)
        np.testing.assert_allclose(grads[moved], expected_grads[moved], rtol=1e-5, atol=1e-7)
        assert not np.any(grads[1 - moved])


def test_entropy_is_computed_in_training_only():
    q = quantizer(entropy_weight=0.1)
    assert set(q.apply(with_codewords(CODEWORDS), Z).losses) == {'codebook', 'commitment'}
    assert set(q.apply(with_codewords(CODEWORDS), Z, train=True).losses) == {'codebook', 'commitment', 'entropy'}
    assert 'entropy' not in quantizer().apply(with_codewords(CODEWORDS), Z, train=True).losses


def test_low_precision_input_is_quantized_in_float32():
    z = Z.astype(jnp.bfloat16)
    out = quantizer(normalize=True).apply(with_codewords(CODEWORDS), z)
    exact = quantizer(normalize=True).apply(with_codewords(CODEWORDS), z.astype(jnp.float32))
    assert out.z_q.dtype == jnp.float32
    for a, b in zip(jax.tree.leaves(out), jax.tree.leaves(exact), strict=True):
        np.testing.assert_array_equal(a, b)


def test_normalization_is_finite_and_bounded_at_zero():
    value, gradient = jax.value_and_grad(lambda x: unit_norm(x).sum())(jnp.zeros(4))
    assert value == 0
    np.testing.assert_allclose(gradient, 1e12, rtol=1e-5)
    np.testing.assert_allclose(jnp.linalg.norm(unit_norm(Z), axis=-1), 1, rtol=1e-6)


def test_fresh_codewords_are_small_or_unit():
    rows = LearnedCodebook(100, 8).init(jax.random.key(0))['params']['codewords']
    assert rows.shape == (100, 8)
    assert 0.009 < np.abs(rows).max() <= 0.01
    assert np.min(rows) < -0.009
    unit = LearnedCodebook(100, 8, normalized_init=True).init(jax.random.key(0))['params']['codewords']
    np.testing.assert_allclose(np.linalg.norm(unit, axis=-1), 1, rtol=1e-6)


def test_wrong_width_is_named():
    with pytest.raises(ValueError, match='z has 7 channels, the codewords have 8'):
        quantizer().apply(with_codewords(CODEWORDS), Z[..., :7])


def factorized(names=('vis', 'sem')) -> FactorizedQuantizer:
    sizes = (50, 20, 30)
    return FactorizedQuantizer(
        tuple(VectorQuantizer(LearnedCodebook(size, 8), normalize=True) for size in sizes[: len(names)]), names
    )


@pytest.mark.parametrize('names', [('vis', 'sem'), ('vis', 'sem_mid', 'sem_high')])
def test_factors_are_quantized_independently_in_order(names):
    q = factorized(names)
    z = {name: jax.random.normal(jax.random.key(i), (2, 4, 3, 8)) for i, name in enumerate(reversed(names))}
    variables = q.init(jax.random.key(0), z)
    assert set(variables['params']) == set(names)
    out = q.apply(variables, z)
    assert out.ids.shape == (2, 4, 3, len(names))
    assert set(out.losses) == {f'{term}/{name}' for term in ('codebook', 'commitment') for name in names}
    parts = q.apply(variables, out.z_q, method='split')
    for i, (name, size) in enumerate(zip(names, (50, 20, 30), strict=False)):
        single = VectorQuantizer(LearnedCodebook(size, 8), normalize=True)
        expected = single.apply({'params': variables['params'][name]}, z[name])
        np.testing.assert_array_equal(out.ids[..., i], expected.ids)
        np.testing.assert_array_equal(out.z_q[..., 8 * i : 8 * i + 8], expected.z_q)
        np.testing.assert_array_equal(parts[name], expected.z_q)
        np.testing.assert_array_equal(out.losses[f'commitment/{name}'], expected.losses['commitment'])
    np.testing.assert_array_equal(q.apply(variables, out.ids, method='embed'), out.z_q)


def test_factor_codebooks_differ():
    q = FactorizedQuantizer(tuple(VectorQuantizer(LearnedCodebook(20, 8)) for _ in range(2)), ('vis', 'sem'))
    params = q.init(jax.random.key(0), {'vis': Z, 'sem': Z})['params']
    assert not np.array_equal(params['vis']['codebook']['codewords'], params['sem']['codebook']['codewords'])


def test_misnamed_factors_are_refused():
    with pytest.raises(ValueError, match=r"each of \('vis', 'sem'\), got \('vis', 'text'\)"):
        factorized().init(jax.random.key(0), {'vis': Z, 'text': Z})
    with pytest.raises(ValueError, match='need 2 different names'):
        factorized(('vis', 'vis')).init(jax.random.key(0), {'vis': Z})


def test_disentangle_loss_is_the_mean_squared_cosine_of_all_pairs():
    a, b, c = (jax.random.normal(jax.random.key(i), (2, 4, 3, 8)) for i in range(3))

    def cosine(x, y):
        return (x * y).sum(-1) / np.linalg.norm(x, axis=-1) / np.linalg.norm(y, axis=-1)

    expected = np.mean([np.mean(cosine(*pair) ** 2) for pair in ((a, b), (a, c), (b, c))])
    np.testing.assert_allclose(disentangle_loss([a, b, c]), expected, rtol=1e-5)
    np.testing.assert_allclose(disentangle_loss([a, -3 * a]), 1, rtol=1e-5)
    zeros = jnp.zeros_like(a)
    assert np.isfinite(jax.grad(lambda x: disentangle_loss([x, zeros]))(zeros)).all()


def test_disentangle_loss_moves_the_encoder_and_not_the_codebooks():
    q = factorized()
    z = {'vis': Z, 'sem': Z[::-1]}
    variables = q.init(jax.random.key(0), z)

    def loss(variables, z):
        parts = q.apply(variables, q.apply(variables, z).z_q, method='split')
        return disentangle_loss(list(parts.values()))

    dparams, dz = jax.grad(loss, argnums=(0, 1))(variables, z)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(dparams))
    assert all(np.any(leaf) for leaf in jax.tree.leaves(dz))
