"""The distribution as it is built: files, metadata, command; and a checkout whose symbolic links came out as text."""

import email
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_architecture import LINKED, project_files

ROOT = Path(__file__).resolve().parents[1]


def package_files():
    """Files below `vistok`, by the names under which they are imported or opened."""
    for path in project_files(ROOT):
        name = path.relative_to(ROOT).as_posix()
        if name.startswith('vistok/'):
            yield name
        elif name.split('/')[0] in LINKED:
            yield f'vistok/{name}'


def copy_project(folder):
    """Copies the files of the project, and the links in `vistok` as they are."""
    for path in project_files(ROOT):
        if path.relative_to(ROOT).parts[0] not in ('tests', 'docs', 'benchmarks'):
            target = folder / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target)
    for name in LINKED:
        (folder / 'vistok' / name).symlink_to(f'../{name}')


def run_python(*arguments, path, cwd):
    environment = {**os.environ, 'PYTHONPATH': str(path)}
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope='module')
def built(tmp_path_factory):
    """A folder as `pip install` fills it: the package beside its metadata."""
    if importlib.util.find_spec('setuptools') is None:
        pytest.skip("needs setuptools, which is part of the extra 'test'")
    source, target = (tmp_path_factory.mktemp(name) for name in ('source', 'site'))
    copy_project(source)
    steps = ['build_py', f'--build-lib={target}', 'egg_info', f'--egg-base={target}']
    done = run_python('setup.py', '-q', *steps, path='', cwd=source)
    assert done.returncode == 0, done.stderr
    return target


def metadata(built):
    return email.message_from_string((built / 'vistok.egg-info/PKG-INFO').read_text('utf-8'))


def test_every_file_of_the_package_is_installed(built):
    installed = {path.relative_to(built).as_posix() for path in (built / 'vistok').rglob('*') if path.is_file()}
    assert installed == set(package_files())
    for name in (
        'vistok/py.typed', 'vistok/configs/fqgan.py', 'vistok/configs/base/tokenizer.py', 'vistok/launch/train.py',
        'vistok/compression/weights/photographs.safetensors', 'vistok/pretrained/stand_in.npz',
    ):  # fmt: skip
        assert name in installed


def test_vistok_is_the_only_import_root(built):
    assert sorted(path.name for path in built.iterdir()) == ['vistok', 'vistok.egg-info']
    assert (built / 'vistok.egg-info/top_level.txt').read_text('utf-8').split() == ['vistok']


def test_metadata_describe_the_distribution(built):
    found = metadata(built)
    assert (found['Name'], found['License'], found['Requires-Python']) == ('vistok', 'Apache-2.0', '>=3.11')
    classifiers = found.get_all('Classifier')
    for version in ('3.11', '3.12', '3.13'):
        assert f'Programming Language :: Python :: {version}' in classifiers
    assert 'License :: OSI Approved :: Apache Software License' in classifiers
    assert 'Typing :: Typed' in classifiers
    assert found['Description-Content-Type'] == 'text/markdown'
    assert (ROOT / 'README.md').read_text('utf-8').strip() in str(found.get_payload() or found['Description'])


def test_extras_name_the_accelerators_and_options(built):
    found = metadata(built)
    assert set(found.get_all('Provides-Extra')) == {'cuda', 'cuda12', 'cuda13', 'test', 'text', 'torch', 'tpu'}
    required = re.sub(r'\n+\[', '\n[', (built / 'vistok.egg-info/requires.txt').read_text('utf-8'))
    for extra, requirement in (('cuda', 'cuda13'), ('cuda12', 'cuda12'), ('cuda13', 'cuda13'), ('tpu', 'tpu')):
        assert f'[{extra}]\njax[{requirement}]\n' in required


def test_the_command_runs_from_an_installed_package(built, tmp_path):
    code = (
        'import importlib.metadata, sys, vistok\n'
        '[entry] = importlib.metadata.distribution("vistok").entry_points.select(group="console_scripts")\n'
        'assert vistok.__file__.startswith(sys.argv.pop(1)), vistok.__file__\n'
        'assert vistok.__version__ == importlib.metadata.version("vistok")\n'
        'assert entry.name == "vistok"\n'
        'entry.load()()\n'
    )
    version = run_python('-c', code, str(built), '--version', path=built, cwd=tmp_path)
    assert version.returncode == 0, version.stderr
    assert version.stdout.strip() == f'vistok {metadata(built)["Version"]}'
    overview = run_python('-c', code, str(built), '--help', path=built, cwd=tmp_path)
    assert overview.returncode == 0, overview.stderr
    for command in ('train', 'sample', 'compress', 'decompress'):
        assert f'\n  {command} ' in overview.stdout


def test_configs_of_an_installed_package_are_found_by_name(built, tmp_path):
    code = (
        'import sys, vistok\n'
        'assert vistok.__file__.startswith(sys.argv[1])\n'
        'print(vistok.config("fqgan:tiny").model.name, vistok.config("llamagen:tiny").model.name)\n'
    )
    done = run_python('-c', code, str(built), path=built, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ['fqgan', 'llamagen']


TRAIN = """
import pathlib, sys, vistok
from vistok.experiments.training import run_training
assert vistok.__file__.startswith(sys.argv[1]), vistok.__file__
settings = vistok.config('simvq:tiny', {
    'model.channels': 4, 'model.codebook_dim': 4, 'model.codebook_size': 16, 'objective.discriminator': '',
    'evaluate.pictures': 0, 'optimizer.schedule': 'constant', 'train.devices': 1, 'train.ema_decay': 0.0,
    'train.steps': 1,
})
run_training(settings, pathlib.Path(sys.argv[2]), show_progress=False)
"""


def test_a_checkout_without_symbolic_links_trains_a_step(tmp_path):
    checkout = tmp_path / 'checkout'
    copy_project(checkout)
    for name in LINKED:
        link = checkout / 'vistok' / name
        link.unlink()
        link.write_text(f'../{name}')  # what git writes with core.symlinks=false
    run = tmp_path / 'run'
    done = run_python('-c', TRAIN, str(checkout), str(run), path=checkout, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (run / 'checkpoints').iterdir()] == ['1']
