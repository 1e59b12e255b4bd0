"""The script writes a dataset that can be used at once, and answers mistakes in one line."""

import pytest
from image_files import two_classes, write
from run_command import run_command

from vistok.data.images.pipeline import open_source


def test_folder_with_bad_images_becomes_a_dataset_and_they_are_listed(tmp_path, capsys):
    root = write(two_classes(tmp_path / 'p', 30), {'cat/bad.png': b''})
    given = [f'--source={root}', '--name=my_pictures', f'--data_dir={tmp_path}/datasets']
    assert run_command('prepare_data', *given) == 0
    done = capsys.readouterr()
    assert 'cat/bad.png: the file is empty' in done.out
    assert 'use it as tfds:my_pictures' in done.out
    assert '31/31' in done.err  # the progress bar
    sources = [open_source('tfds:my_pictures', s, data_dir=f'{tmp_path}/datasets') for s in ('train', 'validation')]
    assert sum(map(len, sources)) == 30
    assert f'{len(sources[0])} train, {len(sources[1])} validation images, 2 classes' in done.out


@pytest.mark.parametrize(
    ('arguments', 'sentence'),
    [
        (['--source={}/none', '--name=a', '--data_dir={}'], 'does not exist'),
        (['--source={}', '--name=a', '--data_dir={}'], 'holds no images'),
        (['--source={}', '--name=A', '--data_dir={}'], 'small letters'),
        (['--source={}'], '--name'),
    ],
)
def test_mistakes_are_answered_in_one_line(tmp_path, capsys, arguments, sentence):
    assert run_command('prepare_data', *(argument.format(tmp_path) for argument in arguments)) == 1
    said = capsys.readouterr().err
    assert sentence in said
    assert said.strip().splitlines()[-1].startswith('error: ')
