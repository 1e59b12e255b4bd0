"""ADDP's run: it begins with a trained tokenizer and a trained predictor in it, and never changes them."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_packs import random_variables
from PIL import Image

import vistok
from vistok.errors import UserError
from vistok.experiments import official_models, registry, training
from vistok.experiments.config_files import load_config
from vistok.experiments.saved_models import save_model
from vistok.generators.generator import SampleConfig
from vistok.generators.masked.mage import MAGE
from vistok.tokenizers.tokenizer import TokenSpec
from vistok.tokenizers.trained import TrainedTokenizer
from vistok.tokenizers.vqgan import VQGAN
from vistok.weights.files import write_state_dict

pytestmark = pytest.mark.slow  # two runs before the first test


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Images of two classes, a tokenizer, and a run of MAGE over its tokens."""
    folder = tmp_path_factory.mktemp('addp')
    rng = np.random.default_rng(0)
    for split, count in (('train', 8), ('validation', 2)):
        for label in ('dark', 'light'):
            (folder / 'pictures' / split / label).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 128, (8, 8, 3), np.uint8) + (128 if label == 'light' else 0)
                Image.fromarray(pixels.astype(np.uint8)).save(folder / 'pictures' / split / label / f'{i}.png')
    module = registry.build_tokenizer(load_config('configs/vqgan.py:tiny').model)
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3))))
    save_model(TrainedTokenizer(module, random_variables(shapes)), folder / 'tokenizer.safetensors')
    training.run_training(config_of(folder, 'mage'), folder / 'mage', show_progress=False)
    return folder


def config_of(folder, name):
    config = load_config(f'configs/{name}.py:tiny')
    config.tokenizer, config.data.source = str(folder / 'tokenizer.safetensors'), str(folder / 'pictures')
    config.data.update(image_size=8, augmentation='random_resized_crop')
    config.train.devices = 1
    config.evaluate.update(batch_size=4, per_class=0)
    if name == 'addp':
        config.predictor = str(folder / 'mage')
    return config


