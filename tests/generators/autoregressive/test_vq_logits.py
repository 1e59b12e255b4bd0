"""A head whose ids share vectors is a softmax over all ids, without their logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from autoregressive_cases import ONE, SIZES
from golden_packs import random_variables

from vistok.generators.autoregressive.llamagen import LlamaGen
from vistok.generators.autoregressive.vq_logits import OutputVectors, assign_vectors_randomly, vector_cross_entropy
from vistok.generators.cross_entropy import CrossEntropy
from vistok.generators.generator import SampleConfig
from vistok.generators.trained import TrainedGenerator
from vistok.tokenizers.tokenizer import Tokens

RNG = np.random.default_rng(0)
HIDDEN = jnp.asarray(RNG.standard_normal((2, 6, 4)), jnp.float32)
KERNEL = jnp.asarray(RNG.standard_normal((4, 5)), jnp.float32)
BIAS = jnp.asarray(2 * RNG.standard_normal(11), jnp.float32)
VECTOR_OF = jnp.asarray([0, 4, 4, 1, 2, 3, 3, 3, 0, 2, 4])
TARGETS = jnp.asarray(RNG.integers(0, 11, (2, 6)))
WEIGHTS = jnp.asarray(RNG.standard_normal((2, 6)), jnp.float32)


def dense(hidden, kernel, bias):
    variables = {'params': {'head': {'kernel': kernel}, 'bias': bias}, 'frozen': {'vector_of': VECTOR_OF}}
    log_probabilities = jax.nn.log_softmax(OutputVectors(11, 5, jnp.float32).apply(variables, hidden))
    nll = -jnp.take_along_axis(log_probabilities, TARGETS[..., None], axis=-1)[..., 0]
    return CrossEntropy(nll, -log_probabilities.mean(axis=-1))


@pytest.mark.parametrize('most_logits', [2 * 5 * 2, 10**6])
def test_values_and_gradients_are_those_of_all_logits(most_logits):
    def weighted(function):
        def total(*arguments):
            found = function(*arguments)
            return (WEIGHTS * found.nll).sum() + 0.3 * (WEIGHTS**2 * found.uniform).sum(), found

        return jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2), has_aux=True))(HIDDEN, KERNEL, BIAS)

    sparse = weighted(lambda h, w, b: vector_cross_entropy(h, w, b, VECTOR_OF, TARGETS, most_logits=most_logits))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), sparse, weighted(dense))


def test_probabilities_of_all_ids_add_up_to_one():
    hidden = jnp.repeat(HIDDEN.reshape(12, 1, 4), 11, axis=1)
    every = jnp.broadcast_to(jnp.arange(11), (12, 11))
    found = jax.jit(vector_cross_entropy)(hidden, KERNEL, BIAS, VECTOR_OF, every)
    np.testing.assert_allclose(np.exp(-found.nll).sum(1), 1, rtol=1e-5)


def test_a_large_vocabulary_needs_no_logits_of_all_ids():
    ids, vectors, tokens, width = 2**18, 2**10, 512, 32

    def gradient(hidden, kernel, bias, vector_of, targets):
        loss = lambda *x: vector_cross_entropy(*x, vector_of, targets).nll.mean()  # noqa: E731
        return jax.grad(loss, argnums=(0, 1, 2))(hidden, kernel, bias)

    shapes = [((2, tokens // 2, width), 'f'), ((width, vectors), 'f'), ((ids,), 'f'), ((ids,), 'i'), ((2, 256), 'i')]
    arguments = [jax.ShapeDtypeStruct(shape, f'{kind}4') for shape, kind in shapes]
    memory = jax.jit(gradient).lower(*arguments).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 0.05 * (4 * tokens * ids)


def test_every_vector_has_its_share_of_the_ids():
    shares = np.bincount(assign_vectors_randomly(1000, 7), minlength=7)
    assert shares.min() == 142
    assert shares.max() == 143
    np.testing.assert_array_equal(assign_vectors_randomly(1000, 7), assign_vectors_randomly(1000, 7))


def test_llamagen_learns_and_draws_with_shared_vectors():
    generator = LlamaGen(ONE, **SIZES, output_vectors=4)
    shapes = jax.eval_shape(generator.init, jax.random.key(0))
    assert shapes['params']['output_0']['head']['kernel'].shape == (16, 4)
    variables = random_variables(shapes) | {
        'frozen': {'output_0': {'vector_of': jnp.asarray(assign_vectors_randomly(17, 4))}}
    }
    ids, labels = jnp.asarray(RNG.integers(0, 17, (3, 6, 1)), jnp.int32), jnp.arange(3)
    model = TrainedGenerator(generator, variables)
    logits = jax.jit(lambda v: generator.network.apply(v, ids, labels, method='logits'))(variables)[0]
    nll = -np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), np.asarray(ids), axis=-1)
    np.testing.assert_allclose(model.loss(Tokens(ids.reshape(3, 2, 3, 1)), labels).loss, nll.mean(), rtol=1e-5)
    drawn = np.asarray(model.sample_tokens(labels, config=SampleConfig(temperature=0.0)).ids)
    np.testing.assert_array_equal(drawn[:, 0, 0, 0], logits[:, 0].argmax(-1))
    with pytest.raises(ValueError, match='17 ids cannot have 18 output vectors'):
        LlamaGen(ONE, **SIZES, output_vectors=18)
