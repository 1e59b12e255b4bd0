"""Evaluation writes valid JSON and the sheet that was asked for."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from run_command import run_command

import vistok
import vistok.experiments.loading
from vistok.errors import UserError
from vistok.experiments.config_files import load_config
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


EXACT = TrainedTokenizer(Exact(), {})


@pytest.fixture
def white(tmp_path):
    """A folder of white images."""
    (tmp_path / 'white').mkdir()
    for i in range(4):
        Image.new('RGB', (16, 16), 'white').save(tmp_path / 'white' / f'{i}.png')
    return tmp_path / 'white'


def evaluate(white, model=EXACT, image_size=16, **options):
    return vistok.evaluate(model, white, split='train', image_size=image_size, **options)


def read(path):
    def refuse(constant):
        raise AssertionError(f'{constant} is no JSON')

    return json.loads(path.read_text(), parse_constant=refuse)


def test_an_exact_reconstruction_makes_valid_json(white, tmp_path):
    report = evaluate(white, images=2, out=tmp_path / 'out')
    found = read(tmp_path / 'out' / 'evaluation.json')
    assert found['psnr'] == 'Infinity'
    assert found['ssim'] == pytest.approx(1)
    assert found['image_size'] == 16
    assert 'evaluation.png' in str(report)
    assert 'psnr                     inf' in str(report)
    assert (tmp_path / 'out' / 'evaluation.png').is_file()


def test_without_images_there_is_no_sheet(white, tmp_path):
    report = evaluate(white, images=0, out=tmp_path / 'out')
    assert [path.name for path in (tmp_path / 'out').iterdir()] == ['evaluation.json']
    assert 'evaluation.png' not in str(report)


def test_arrays_are_evaluated_and_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images = np.random.default_rng(0).uniform(-1, 1, (3, 16, 24, 3)).astype(np.float32)
    report = vistok.evaluate(EXACT, images, image_size=16)
    assert report.metrics['images'] == 3
    assert report.sheet.dtype == np.uint8
    assert not list(tmp_path.iterdir())


def test_a_run_is_measured_at_the_size_it_was_evaluated_at(white, tmp_path, monkeypatch):
    monkeypatch.setattr(vistok.experiments.loading, 'load', lambda path, which: EXACT)
    config = load_config('configs/fqgan.py:tiny')
    for size, expected in ((24, 24), (0, 16)):
        config.evaluate.image_size = size
        (tmp_path / 'config.json').write_text(config.to_json())
        evaluate(white, tmp_path, image_size=None, images=0)
        assert read(tmp_path / 'evaluation.json')['image_size'] == expected


def test_a_tokenizer_is_measured_by_the_distance_of_its_reconstructions(white, tmp_path):
    evaluate(white, images=0, protocol='stand_in', out=tmp_path / 'out')
    found = read(tmp_path / 'out' / 'evaluation.json')
    assert found['stand_in_frechet'] == pytest.approx(0, abs=1e-6)
    assert found['distribution']['count'] == 3  # the fourth is held out
    assert 'rfid' not in found


def test_samples_are_measured_against_real_images(tmp_path, capsys):
    pixels = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
    said = json.dumps({'top_p': 1.0, 'generator': '0123456789abcdef'})
    np.savez(tmp_path / 's.npz', arr_0=pixels, labels=np.arange(12) % 4, settings=said)
    given = [f'--samples={tmp_path}/s.npz', '--reference=embedded:digits', '--reference_split=validation']
    assert run_command('evaluate', *given, '--settings=seed=3,top_p=0.9') == 0
    found = read(tmp_path / 'evaluation.json')
    report = found['distribution']
    assert found['stand_in_frechet'] > 0.1
    assert report['settings'] == {'top_p': 0.9, 'generator': '0123456789abcdef', 'seed': 3}  # the command's word counts
    assert report['class_policy'] == '3 of each of 4 classes'
    assert report['reference'].startswith('embedded:digits')
    assert 'not FID' in capsys.readouterr().out
    reference = tmp_path / 'digits.npz'
    digits = ['--source=embedded:digits', '--split=validation', '--image_size=32', f'--out={reference}']
    assert run_command('reference_statistics', *digits) == 0
    again = vistok.evaluate_samples(pixels, reference)
    assert again.metrics['stand_in_frechet'] == pytest.approx(found['stand_in_frechet'], rel=1e-5)
    with pytest.raises(UserError, match='different count do not compare: 11 and 12'):
        vistok.evaluate_samples(pixels[:11], reference, against=tmp_path / 'evaluation.json')


def test_either_a_model_or_samples_are_evaluated(capsys):
    assert run_command('evaluate', '--samples=s.npz', '--model=somewhere') == 1
    assert 'either --model=' in capsys.readouterr().err
    assert run_command('evaluate', '--samples=s.npz') == 1
    assert '--reference' in capsys.readouterr().err
