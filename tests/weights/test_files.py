"""Weight files come back bit for bit, and damaged or foreign ones are refused in a sentence."""

import argparse
import importlib.util
import sys

import numpy as np
import pytest
import safetensors.numpy

from vistok.errors import UserError
from vistok.weights.files import is_ours, load_variables, read_state_dict, read_tensor, save_variables, write_state_dict

needs_torch = pytest.mark.skipif(importlib.util.find_spec('torch') is None, reason='torch is not installed')
VARIABLES = {
    'params': {'a': {'kernel': np.arange(6, dtype=np.float32).reshape(2, 3).T}},
    'batch_stats': {'m': np.ones(2)},
}


def test_variables_come_back_with_their_name(tmp_path):
    save_variables(tmp_path / 'x.safetensors', 'llamagen_vq16', VARIABLES)
    saved = load_variables(tmp_path / 'x.safetensors')
    assert saved.name == 'llamagen_vq16'
    assert saved.variables.keys() == VARIABLES.keys()
    np.testing.assert_array_equal(saved.variables['params']['a']['kernel'], VARIABLES['params']['a']['kernel'])
    assert saved.variables['batch_stats']['m'].dtype == np.float64


def test_what_is_said_about_variables_comes_back(tmp_path):
    save_variables(tmp_path / 'x.safetensors', 'table', {'params': {'a': np.zeros(1)}}, {'seed': '3'})
    saved = load_variables(tmp_path / 'x.safetensors')
    assert (saved.name, saved.about) == ('table', {'seed': '3'})


def test_our_files_are_told_from_official_ones(tmp_path):
    save_variables(tmp_path / 'ours.safetensors', 'lpips', VARIABLES)
    write_state_dict(tmp_path / 'theirs.safetensors', {'a.weight': np.zeros(2)})
    assert is_ours(tmp_path / 'ours.safetensors')
    assert not is_ours(tmp_path / 'theirs.safetensors')
    with pytest.raises(UserError, match='was not written by vistok'):
        load_variables(tmp_path / 'theirs.safetensors')


def test_official_names_and_values_come_back(tmp_path):
    weights = {'a.weight': np.arange(6.0).reshape(2, 3).T, 'b': np.array(3, np.int64)}
    write_state_dict(tmp_path / 'x.safetensors', weights)
    read = read_state_dict(tmp_path / 'x.safetensors')
    assert read.keys() == weights.keys()
    for name in weights:
        np.testing.assert_array_equal(read[name], weights[name])


@pytest.mark.parametrize('prefix', ['module.', '_orig_mod.', 'module._orig_mod.', ''])
def test_prefixes_of_wrapping_modules_are_cut_off(tmp_path, prefix):
    safetensors.numpy.save_file({f'{prefix}a.weight': np.zeros(2)}, tmp_path / 'x.safetensors')
    assert read_state_dict(tmp_path / 'x.safetensors').keys() == {'a.weight'}


def test_a_prefix_that_only_some_names_have_stays(tmp_path):
    safetensors.numpy.save_file({'module.a': np.zeros(2), 'b': np.zeros(2)}, tmp_path / 'x.safetensors')
    assert read_state_dict(tmp_path / 'x.safetensors').keys() == {'module.a', 'b'}


