"""The objective of generators: which tokens are learned, what stays as it is, and whose loss an evaluation reports."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toy_generator import Table

from vistok.generators.evaluation import evaluate_generator
from vistok.generators.objective import GeneratorObjective
from vistok.tokenizers.tokenizer import Tokenizer, TokenizerOutput, Tokens, TokenSpec
from vistok.tokenizers.trained import TrainedTokenizer
from vistok.training.parallel import make_runner
from vistok.training.step import TrainStep

SPEC = TokenSpec((4,), 2)
GENERATOR = Table(SPEC, grid=(2, 2), num_classes=3, condition_dropout=0.0)


class Brightness(Tokenizer):
    """An id is the brightness of a cell, in quarters, shifted by a frozen variable."""

    @property
    def spec(self):
        return SPEC

    def __call__(self, images, *, train=False):
        return TokenizerOutput(images, self.encode(images), losses={})

    def encode(self, images):
        cells = images.reshape(len(images), 2, 2, 2, 2, 3).mean((2, 4, 5))
        return Tokens(((cells + self.get_variable('params', 'shift')) * 2).astype(jnp.int32)[..., None])

    def embed(self, tokens):
        raise NotImplementedError

    def decode_latents(self, latents):
        raise NotImplementedError


def batch(count=8):
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 4, (count, 2, 2, 1)).astype(np.int32)
    images = np.repeat(np.repeat((ids / 2 - 0.75).astype(np.float32), 2, 1), 2, 2) * np.ones(3, np.float32)
    return {'image': images, 'label': rng.integers(0, 3, count).astype(np.int32)}, ids


def steps(objective, batch, runner, count=3):
    step = TrainStep(objective, {'generator': optax.sgd(0.5)})
    state = runner.init(step, 0, batch)
    frozen, placed = runner.put_frozen(objective.frozen), runner.put_batch(batch)
    state = runner.enter(state)
    compiled, _ = runner.compile(step, state, frozen, placed)
    for _ in range(count):
        state, report = compiled(state, frozen, placed)
    return runner.leave(state), report


def test_images_are_learned_as_the_tokens_that_the_frozen_tokenizer_makes_of_them():
    images, ids = batch()
    tokenizer = TrainedTokenizer(Brightness(), {'params': {'shift': jnp.asarray(1.0)}})
    np.testing.assert_array_equal(tokenizer.encode(images['image']).ids, ids)
    runner = make_runner('jit', devices=1)
    from_images, report = steps(GeneratorObjective(GENERATOR, tokenizer), images, runner)
    extracted = {'ids': ids, 'label': images['label']}
    from_tokens, _ = steps(GeneratorObjective(GENERATOR), extracted, runner)
    np.testing.assert_array_equal(from_images.params['generator']['table'], from_tokens.params['generator']['table'])
    assert float(from_images.model_state['generator']['frozen']['scale']) == 1
    assert report.metrics['loss/generator'] < np.log(4)


@pytest.mark.parametrize('kind', ['jit', 'pmap'])
def test_devices_learn_together_what_one_learns(kind):
    images, ids = batch(16)
    extracted = {'ids': ids, 'label': images['label']}
    one, _ = steps(GeneratorObjective(GENERATOR), extracted, make_runner('jit', devices=1))
    many, _ = steps(GeneratorObjective(GENERATOR), extracted, make_runner(kind, devices=8))
    np.testing.assert_allclose(many.params['generator']['table'], one.params['generator']['table'], atol=1e-6)


def test_images_without_a_tokenizer_are_refused():
    images, _ = batch()
    with pytest.raises(ValueError, match='need a tokenizer'):
        GeneratorObjective(GENERATOR).tokens(None, images)


@pytest.mark.parametrize('size', [3, 10])
def test_an_evaluation_counts_every_image_once_whatever_the_batches(size):
    objective = GeneratorObjective(GENERATOR)
    variables = GENERATOR.init(jax.random.key(1))
    images, ids = batch(10)
    labels = images['label']
    whole = GENERATOR.loss(variables, Tokens(jnp.asarray(ids)), jnp.asarray(labels), jax.random.key(0), train=False)

    def batches():
        for start in range(0, 10, size):
            rows = np.arange(start, start + size)
            inside = np.minimum(rows, 9)
            yield {'ids': ids[inside], 'label': labels[inside], 'mask': rows < 10}

    seen = []

    @jax.jit
    def losses(batch):
        return objective.losses_by_image(variables, None, batch, jax.random.key(0))

    def told(batch):
        seen.append(batch['index'])
        return losses(batch)

    found = evaluate_generator(told, batches())
    assert found['images'] == 10
    np.testing.assert_allclose(found['loss'], whole.loss, rtol=1e-5)
    np.testing.assert_allclose(found['bits_per_token'], whole.metrics['bits_per_token'], rtol=1e-5)
    np.testing.assert_array_equal(np.concatenate(seen)[:10], np.arange(10))


def test_an_evaluation_without_images_is_refused():
    with pytest.raises(ValueError, match='no images'):
        evaluate_generator(lambda batch: {}, [])


def test_a_fingerprint_changes_with_the_values_and_with_nothing_else():
    make = lambda value: TrainedTokenizer(Brightness(), {'params': {'shift': jnp.asarray(value)}})  # noqa: E731
    assert make(1.0).fingerprint == make(1.0).fingerprint != make(2.0).fingerprint
    assert len(make(1.0).fingerprint) == 64
