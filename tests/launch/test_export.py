"""launch/export.py: a tokenizer as one file, at half precision if asked for."""

import jax
import numpy as np
import pytest
from golden_packs import random_variables
from run_command import run_command

import vistok
from vistok.errors import UserError
from vistok.experiments.saved_models import round_to_half, save_model
from vistok.tokenizers.trained import TrainedTokenizer
from vistok.tokenizers.vqgan import VQGAN
from vistok.weights.rules import variable_shapes


def tokenizer():
    module = VQGAN(channels=8, channel_multipliers=(1, 2), res_blocks=1, codebook_size=16, codebook_dim=4)
    return TrainedTokenizer(module, random_variables(variable_shapes(module, jax.ShapeDtypeStruct((1, 4, 4, 3), 'f4'))))


def arbitrary(scale=1.0):
    """Variables with which nothing can be computed."""
    values = {
        'a': np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32) * scale,
        'steps': np.array(70_000, np.int32),
    }
    return TrainedTokenizer(tokenizer().module, {'params': values})


def test_half_precision_rounds_once_and_is_read_as_float32(tmp_path):
    given, path = tokenizer(), tmp_path / 'half.safetensors'
    save_model(round_to_half(given), path, {'note': 'why'})
    read = vistok.load(path)
    assert read.module == given.module
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(a, np.asarray(b).astype(np.float16).astype(np.float32), strict=True),
        jax.tree.map(np.asarray, read.variables),
        given.variables,
    )
    again = tmp_path / 'again.safetensors'
    save_model(round_to_half(read), again, {'note': 'why'})
    jax.tree.map(np.testing.assert_array_equal, vistok.load(again).variables, read.variables)


def test_whole_numbers_are_not_rounded():
    params = round_to_half(arbitrary()).variables['params']
    assert (params['a'].dtype, params['steps'].dtype, int(params['steps'])) == (np.float16, np.int32, 70_000)


def test_values_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match='too large for float16'):
        round_to_half(arbitrary(scale=1e6))


def test_the_command_writes_what_every_command_reads(tmp_path, capsys):
    save_model(tokenizer(), tmp_path / 'whole.safetensors')
    given = [f'--model={tmp_path}/whole.safetensors', '--half', f'--out={tmp_path}/half.safetensors']
    assert run_command('export', *given) == 0
    assert f'wrote {tmp_path}/half.safetensors: VQGAN, ' in capsys.readouterr().out
    assert run_command('export', *given) == 1
    assert 'exists already' in capsys.readouterr().err
    assert {x.dtype for x in jax.tree.leaves(vistok.load(tmp_path / 'half.safetensors').variables)} == {np.dtype('f4')}