@pytest.mark.parametrize('read', [read_state_dict, load_variables, is_ours])
def test_missing_and_damaged_files_are_answered_in_a_sentence(tmp_path, read):
    with pytest.raises(UserError, match='there is no file'):
        read(tmp_path / 'nothing.safetensors')
    save_variables(tmp_path / 'cut.safetensors', 'lpips', VARIABLES)
    whole = (tmp_path / 'cut.safetensors').read_bytes()
    for damaged in (b'', whole[: len(whole) // 2], whole[:-1], b'\xff' * 100):
        (tmp_path / 'cut.safetensors').write_bytes(damaged)
        with pytest.raises(UserError, match='damaged'):
            read(tmp_path / 'cut.safetensors')


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / 'x.txt').write_text('no weights')
    with pytest.raises(UserError, match=r'known are \.safetensors'):
        read_state_dict(tmp_path / 'x.txt')
    with pytest.raises(UserError, match=r'must end in'):
        write_state_dict(tmp_path / 'y.txt', {})


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / 'x.safetensors'
    save_variables(path, 'lpips', VARIABLES)
    before = path.read_bytes()

    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr('os.replace', interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_variables(path, 'patchgan', VARIABLES)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ['x.safetensors']


def test_a_missing_folder_is_answered_in_a_sentence(tmp_path):
    with pytest.raises(UserError, match='there is no folder'):
        save_variables(tmp_path / 'no' / 'x.safetensors', 'lpips', VARIABLES)


def test_pytorch_files_without_pytorch_are_answered_in_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'torch', None)
    (tmp_path / 'x.pt').write_bytes(b'PK')
    with pytest.raises(UserError, match='need PyTorch'):
        read_state_dict(tmp_path / 'x.pt')


@needs_torch
def test_the_averaged_weights_of_a_checkpoint_come_first(tmp_path):
    import torch

    def save(**entries):
        torch.save({'steps': 3, 'optimizer': {}, **entries}, tmp_path / 'x.pt')
        return read_state_dict(tmp_path / 'x.pt')

    a, b = {'a': torch.zeros(2)}, {'b': torch.zeros(2)}
    assert save(ema=a, model=b).keys() == {'a'}
    assert save(model=a, state_dict=b).keys() == {'a'}
    assert save(state_dict={'module.a': torch.zeros(2)}).keys() == {'a'}
    assert save(model={'state_dict': b}).keys() == {'b'}
    assert read_state_dict(tmp_path / 'x.pt', ('nothing',)) == {}


@needs_torch
def test_a_checkpoint_may_hold_the_flags_of_its_training(tmp_path):
    import torch

    torch.save({'model': {'a': torch.ones(1)}, 'args': argparse.Namespace(lr=1e-4)}, tmp_path / 'x.pt')
    assert read_state_dict(tmp_path / 'x.pt').keys() == {'a'}


@needs_torch
def test_pytorch_files_come_back(tmp_path):
    weights = {'a.weight': np.arange(6, dtype=np.float32).reshape(2, 3)}
    write_state_dict(tmp_path / 'x.pt', weights)
    np.testing.assert_array_equal(read_state_dict(tmp_path / 'x.pt')['a.weight'], weights['a.weight'])


@needs_torch
def test_bfloat16_tensors_are_read(tmp_path):
    import torch

    torch.save({'a': torch.ones(3, dtype=torch.bfloat16)}, tmp_path / 'x.pt')
    np.testing.assert_array_equal(read_state_dict(tmp_path / 'x.pt')['a'], np.ones(3, np.float32))


@needs_torch
def test_damaged_and_executable_pytorch_files_are_refused(tmp_path):
    import torch

    torch.save({'model': {'a': torch.zeros(100)}}, tmp_path / 'x.pt')
    whole = (tmp_path / 'x.pt').read_bytes()
    for damaged in (b'', b'hello', whole[: len(whole) // 2]):
        (tmp_path / 'x.pt').write_bytes(damaged)
        with pytest.raises(UserError, match='damaged'):
            read_state_dict(tmp_path / 'x.pt')
    torch.save({'model': pytest.fixture}, tmp_path / 'x.pt')
    with pytest.raises(UserError, match='other objects than tensors'):
        read_state_dict(tmp_path / 'x.pt')


@needs_torch
def test_a_bare_tensor_is_read_and_a_dict_is_not_one(tmp_path):
    import torch

    torch.save(torch.arange(6.0).reshape(2, 3).half(), tmp_path / 'tensor.pth')
    np.testing.assert_array_equal(read_tensor(tmp_path / 'tensor.pth'), np.arange(6).reshape(2, 3))
    torch.save({'a': torch.zeros(1)}, tmp_path / 'dict.pth')
    with pytest.raises(UserError, match='holds no single tensor but a dict'):
        read_tensor(tmp_path / 'dict.pth')
