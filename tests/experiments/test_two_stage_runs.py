"""Runs of generators that draw two kinds of ids: trained for two steps, loaded, sampled, decoded."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_packs import random_variables
from PIL import Image

import vistok
from vistok.experiments import registry, training
from vistok.experiments.config_files import load_config
from vistok.experiments.saved_models import save_model
from vistok.generators.autoregressive.codeword_clusters import (
    cluster_codewords,
    codeword_vectors,
    read_clusters,
    write_clusters,
)
from vistok.tokenizers.trained import TrainedTokenizer

TOKENIZERS = {'ctf': 'vqgan', 'dq_transformer': 'dq_vae'}


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    """A folder of 16 training and 4 validation images, half of each smooth."""
    folder = tmp_path_factory.mktemp('pictures')
    rng = np.random.default_rng(0)
    for split, count in (('train', 8), ('validation', 2)):
        for label in ('left', 'right'):
            (folder / split / label).mkdir(parents=True)
            for i in range(count):
                pixels = np.full((16, 16, 3), 40 * i % 256, np.uint8)
                half = slice(0, 8) if label == 'left' else slice(8, 16)
                pixels[:, half] = rng.integers(0, 256, (16, 8, 3))
                Image.fromarray(pixels).save(folder / split / label / f'{i}.png')
    return folder


@pytest.mark.parametrize('name', TOKENIZERS)
def test_a_run_can_be_trained_loaded_and_sampled(name, images, tmp_path):
    module = registry.build_tokenizer(load_config(f'configs/{TOKENIZERS[name]}.py:tiny').model)
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3))))
    tokenizer = TrainedTokenizer(module, random_variables(shapes))
    save_model(tokenizer, tmp_path / 'tokenizer.safetensors')
    config = load_config(f'configs/{name}.py:tiny')
    config.tokenizer, config.data.source = str(tmp_path / 'tokenizer.safetensors'), str(images)
    config.data.image_size = 16
    config.optimizer.schedule = 'constant'
    config.train.devices = 1
    config.evaluate.update(batch_size=4, per_class=0)
    clusters = None
    if name == 'ctf':
        clusters = cluster_codewords(codeword_vectors(tokenizer), config.model.clusters, balanced=True, restarts=1)
        config.clusters.file = str(tmp_path / 'clusters.safetensors')
        write_clusters(tmp_path / 'clusters.safetensors', clusters, tokenizer)
    result = training.run_training(config, tmp_path / 'run', show_progress=False)
    assert np.isfinite(result.evaluation['bits_per_token'])

    model = vistok.load(tmp_path / 'run')
    tokens = model.sample_tokens([0, 1], seed=0, config=registry.build_sample_config(config.sample))
    assert tokens.ids.shape == (2, *model.generator.grid, 1)
    assert model.tokenizer.decode(tokens).shape == (2, 16, 16, 3)
    if clusters is not None:
        np.testing.assert_array_equal(model.variables['frozen']['cluster_of'], clusters.cluster_of)
        assert read_clusters(tmp_path / 'clusters.safetensors').about['tokenizer'] == tokenizer.fingerprint
    else:
        assert set(np.unique(tokens.grain)) <= {1, 2}
