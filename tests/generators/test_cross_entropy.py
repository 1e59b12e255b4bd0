"""The cross-entropy that never holds all logits is the plain one, and so are its gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vistok.generators.cross_entropy import CrossEntropy, cross_entropy

RNG = np.random.default_rng(0)
HIDDEN = jnp.asarray(RNG.standard_normal((2, 6, 4)), jnp.float32)
KERNEL = jnp.asarray(RNG.standard_normal((4, 11)), jnp.float32)
TARGETS = jnp.asarray(RNG.integers(0, 11, (2, 6)))
WEIGHTS = jnp.asarray(RNG.standard_normal((2, 6)), jnp.float32)


def plain(hidden, kernel):
    log_probabilities = jax.nn.log_softmax(hidden @ kernel)
    nll = -jnp.take_along_axis(log_probabilities, TARGETS[..., None], axis=-1)[..., 0]
    return CrossEntropy(nll, -log_probabilities.mean(axis=-1))


@pytest.mark.parametrize('most_logits', [1, 2 * 11 * 2, 10**6])
def test_values_and_gradients_are_the_plain_ones(most_logits):
    def weighted(function):
        def total(hidden, kernel):
            found = function(hidden, kernel)
            return (WEIGHTS * found.nll).sum() + 0.3 * (WEIGHTS**2 * found.uniform).sum(), found

        return jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))(HIDDEN, KERNEL)

    found = weighted(lambda h, w: cross_entropy(h, w, TARGETS, most_logits=most_logits))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, weighted(plain))


def test_no_array_is_larger_than_the_part():
    def gradient(hidden, kernel):
        return jax.grad(lambda h, w: cross_entropy(h, w, TARGETS, most_logits=2 * 11).nll.sum(), argnums=(0, 1))(
            hidden, kernel
        )

    text = str(jax.make_jaxpr(gradient)(HIDDEN, KERNEL))
    assert 'f32[2,1,11]' in text
    assert 'f32[2,6,11]' not in text
    assert 'f32[6,2,1,11]' not in text


def test_logits_are_float32_whatever_the_type_of_the_product():
    found = cross_entropy(HIDDEN.astype(jnp.bfloat16), KERNEL, TARGETS)
    assert found.nll.dtype == jnp.float32
    np.testing.assert_allclose(found.nll, plain(HIDDEN, KERNEL).nll, atol=0.1)
