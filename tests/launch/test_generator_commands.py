"""The commands around generators answer a user's mistake in one line."""

import pytest
from run_command import run_command


@pytest.mark.parametrize(
    ('command', 'sentence'),
    [
        (['extract_tokens'], 'name a tokenizer, for example --model=runs/vqgan-digits'),
        (['sample', '--model=m'], 'name what to write: --out=FILE.png, --out=FOLDER/ or --out=FILE.npz'),
        (['sample', '--model=m', '--out=a.png,b.png'], 'a.png and b.png are both a sheet: name one'),
        (['sample', '--model=m', '--out=a.jpg'], 'cannot write a.jpg: outputs are .png files, .npz files and folders'),
        (['inpaint', '--model=m', '--out=a.npz'], 'cannot write a.npz: outputs are .png files and folders'),
        (['sample', '--model=m', '--out=a.png'], 'm is no run folder: it has no config.json'),
    ],
)
def test_what_is_missing_is_said_in_one_line(command, sentence, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_command(*command) == 1
    assert capsys.readouterr().err == f'error: {sentence}\n'
