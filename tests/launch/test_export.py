"""launch/export.py: a tokenizer as one file, at half precision if asked for."""

import jax
import numpy as np
import pytest
from run_command import run_command

import vistok
from vistok.errors import UserError
from vistok.experiments.saved_models import round_to_half, save_model
from vistok.tokenizers.trained import TrainedTokenizer
from vistok.tokenizers.vqgan import VQGAN


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


def test_the_command_writes_what_every_command_reads(tmp_path, capsys):
    save_model(tmp_path / 'whole.safetensors', tokenizer())
    given = [f'--model={tmp_path}/whole.safetensors', '--half', f'--out={tmp_path}/half.safetensors']
    assert run_command('export', *given) == 0
    assert f'wrote {tmp_path}/half.safetensors: VQGAN, ' in capsys.readouterr().out
    assert run_command('export', *given) == 1
    assert 'exists already' in capsys.readouterr().err
    assert vistok.load(tmp_path / 'half.safetensors').variables['params']['a'].dtype == np.float32
