"""The evaluation command writes valid JSON and the sheet that was asked for."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from PIL import Image

import vistok.experiments.loading
from vistok.errors import UserError
from vistok.experiments.config_files import load_config
from vistok.launch import evaluate
from vistok.tokenizers.tokenizer import Tokenizer, TokenizerOutput, Tokens, TokenSpec
from vistok.tokenizers.trained import TrainedTokenizer


class Exact(Tokenizer):
    """Gives every image back as it was."""

    @property
    def spec(self):
        return TokenSpec((2,), 8)

    def __call__(self, images, *, train=False):
        return TokenizerOutput(images, self.encode(images), losses={})

    def encode(self, images):
        return Tokens(jnp.zeros((len(images), images.shape[1] // 8, images.shape[2] // 8, 1), jnp.int32))

    def embed(self, tokens):
        raise NotImplementedError

    def decode_latents(self, latents):
        raise NotImplementedError


@pytest.fixture
def evaluated(tmp_path, monkeypatch):
    """Runs the command on white images; gives its folder."""
    (tmp_path / 'white').mkdir()
    for i in range(4):
        Image.new('RGB', (16, 16), 'white').save(tmp_path / 'white' / f'{i}.png')
    monkeypatch.setattr(vistok.experiments.loading, 'load', lambda path, which: TrainedTokenizer(Exact(), {}))

    def run(images, image_size=16):
        if not flags.FLAGS.is_parsed():
            flags.FLAGS(['evaluate'])
        settings = {
            'run': str(tmp_path), 'source': str(tmp_path / 'white'), 'split': 'train', 'image_size': image_size,
            'pictures': images, 'out': str(tmp_path / 'out'),
        }  # fmt: skip
        with flagsaver.flagsaver(**settings):
            evaluate.main()
        return tmp_path / 'out'

    return run


def refuse(constant):
    raise AssertionError(f'{constant} is no JSON')


def test_an_exact_reconstruction_makes_valid_json(evaluated, capsys):
    text = (evaluated(images=2) / 'evaluation.json').read_text()
    found = json.loads(text, parse_constant=refuse)
    assert found['psnr'] == 'Infinity'
    assert found['ssim'] == pytest.approx(1)
    assert found['image_size'] == 16
    assert 'evaluation.png' in capsys.readouterr().out


def test_without_images_there_is_no_sheet(evaluated, capsys):
    out = evaluated(images=0)
    assert [path.name for path in out.iterdir()] == ['evaluation.json']
    assert 'evaluation.png' not in capsys.readouterr().out


def test_a_run_is_measured_at_the_size_it_was_evaluated_at(evaluated, tmp_path):
    config = load_config('configs/fqgan.py:tiny')
    for size, expected in ((24, 24), (0, 16)):
        config.evaluate.image_size = size
        (tmp_path / 'config.json').write_text(config.to_json())
        found = json.loads((evaluated(images=0, image_size=None) / 'evaluation.json').read_text())
        assert found['image_size'] == expected


def test_a_tokenizer_is_measured_by_the_distance_of_its_reconstructions(evaluated):
    with flagsaver.flagsaver(protocol='stand_in'):
        found = json.loads((evaluated(images=0) / 'evaluation.json').read_text())
    assert found['stand_in_frechet'] == pytest.approx(0, abs=1e-6)
    assert found['distribution']['count'] == 3  # the fourth is held out
    assert 'rfid' not in found


def run_on_samples(tmp_path, **settings):
    if not flags.FLAGS.is_parsed():
        flags.FLAGS(['evaluate'])
    with flagsaver.flagsaver(samples=str(tmp_path / 's.npz'), out=str(tmp_path / 'out'), **settings):
        evaluate.main()
    return json.loads((tmp_path / 'out' / 'evaluation.json').read_text(), parse_constant=refuse)


def test_samples_are_measured_against_real_images(tmp_path, capsys):
    pixels = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
    said = json.dumps({'top_p': 1.0, 'generator': '0123456789abcdef'})
    np.savez(tmp_path / 's.npz', arr_0=pixels, labels=np.arange(12) % 4, settings=said)
    settings = {'reference': 'embedded:digits', 'reference_split': 'validation'}
    found = run_on_samples(tmp_path, settings=['seed=3', 'top_p=0.9'], **settings)
    report = found['distribution']
    assert found['stand_in_frechet'] > 0.1
    assert report['settings'] == {'top_p': 0.9, 'generator': '0123456789abcdef', 'seed': 3}  # the command's word counts
    assert report['class_policy'] == '3 of each of 4 classes'
    assert report['reference'].startswith('embedded:digits')
    assert 'not FID' in capsys.readouterr().out
    np.savez(tmp_path / 's.npz', arr_0=pixels[:11])
    (tmp_path / 'earlier.json').write_text((tmp_path / 'out' / 'evaluation.json').read_text())
    with pytest.raises(UserError, match='different count do not compare: 11 and 12'):
        run_on_samples(tmp_path, against=str(tmp_path / 'earlier.json'), **settings)


def test_either_a_run_or_samples_are_evaluated(tmp_path):
    with pytest.raises(UserError, match='--run'):
        run_on_samples(tmp_path, run='somewhere')
    with pytest.raises(UserError, match='--reference'):
        run_on_samples(tmp_path)
