"""The commands around generators answer a user's mistake in one line."""

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize(
    ('command', 'sentence'),
    [
        (['extract_tokens.py'], 'name a tokenizer, for example --run=runs/vqgan-digits'),
        (['sample.py', '--run=runs/llamagen'], 'name at least one of --out=FILE.png, --folder=DIR and --npz=FILE.npz'),
    ],
)
def test_what_is_missing_is_said_in_one_line(command, sentence):
    script = [sys.executable, f'launch/{command[0]}', *command[1:]]
    answer = subprocess.run(script, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert answer.returncode == 1
    assert answer.stderr.strip().splitlines()[-1] == f'error: {sentence}'
