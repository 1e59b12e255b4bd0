"""The script writes a dataset that can be used at once, and answers mistakes in one line."""

import subprocess
import sys
from pathlib import Path

from image_files import two_classes, write

from vistok.data.images.pipeline import open_source

SCRIPT = Path(__file__).parents[2] / 'launch' / 'prepare_data.py'


def prepare(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_folder_with_bad_images_becomes_a_dataset_and_they_are_listed(tmp_path):
    root = write(two_classes(tmp_path / 'p', 30), {'cat/bad.png': b''})
    done = prepare(f'--source={root}', '--name=my_pictures', f'--data_dir={tmp_path}/datasets')
    assert done.returncode == 0, done.stderr
    assert 'cat/bad.png: the file is empty' in done.stdout
    assert 'use it as tfds:my_pictures' in done.stdout
    assert '31/31' in done.stderr  # the progress bar
    sources = [open_source('tfds:my_pictures', s, data_dir=f'{tmp_path}/datasets') for s in ('train', 'validation')]
    assert sum(map(len, sources)) == 30
    assert f'{len(sources[0])} train, {len(sources[1])} validation images, 2 classes' in done.stdout


def test_mistakes_are_answered_in_one_line(tmp_path):
    for arguments, sentence in (
        ([f'--source={tmp_path}/none', '--name=a', f'--data_dir={tmp_path}'], 'does not exist'),
        ([f'--source={tmp_path}', '--name=a', f'--data_dir={tmp_path}'], 'holds no images'),
        ([f'--source={tmp_path}', '--name=A', f'--data_dir={tmp_path}'], 'small letters'),
        ([f'--source={tmp_path}'], '--name'),
    ):
        done = prepare(*arguments)
        assert done.returncode == 1
        assert sentence in done.stderr
        assert 'Traceback' not in done.stderr
        assert done.stderr.strip().splitlines()[-1].startswith('error: ')
