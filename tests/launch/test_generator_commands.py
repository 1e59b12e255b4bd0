"""The commands around generators answer a user's mistake in one line."""

import pytest
from run_command import run_command

from vistok.errors import UserError
from vistok.experiments.outputs import split_outputs


@pytest.mark.parametrize(
    ('command', 'sentence'),
    [
        (['extract_tokens'], 'name a tokenizer, for example --model=runs/vqgan-digits'),
        (['sample', '--model=m'], 'name what to write: --out=FILE.png, --out=FOLDER/ or --out=FILE.npz'),
        (['sample', '--model=m', '--out=a.png'], 'm is no run folder: it has no config.json'),
    ],
)
def test_what_is_missing_is_said_in_one_line(command, sentence, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_command(*command) == 1
    assert capsys.readouterr().err == f'error: {sentence}\n'


@pytest.mark.parametrize(
    ('paths', 'npz', 'sentence'),
    [
        (['a.png', 'b.png'], True, 'a.png and b.png are both a sheet: name one'),
        (['a.jpg'], True, 'cannot write a.jpg: outputs are .png files, .npz files and folders'),
        (['a.npz'], False, 'cannot write a.npz: outputs are .png files and folders'),
    ],
)
def test_outputs_are_told_apart_by_their_names(paths, npz, sentence):
    with pytest.raises(UserError, match=sentence):
        split_outputs(paths, npz=npz)
    found = split_outputs(['a.png', 'b/', 'c.npz'])
    assert tuple(path.name for path in (found.sheet, found.folder, found.npz)) == ('a.png', 'b', 'c.npz')
