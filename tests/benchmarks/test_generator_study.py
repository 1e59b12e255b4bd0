"""The study of generators: its bounds, its counts, and what of it is done again."""

import argparse
import csv
import importlib
import json
import math
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from vistok.data.tokens.dataset import TokenRecord
from vistok.generators.autoregressive.ctf import CTF
from vistok.generators.autoregressive.dq_transformer import DQTransformer
from vistok.generators.autoregressive.llamagen import LlamaGen
from vistok.generators.diffusion.vq_ddm import VQDDM
from vistok.generators.generator import SampleConfig
from vistok.generators.masked.maskgit import MaskGIT
from vistok.tokenizers.tokenizer import TokenSpec

FOLDER = Path(__file__).resolve().parents[2] / 'benchmarks'
SPEC = TokenSpec((8,), 8)


@pytest.fixture
def load(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module


def records(count=6):
    rng = np.random.default_rng(0)
    return [TokenRecord(rng.integers(0, 8, (2, 2, 3, 1), np.int32), None, i % 3, str(i)) for i in range(count)]


def model(logits):
    return SimpleNamespace(generator=SimpleNamespace(logits=logits), variables={})


def test_the_bound_of_even_chances_is_the_size_of_the_codebook(load):
    even = model(lambda variables, guess, labels, scale: jnp.zeros((*guess.ids.shape, 8)))
    assert load('generator_measures').any_order_bits(even, records()) == pytest.approx(3)


def test_the_bound_counts_hidden_tokens_only(load):
    """Who is sure and right where tokens are hidden pays nothing, whatever is said of those that are known."""

    def knows_the_hidden(variables, guess, labels, scale):
        right = 100.0 * (guess.ids[..., None] == jnp.arange(8))
        return jnp.where(guess.hidden[..., None], right, -right)

    assert load('generator_measures').any_order_bits(model(knows_the_hidden), records()) == pytest.approx(0, abs=1e-6)


def test_the_bound_weighs_every_count_of_hidden_tokens_alike(load):
    """A token that costs as many bits as tokens are hidden: 1, 2, ... 6 of 6, with a mean of 3.5."""

    def worse_the_more_are_hidden(variables, guess, labels, scale):
        odds = jnp.exp2(guess.hidden.sum(axis=-1, dtype=jnp.float32)) - 1  # of all others together
        true = guess.ids[..., None] == jnp.arange(8)
        return jnp.where(true, 0.0, jnp.log(odds / 7)[:, None, None])

    found = load('generator_measures').any_order_bits(model(worse_the_more_are_hidden), records())
    assert found == pytest.approx(3.5, rel=1e-5)


def test_only_whole_grids_of_training_tokens_count_as_copied(load):
    source = records()
    ids = np.stack([source[0].ids[1], source[3].ids[0], source[2].ids[0]]).astype(np.int64)
    ids[2, 0, 0, 0] += 8
    assert load('generator_measures').share_copied(ids, source) == pytest.approx(2 / 3)


def test_network_calls_of_each_kind_of_method(load):
    calls = load('generator_measures').network_calls
    plain, grid = SampleConfig(), (4, 4)
    assert calls(LlamaGen(SPEC, grid, 3), plain, None) == 16
    assert calls(CTF(SPEC, grid, 3, clusters=2), plain, None) == 17
    assert calls(MaskGIT(SPEC, grid, 3), plain, None) == 8
    assert calls(MaskGIT(SPEC, grid, 3), SampleConfig(steps=5), None) == 5
    assert calls(VQDDM(SPEC, grid, 3, timesteps=100), plain, None) == 100
    grain = np.full((2, 4, 4), 2)  # four coarse codes, and of one image four fine ones in place of the last
    grain[1, 2:, 2:] = 1
    coarse_and_fine = DQTransformer(TokenSpec((8,), 8, grains=(1, 2)), grid, 3)
    assert calls(coarse_and_fine, plain, grain) == pytest.approx((4 + 7) / 2 + 2)


def arguments(tmp_path, **changes):
    values = {'data': 'A', 'grains': 'B', 'factors': None, 'full': False, 'as_configured': False}
    return argparse.Namespace(**{**values, 'steps': 8, 'batch_size': 4, 'runs': tmp_path, **changes})


def test_all_methods_get_the_same_budget(load, tmp_path):
    study = load('generator_study')
    for name, method in study.METHODS.items():
        words = study.command(name, tmp_path / name, arguments(tmp_path, factors='C'))
        tokens = {'data': 'A', 'grains': 'B', 'factors': 'C'}[method.tokens]
        for word in (f'--config.data.source=tokens:{tokens}', '--config.train.steps=8', '--config.train.batch_size=4'):
            assert word in words
    for variants, size in (('imagenet256,masks,transformer', 'full'), ('masks,transformer', 'as_configured')):
        words = study.command('VQ-DDM, masks', tmp_path, arguments(tmp_path, **{size: True}))
        assert any(word.endswith(f'vq_ddm.py:{variants}') for word in words)
        assert not any('train.steps' in word or 'model.' in word for word in words)


def test_a_cell_that_has_ended_is_not_run_again(load, tmp_path, monkeypatch):
    study = load('generator_study')
    started = []
    monkeypatch.setattr(study.subprocess, 'run', lambda command, **options: started.append(command))
    folder = study.train('MAGE', arguments(tmp_path))
    assert len(started) == 1
    (folder / 'config.json').write_text(json.dumps({'train': {'steps': 8}}))
    (folder / 'checkpoints' / '8').mkdir(parents=True)
    (folder / 'metrics.jsonl').write_text('{"step": 8, "loss": 1.0}\n')
    study.train('MAGE', arguments(tmp_path))  # saved, and not yet evaluated
    assert len(started) == 2
    (folder / 'metrics.jsonl').write_text('{"step": 8, "loss": 1.0}\n{"step": 8, "evaluation/images": 3}\n')
    study.train('MAGE', arguments(tmp_path))
    assert len(started) == 2


def test_the_table_says_what_is_a_bound_and_leaves_out_what_there_is_not(load, tmp_path, monkeypatch):
    study = load('generator_study')
    monkeypatch.setattr(study, 'plot', lambda *_: None)
    measured = {'distance': 0.5, 'distance_error': 0.01, 'precision': 0.9, 'recall': 0.8, 'samples': 500}
    rows = [study.Row('real', **measured)]
    rows += [study.Row('A', bits=3.456, bits_are='<=', accuracy=0.98, **measured)]
    study.write(rows, tmp_path, 'stand-in distance')
    lines = (tmp_path / 'generator_study.md').read_text().splitlines()
    assert len({line.count('|') for line in lines}) == 1
    assert '| ≤ 3.46 | 98.0 % | 0.500 ± 0.010 | 0.90, 0.80 |' in lines[-1]
    assert lines[2].startswith('| real |  |  |  |  |  | 0.500')
    with (tmp_path / 'generator_study.csv').open() as file:
        assert [row['bits'] for row in csv.DictReader(file)] == ['', '3.456']
    assert math.isclose(float(lines[-1].split('|')[5].strip(' ≤')), 3.46)
