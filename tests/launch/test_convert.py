"""The command that converts weights: both ways, its account, and what it refuses."""

import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_packs import random_variables

from vistok.errors import UserError
from vistok.experiments import official_models
from vistok.experiments.conversion import convert, convert_to_official
from vistok.tokenizers.vqgan import VQGAN
from vistok.weights.files import load_variables, read_state_dict, write_state_dict
from vistok.weights.rules import variable_shapes

SCRIPT = Path(__file__).parents[2] / 'launch' / 'convert.py'
TINY = VQGAN(
    channels=128, channel_multipliers=(1, 1), res_blocks=1, latent_channels=8, codebook_size=16, codebook_dim=4
)


@pytest.fixture(scope='module')
def official():
    variables = random_variables(variable_shapes(TINY, jax.ShapeDtypeStruct((1, 4, 4, 3), jnp.float32)))
    return official_models.export_variables('llamagen_vq16', variables) | {
        'quantize.codebook_used': np.zeros(10, np.float32)
    }


@pytest.fixture
def source(tmp_path, official):
    write_state_dict(tmp_path / 'official.safetensors', official)
    return tmp_path / 'official.safetensors'


def test_conversion_there_and_back_gives_the_file_that_was_read(tmp_path, source, official):
    report = convert(source, tmp_path / 'ours.safetensors', 'llamagen_vq16')
    assert f'{len(official) - 1} of {len(official)} entries used; 1 ignored: quantize.codebook_used' in report
    assert load_variables(tmp_path / 'ours.safetensors').about['official'] == 'llamagen_vq16'
    report = convert_to_official(tmp_path / 'ours.safetensors', tmp_path / 'back.safetensors')
    assert f'VQGAN, {len(official) - 1} entries' in report
    back = read_state_dict(tmp_path / 'back.safetensors')
    assert back.keys() == official.keys() - {'quantize.codebook_used'}
    for name in back:
        np.testing.assert_array_equal(back[name], official[name])


def test_a_folder_gets_a_file_named_after_the_model(tmp_path, source):
    convert(source, tmp_path, 'llamagen_vq16')
    assert (tmp_path / 'llamagen_vq16.safetensors').is_file()
    convert_to_official(tmp_path / 'llamagen_vq16.safetensors', tmp_path, 'llamagen_vq16')
    assert (tmp_path / 'llamagen_vq16_official.safetensors').is_file()


@pytest.mark.parametrize('name', ['fqgan_dual', 'taming_vqgan_f16_1024', 'patchgan', 'lpips', 'stylegan_disc'])
def test_weights_of_another_model_write_nothing(tmp_path, source, name):
    with pytest.raises(UserError):
        convert(source, tmp_path / 'ours.safetensors', name)
    assert [path.name for path in tmp_path.iterdir()] == ['official.safetensors']


@pytest.mark.parametrize('name', [None, '', 'vqgan'])
def test_an_unknown_name_is_answered_with_the_known_ones(tmp_path, source, name):
    with pytest.raises(UserError, match='one of: llamagen_vq16'):
        convert(source, tmp_path / 'ours.safetensors', name)


def test_sizes_that_no_model_can_have_are_answered_in_a_sentence(tmp_path, official):
    odd = {name: np.zeros([130 if n == 128 else n for n in x.shape], np.float32) for name, x in official.items()}
    write_state_dict(tmp_path / 'odd.safetensors', odd)
    with pytest.raises(UserError, match='130 channels'):
        convert(tmp_path / 'odd.safetensors', tmp_path, 'llamagen_vq16')


def test_converted_weights_are_not_converted_again(tmp_path, source):
    convert(source, tmp_path / 'ours.safetensors', 'llamagen_vq16')
    with pytest.raises(UserError, match='converted already'):
        convert(tmp_path / 'ours.safetensors', tmp_path / 'more.safetensors', 'llamagen_vq16')
    with pytest.raises(UserError, match='this VQGAN fits no official layout: not fqgan_dual'):
        convert_to_official(tmp_path / 'ours.safetensors', tmp_path / 'back.safetensors', 'fqgan_dual')


def test_the_command_answers_a_mistake_in_one_line(tmp_path):
    command = [sys.executable, SCRIPT, '--name=fqgan_dual', f'--model={tmp_path}/no.pt', f'--out={tmp_path}']
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr.strip() == f'error: there is no file {tmp_path}/no.pt'


def test_the_command_tells_what_it_used(tmp_path, source):
    command = [
        sys.executable,
        SCRIPT,
        '--name=llamagen_vq16',
        f'--model={source}',
        f'--out={tmp_path}/x.safetensors',
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert 'ignored: quantize.codebook_used' in result.stdout
