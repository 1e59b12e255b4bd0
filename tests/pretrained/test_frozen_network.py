"""A frozen network comes with the weights it names, or with a clear refusal."""

import dataclasses
import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from golden_packs import assert_close, load_pack

from vistok.errors import UserError
from vistok.pretrained import frozen_network
from vistok.pretrained.clip import CLIPVision
from vistok.pretrained.frozen_network import FROZEN_NETWORKS, load_frozen_network
from vistok.weights.rules import ConversionError


@pytest.fixture
def lpips_file(tmp_path):
    path = tmp_path / 'lpips.safetensors'
    safetensors.numpy.save_file(load_pack('lpips').state_dict(), path)
    return path


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def assert_is_golden_lpips(loaded):
    golden = load_pack('lpips')
    a, b = jnp.asarray(golden.nhwc('a')), jnp.asarray(golden.nhwc('b'))
    assert_close(jax.jit(loaded.module.apply)(loaded.variables, a, b), golden['dist'])


def test_lpips_loads_from_one_file_of_known_digest(lpips_file):
    assert_is_golden_lpips(load_frozen_network('lpips', lpips_file, sha256=sha256(lpips_file)))


def test_lpips_refuses_a_file_of_unknown_or_wrong_digest(lpips_file):
    with pytest.raises(UserError, match='has no published digest: give the sha256'):
        load_frozen_network('lpips', lpips_file)
    with pytest.raises(UserError, match=f'has the sha256 {sha256(lpips_file)}, not {"0" * 64}'):
        load_frozen_network('lpips', lpips_file, sha256='0' * 64)


def test_lpips_loads_from_a_folder_with_trunk_and_heads_of_known_digests(tmp_path, monkeypatch):
    weights = load_pack('lpips').state_dict()
    trunk = {'features.' + name.split('.', 2)[2]: w for name, w in weights.items() if name.startswith('net.')}
    heads = {name: w for name, w in weights.items() if name.startswith('lin')}
    for name, part in (('trunk.safetensors', trunk), ('heads.safetensors', heads)):
        safetensors.numpy.save_file(part, tmp_path / name)
    monkeypatch.setattr(frozen_network, '_VGG16_FILE', 'trunk.safetensors')
    monkeypatch.setattr(frozen_network, '_HEADS_FILE', 'heads.safetensors')
    with pytest.raises(UserError, match="is not torchvision's file: its sha256 starts with"):
        load_frozen_network('lpips', tmp_path)
    monkeypatch.setattr(frozen_network, '_VGG16_SHA256_START', sha256(tmp_path / 'trunk.safetensors')[:8])
    with pytest.raises(UserError, match='is not the file of LPIPS heads'):
        load_frozen_network('lpips', tmp_path)
    monkeypatch.setattr(
        frozen_network, '_HEADS_MD5', hashlib.md5((tmp_path / 'heads.safetensors').read_bytes()).hexdigest()
    )
    assert_is_golden_lpips(load_frozen_network('lpips', tmp_path))


def test_a_teacher_loads_from_a_file_and_takes_options(tmp_path, monkeypatch):
    def small(**options):
        return CLIPVision(width=64, layers=3, num_heads=4, patch=14, image_size=56, **options)

    monkeypatch.setitem(
        frozen_network._TEACHERS, 'clip_b16', dataclasses.replace(frozen_network._TEACHERS['clip_b16'], build=small)
    )
    golden = load_pack('clip_vision_small')
    path = tmp_path / 'model.safetensors'
    safetensors.numpy.save_file(golden.state_dict(), path)
    loaded = load_frozen_network('clip_b16', path, resize_method='nearest')
    features = jax.jit(loaded.module.apply)(loaded.variables, jnp.asarray(golden.nhwc('input')))
    assert_close(features, golden['features'])
    with pytest.raises(UserError, match='has the sha256'):
        load_frozen_network('clip_b16', path, sha256='0' * 64)


def test_weights_of_another_model_are_refused(lpips_file):
    with pytest.raises(ConversionError, match='weights of another model'):
        load_frozen_network('dinov2_s', lpips_file)


@pytest.mark.parametrize('kind', [kind for kind in FROZEN_NETWORKS if not kind.startswith('stand_in')])
def test_missing_weights_are_explained(kind, tmp_path):
    role = 'perceptual' if kind == 'lpips' else 'teacher'
    with pytest.raises(FileNotFoundError, match=f"{kind} needs .*no path was given; without it use 'stand_in_{role}'"):
        load_frozen_network(kind)
    with pytest.raises(FileNotFoundError, match=r'there is nothing at .*absent'):
        load_frozen_network(kind, tmp_path / 'absent')


def test_unknown_kinds_are_answered_with_the_known_ones():
    with pytest.raises(ValueError, match="network 'vgg' is none of lpips, clip_l14"):
        load_frozen_network('vgg')
    with pytest.raises(ValueError, match='comes with its weights'):
        load_frozen_network('stand_in_teacher', 'somewhere.npz')


def test_a_frozen_network_is_callable_and_named():
    loaded = load_frozen_network('stand_in_perceptual', dtype=jnp.bfloat16)
    assert (loaded.name, loaded.module.dtype) == ('stand_in_perceptual', jnp.bfloat16)
    np.testing.assert_array_equal(loaded(*[jnp.zeros((2, 16, 16, 3))] * 2), np.zeros(2))
