"""A refitted codebook: the tokenizer's own vectors, clustered."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_packs import random_variables

from vistok.experiments import registry
from vistok.experiments.config_files import load_config
from vistok.tokenizers.refit import refit_codebook, sample_latents
from vistok.tokenizers.trained import TrainedTokenizer


@pytest.fixture(scope='module')
def tokenizer():
    module = registry.build_tokenizer(load_config('configs/vqgan.py:digits,tiny').model)
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
    return TrainedTokenizer(module, random_variables(shapes))


@pytest.fixture(scope='module')
def images():
    return np.random.default_rng(0).uniform(-1, 1, (4, 64, 16, 16, 3)).astype(np.float32)


def test_refitting_puts_codewords_where_vectors_are(tokenizer, images):
    vectors = sample_latents(tokenizer, images, 200)
    assert vectors.shape == (200, tokenizer.module.codebook_dim)
    new = refit_codebook(tokenizer, vectors, 24)
    assert new.spec.codebook_sizes == (24,)
    unseen = jnp.asarray(images[3][::2])
    assert len(np.unique(new.encode(unseen).ids)) > 20

    def distance(model):  # of the unit vectors to their codewords
        z = model.module.apply(model.variables, unseen, method='latents')
        z = z / np.linalg.norm(z, axis=-1, keepdims=True)
        return float(np.mean((z - model.embed(model.encode(unseen))) ** 2))

    assert distance(new) < 0.5 * distance(tokenizer)
    jax.tree.map(np.testing.assert_array_equal, new.variables['params']['encoder'],
                 tokenizer.variables['params']['encoder'])  # fmt: skip


def test_vectors_are_one_of_each_image(tokenizer, images):
    one = sample_latents(tokenizer, images[:1], 64)
    z = np.asarray(tokenizer.module.apply(tokenizer.variables, jnp.asarray(images[0]), method='latents')).reshape(
        64, 64, -1
    )
    distance = np.abs(z - one[:, None]).max(axis=-1).min(axis=1)
    assert distance.max() < 1e-5


def test_what_cannot_be_refitted_is_refused(tokenizer, images):
    vectors = np.zeros((3, 8), np.float32)
    with pytest.raises(ValueError, match='4 codewords need'):
        refit_codebook(tokenizer, vectors, 4)
    with pytest.raises(ValueError, match='no images'):
        sample_latents(tokenizer, [], 4)
    module = registry.build_tokenizer(load_config('configs/fqgan.py:tiny').model)
    with pytest.raises(ValueError, match='no plain form'):
        refit_codebook(TrainedTokenizer(module, {}), vectors, 2)
