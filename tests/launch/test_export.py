"""launch/export.py: a tokenizer as one file, at half precision if asked for."""

import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import vistok
from vistok.errors import UserError
from vistok.experiments.saved_models import round_to_half, save_model
from vistok.tokenizers.trained import TrainedTokenizer
from vistok.tokenizers.vqgan import VQGAN

ROOT = Path(__file__).parents[2]


def tokenizer(scale=1.0):
    """Arbitrary variables: nothing here computes with them."""
    rng = np.random.default_rng(0)
    values = {'a': rng.normal(size=(3, 4)).astype(np.float32) * scale, 'steps': np.array(70_000, np.int32)}
    return TrainedTokenizer(VQGAN(channels=8, channel_multipliers=(1, 2)), {'params': values})


def test_half_precision_rounds_once_and_is_read_as_float32(tmp_path):
    given, path = tokenizer(), tmp_path / 'half.safetensors'
    save_model(path, round_to_half(given), {'note': 'why'})
    read = vistok.load(path)
    assert read.module == given.module
    params = read.variables['params']
    assert params['a'].dtype == np.float32
    np.testing.assert_array_equal(params['a'], given.variables['params']['a'].astype(np.float16).astype(np.float32))
    assert int(params['steps']) == 70_000
    again = tmp_path / 'again.safetensors'
    save_model(again, round_to_half(read), {'note': 'why'})
    jax.tree.map(np.testing.assert_array_equal, vistok.load(again).variables, read.variables)


def test_values_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match='too large for float16'):
        round_to_half(tokenizer(scale=1e6))


@pytest.mark.slow
def test_the_command_writes_what_every_command_reads(tmp_path):
    save_model(tmp_path / 'whole.safetensors', tokenizer())
    command = [sys.executable, 'launch/export.py', f'--run={tmp_path}/whole.safetensors', '--half']
    command.append(f'--out={tmp_path}/half.safetensors')
    answers = [subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120) for _ in range(2)]
    assert [answer.returncode for answer in answers] == [0, 1]
    assert 'exists already' in answers[1].stderr
    assert vistok.load(tmp_path / 'half.safetensors').variables['params']['a'].dtype == np.float32