def assert_same(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.fixture(scope='module')
def trained(folder):
    """What a run of ADDP ends with; its folder is `folder / 'addp'`."""
    return training.run_training(config_of(folder, 'addp'), folder / 'addp', show_progress=False)


def test_a_run_keeps_its_frozen_parts_and_can_be_loaded_and_sampled(folder, trained):
    assert np.isfinite(trained.evaluation['hidden_bits'])
    model = vistok.load(folder / 'addp')
    predictor, tokenizer = vistok.load(folder / 'mage'), vistok.load(folder / 'tokenizer.safetensors')
    assert_same(model.variables['predictor'], predictor.variables['params'])
    assert_same(model.variables['tokenizer'], tokenizer.variables)
    assert model.generator.predictor == predictor.generator
    tokens = model.sample_tokens([0, 1], seed=0, config=SampleConfig(guidance_scale=1.5))
    assert tokens.ids.shape == (2, *model.generator.grid, 1)
    assert model.tokenizer.decode(tokens).shape == (2, 8, 8, 3)


def test_a_predictor_that_is_none_or_of_other_tokens_is_refused_in_a_sentence(folder, tmp_path):
    config = config_of(folder, 'addp')
    config.predictor = str(folder / 'nothing')
    with pytest.raises(UserError, match='which is no run folder and no file of weights; make one'):
        training.run_training(config, tmp_path / 'a', show_progress=False)
    config.predictor = str(folder / 'mage')
    config.data.image_size = 16
    with pytest.raises(UserError, match='predicts other tokens than these: its grid is'):
        training.run_training(config, tmp_path / 'b', show_progress=False)
    assert not any(tmp_path.iterdir())


RECIPES = {
    '': {},
    'finetune,': {'optimizer.learning_rate': 1e-3},
    'finetune, as published': {
        'optimizer.learning_rate': 1e-3,
        'optimizer.layer_decay': 0.65,
        'optimizer.decayed': 'kernels',
        'optimizer.clip_norm': 0.0,
        'model.drop_path': 0.1,
        'data.augmentation': 'random_resized_crop',
        'data.rand_augment': 9.0,
        'data.erasing': 0.5,
        'data.mixing.mixup': 0.8,
        'data.mixing.cutmix': 1.0,
    },
    'as published': {'optimizer.method': 'lars', 'optimizer.clip_norm': 0.0, 'model.batch_norm': True},
}


@pytest.mark.parametrize('recipe', RECIPES)
def test_a_classifier_begins_with_the_trained_encoder_which_only_fine_tuning_changes(folder, trained, recipe):
    tuned = recipe.startswith('finetune,')
    config = load_config(f'configs/addp_probe.py:{"finetune," if tuned else ""}tiny')
    config.encoder, config.data.source = str(folder / 'addp'), str(folder / 'pictures')
    config.data.image_size, config.train.devices = 8, 1
    config.update_from_flattened_dict(RECIPES[recipe])
    run = folder / f'probe{list(RECIPES).index(recipe)}'
    result = training.run_training(config, run, show_progress=False)
    assert 0 <= result.evaluation['accuracy'] <= 1
    model = vistok.load(run)
    assert model(jnp.zeros((3, 8, 8, 3))).shape == (3, 2)
    encoder = vistok.load(folder / 'addp').variables['params']['encoder']
    if tuned:
        moved = jax.tree.map(lambda a, b: float(abs(a - b).max()), model.variables['params']['encoder'], encoder)
        assert 0 < max(jax.tree.leaves(moved)) < 0.01  # in two steps
    else:
        assert set(model.variables['params']) == ({'classes'} if config.model.batch_norm else {'norm', 'classes'})
        assert_same(model.variables['frozen']['trained_encoder'], encoder)
    config.train.steps = 3  # goes on
    assert training.run_training(config, run, show_progress=False).state.step == 3


def test_an_encoder_that_is_none_or_sees_other_images_is_refused_in_a_sentence(folder, trained, tmp_path):
    config = load_config('configs/addp_probe.py:tiny')
    config.data.source, config.data.image_size = str(folder / 'pictures'), 16
    config.train.devices = 1
    for encoder, answer in (
        ('nothing', 'which is no run folder'),
        ('mage', 'holds a model named mage; config.encoder is one of addp'),
        ('addp', 'sees 8x8 pixels'),
    ):
        config.encoder = str(folder / encoder)
        with pytest.raises(UserError, match=re.escape(answer)):
            training.run_training(config, tmp_path / 'run', show_progress=False)
    assert not any(tmp_path.iterdir())


def test_a_run_starts_from_a_released_predictor_without_classes(folder, tmp_path):
    sizes = {'width': 64, 'encoder_layers': 1, 'encoder_heads': 1, 'decoder_layers': 1, 'decoder_heads': 1}
    tokens = {'spec': TokenSpec((1024,), 16), 'grid': (16, 16), 'num_classes': 0}
    mage = MAGE(**tokens, **sizes, codes_only=False, label_rows=1000, null_row=76)
    weights = random_variables(jax.eval_shape(mage.init, jax.random.key(0)))
    write_state_dict(tmp_path / 'mage.safetensors', official_models.export_variables('mage', weights))
    module = VQGAN(
        channels=8, channel_multipliers=(1, 1), res_blocks=1, latent_channels=8, codebook_size=1024, codebook_dim=4
    )
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3))))
    save_model(TrainedTokenizer(module, random_variables(shapes)), tmp_path / 'tokenizer.safetensors')
    config = config_of(folder, 'addp')
    config.tokenizer, config.predictor = str(tmp_path / 'tokenizer.safetensors'), str(tmp_path / 'mage.safetensors')
    config.data.image_size = 32
    config.train.steps = 1
    training.run_training(config, tmp_path / 'run', show_progress=False)
    model = vistok.load(tmp_path / 'run')
    assert model.generator.predictor == dataclasses.replace(mage, spec=model.generator.spec)
    assert_same(model.variables['predictor'], weights['params'])
    vistok.save(model, tmp_path / 'addp.safetensors')
    assert vistok.load(tmp_path / 'addp.safetensors').generator == model.generator
    config.train.steps = 2  # goes on without the file
    (tmp_path / 'mage.safetensors').unlink()
    assert training.run_training(config, tmp_path / 'run', show_progress=False).state.step == 2
