"""Completion of images: what is hidden is not looked at, what is known stays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_packs import random_variables
from PIL import Image
from run_command import run_command

import vistok.experiments.loading
from vistok.errors import UserError
from vistok.experiments import registry
from vistok.experiments.config_files import load_config
from vistok.experiments.inpainting import find_run
from vistok.generators import inpainting
from vistok.generators.generator import SampleConfig
from vistok.generators.trained import TrainedGenerator
from vistok.tokenizers.trained import TrainedTokenizer

SIDE = 16
FEW = SampleConfig(steps=2)


@pytest.fixture(scope='module')
def config():
    config = load_config('configs/vq_ddm.py:tiny')
    config.data.update(source='embedded:digits', image_size=SIDE)
    config.model.denoiser = 'transformer'  # compiles faster than the U-Net
    config.tokens = {
        'codebook_sizes': (32,), 'downsample_factor': 2, 'codebook_names': ('code',), 'grains': (1,), 'grid': (8, 8),
        'num_classes': 10, 'class_names': tuple('0123456789'),
    }  # fmt: skip
    return config


@pytest.fixture(scope='module')
def model(config):
    module = registry.build_tokenizer(load_config('configs/vqgan.py:digits,tiny').model)
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, SIDE, SIDE, 3)))
    tokenizer = TrainedTokenizer(module, random_variables(shapes))
    assert tokenizer.spec == registry.build_token_spec(config.tokens)
    generator = registry.build_generator(config.model, config.tokens)
    return TrainedGenerator(generator, jax.jit(generator.init)(jax.random.key(0)), tokenizer=tokenizer)


@pytest.fixture(scope='module')
def images():
    return np.random.default_rng(0).uniform(-1, 1, (3, SIDE, SIDE, 3)).astype(np.float32)


def complete(model, images, hidden, numbers=(0, 1, 2), **options):
    return inpainting.inpaint_images(
        model.generator,
        model.variables,
        model.tokenizer,
        images,
        hidden,
        np.full(3, 10),
        np.asarray(numbers),
        FEW,
        **options,
    )


def test_hidden_pixels_have_no_influence_and_known_tokens_stay(model, images, monkeypatch):
    hidden = inpainting.mask_region('right', SIDE)
    made = complete(model, images, hidden)
    assert made.shape == images.shape
    changed = np.where(hidden[..., None], -images, images)
    np.testing.assert_array_equal(complete(model, changed, hidden), made)
    seen = []
    decode = TrainedTokenizer.decode
    monkeypatch.setattr(TrainedTokenizer, 'decode', lambda self, tokens: (seen.append(tokens), decode(self, tokens))[1])
    complete(model, images, hidden)
    complete(model, images, hidden, numbers=(3, 4, 5))
    own = model.tokenizer.encode(inpainting.cover_hidden(images, hidden)).ids
    for tokens in seen:
        np.testing.assert_array_equal(tokens.ids[:, :, :4], own[:, :, :4])
    assert (seen[0].ids[:, :, 4:] != seen[1].ids[:, :, 4:]).any()


def test_pasted_pixels_are_those_of_the_image(model, images):
    hidden = inpainting.mask_region('centre', SIDE)
    made = complete(model, images, hidden, paste=True)
    np.testing.assert_array_equal(made[:, ~hidden], images[:, ~hidden])
    assert (made[:, hidden] != images[:, hidden]).any()


def test_a_cell_is_known_if_none_of_its_pixels_is_hidden():
    hidden = np.zeros((8, 8), bool)
    hidden[3, 4] = True
    known = inpainting.find_known_cells(hidden, (4, 4))
    assert not known[1, 2]
    assert known.sum() == 15
    assert inpainting.find_known_cells(hidden, (4, 4), margin=1).sum() == 16 - 9


@pytest.mark.parametrize(('name', 'share'), [('left', 0.5), ('lower', 0.5), ('centre', 0.25), ('border', 0.75)])
def test_regions_hide_their_share(name, share):
    assert inpainting.mask_region(name, SIDE).mean() == share


def test_hidden_pixels_repeat_their_nearest_neighbours(images):
    seen = inpainting.cover_hidden(images, inpainting.mask_region('lower', SIDE))
    np.testing.assert_array_equal(seen[:, 8:], np.repeat(images[:, 7:8], 8, axis=1))
    assert not inpainting.cover_hidden(images, np.ones((SIDE, SIDE), bool)).any()


def test_white_in_a_mask_is_hidden_at_any_size(tmp_path):
    image = np.zeros((4, 4), np.uint8)
    image[1, 2] = 255
    Image.fromarray(image).save(tmp_path / 'mask.png')
    hidden = inpainting.read_mask(tmp_path / 'mask.png', 8)
    assert hidden[2:4, 4:6].all()
    assert hidden.sum() == 4
    (tmp_path / 'text.png').write_text('white')
    with pytest.raises(UserError, match='cannot be read as a mask'):
        inpainting.read_mask(tmp_path / 'text.png', 8)


def test_the_command_writes_a_sheet_and_single_images(config, model, tmp_path, monkeypatch, capsys):
    (tmp_path / 'config.json').write_text(config.to_json())
    monkeypatch.setattr(vistok.experiments.loading, 'load', lambda path, which, tokenizer=None: model)
    few = [f'--model={tmp_path}', '--images=3', '--completions=2', '--steps=2']
    out = [f'--out={tmp_path}/sheet.png', f'--out={tmp_path}/single/']
    assert run_command('inpaint', *few, *out, '--region=upper') == 0
    assert len(list((tmp_path / 'single').iterdir())) == 6
    with Image.open(tmp_path / 'sheet.png') as sheet:
        assert sheet.size[0] > 4 * 64
    assert run_command('inpaint', *few, *out, '--region=middle') == 1
    assert 'known: left' in capsys.readouterr().err
    assert run_command('inpaint', *few) == 1
    assert 'where to write' in capsys.readouterr().err


def test_what_cannot_be_completed_is_refused(model, images):
    with pytest.raises(UserError, match=r'images of \(16, 16\) pixels'):
        complete(model, images[:, :8], np.zeros((8, 16), bool))
    with pytest.raises(UserError, match='only a VQ-DDM with its tokenizer'):
        complete(TrainedGenerator(model.generator, {}), images, inpainting.mask_region('left', SIDE))


def test_images_beside_a_run_are_not_taken_for_the_run(tmp_path):
    (tmp_path / 'config.json').write_text('{}')
    (tmp_path / 'images').mkdir()
    assert find_run(tmp_path / 'images') is None
    assert find_run(tmp_path) == find_run(tmp_path / 'checkpoints' / '4') == tmp_path
