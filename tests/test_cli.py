"""Every mistake a user can make on the command line is answered in one line, and with an exit code."""

import os
import re
import subprocess
import sys

import pytest

from vistok import cli
from vistok.errors import UserError

CONFIG = """
from ml_collections import ConfigDict

def get_config(variant=''):
    if variant not in ('', 'tiny'):
        raise ValueError(f'unknown variant {variant!r}; known: tiny')
    return ConfigDict({'model': {'width': 8, 'depth': 2, 'name': 'a', 'sizes': (1, 2)}, 'lr': 0.1, 'flag': False})
"""

SCRIPT = """
import sys
from absl import flags
from ml_collections import config_flags
from vistok.launch import cli
from vistok.errors import UserError

config_flags.DEFINE_config_file('config')
flags.DEFINE_enum('fail', '', ['', 'user', 'value', 'own', 'library', 'file', 'bug', 'code', 'interrupt'], 'error')
flags.DEFINE_string('two_words', '', 'a flag')
flags.mark_flag_as_required('config')

def main():
    c = flags.FLAGS.config
    fail = flags.FLAGS.fail
    if fail == 'user':
        raise UserError('the\\nmessage')
    if fail == 'value':
        raise ValueError('width must be even, got 3')
    if fail == 'own':
        cli.load_config('nowhere.py')
    if fail == 'library':
        int('three')
    if fail == 'file':
        open('absent.txt')
    if fail == 'bug':
        raise KeyError('bug')
    if fail == 'code':
        return 3
    if fail == 'interrupt':
        raise KeyboardInterrupt
    print(c.model.width, c.model.sizes, c.lr, c.flag)

def two(a, b, c='nothing'):
    print(a, b, c, flags.FLAGS.two_words)

if __name__ == '__main__':
    if 'two' in sys.argv[0]:
        cli.run(two, positional=('image', 'out'), optional=('more',))
    cli.run(main)
"""


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('cli')
    (folder / 'small.py').write_text(CONFIG)
    (folder / 'plain.py').write_text(
        'from ml_collections import ConfigDict\ndef get_config():\n    return ConfigDict()\n'
    )
    (folder / 'empty.py').write_text('')
    (folder / 'script.py').write_text(SCRIPT)
    (folder / 'two.py').write_text(SCRIPT)
    return folder


@pytest.fixture
def call(folder):
    def call(*arguments, script='script.py', **environment):
        command = [sys.executable, script, *arguments]
        return subprocess.run(
            command, cwd=folder, env=os.environ | environment, capture_output=True, text=True, timeout=120, check=False
        )

    return call


def test_overrides_reach_the_config(call):
    done = call('--config=small.py:tiny', '--config.model.width=3', '--config.model.sizes=(4,5)', '--config.flag')
    assert (done.returncode, done.stdout.strip()) == (0, '3 (4, 5) 0.1 True'), done.stderr


CONFIG_MISTAKES = {
    'wrong key after a separate value': (['--config', 'small.py', '--config.lrr', '3'], 'unknown key "lrr" in config'),
    'wrong negated key': (['--config=small.py', '--noconfig.flga'], 'unknown key "flga" in config'),
    'wrong parent': (
        ['--config=small.py', '--config.modle.width=3'],
        'unknown key "modle" in config; did you mean "model"? known: flag, lr, model',
    ),
    'key below a value': (['--config=small.py', '--config.lr.x=3'], 'config.lr is the value 0.1 and has no keys'),
    'unknown variant': (['--config=small.py:big'], "unknown variant 'big'; known: tiny"),
    'variant of a config without': (['--config=plain.py:big'], "plain.py has no variants, got 'plain.py:big'"),
    'missing file': (['--config=smal.py'], 'did you mean "small.py"? known: plain.py, small.py'),
    'missing folder': (['--config=nowhere/small.py'], "no config file 'nowhere/small.py' in "),
    'no get_config': (['--config=empty.py'], 'empty.py is no config file'),
}
MISTAKES = {
    'wrong key': (
        ['--config=small.py', '--config.model.widht=3'],
        'unknown key "widht" in config.model; did you mean "width"? known: depth, name, sizes, width',
    ),
    'wrong type': (['--config=small.py', '--config.model.width=wide'], 'config.model.width=wide'),
    'no config': ([], 'Flag --config must have a value'),
    'wrong flag': (['--config=small.py', '--confg=x'], "Unknown command line flag 'confg'"),
    'wrong choice': (['--config=small.py', '--fail=x'], 'flag --fail=x'),
    'positional': (['small.py', '--config=small.py'], 'flags are written --name=value); got: small.py'),
    'user error': (['--config=small.py', '--fail=user'], 'the message'),
    'value error': (['--config=small.py', '--fail=value'], 'width must be even, got 3'),
    'own value error': (['--config=small.py', '--fail=own'], "no config file 'nowhere.py'"),
    'file error': (['--config=small.py', '--fail=file'], 'No such file or directory: absent.txt'),
}


@pytest.mark.parametrize('mistake', CONFIG_MISTAKES)
def test_a_mistake_in_a_config_is_found_before_anything_is_parsed(folder, monkeypatch, mistake):
    arguments, message = CONFIG_MISTAKES[mistake]
    monkeypatch.chdir(folder)
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        cli.check_config('config', arguments)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('mistake', MISTAKES)
def test_a_mistake_is_answered_in_one_line(call, mistake):
    arguments, message = MISTAKES[mistake]
    done = call(*arguments)
    assert done.returncode == 1
    assert done.stdout == ''
    assert message in done.stderr
    assert done.stderr.startswith('error: ')
    assert done.stderr.count('\n') == 1, done.stderr


@pytest.mark.parametrize(('fail', 'message'), [('bug', "KeyError: 'bug'"), ('library', 'ValueError: invalid literal')])
def test_bugs_keep_their_traceback(call, fail, message):
    done = call('--config=small.py', f'--fail={fail}')
    assert done.returncode == 1
    assert 'Traceback' in done.stderr
    assert message in done.stderr


def test_the_environment_can_ask_for_the_traceback(call):
    done = call('--config=small.py', '--fail=value', VISTOK_DEBUG='1')
    assert 'Traceback' in done.stderr


def test_exit_codes_are_passed_on(call):
    assert call('--config=small.py', '--fail=code').returncode == 3
    interrupted = call('--config=small.py', '--fail=interrupt')
    assert (interrupted.returncode, interrupted.stderr) == (130, 'error: interrupted\n')


def test_positional_arguments_are_named_and_counted(call):
    given = ('a.png', 'a-b.bin', '--two-words=c-d', '--config=small.py')
    assert call(*given, script='two.py').stdout == 'a.png a-b.bin nothing c-d\n'
    assert call(*given, 'more', script='two.py').stdout == 'a.png a-b.bin more c-d\n'
    done = call('a.png', '--config=small.py', script='two.py')
    assert (done.returncode, done.stderr) == (1, 'error: expected arguments: <image> <out> [more]; got: a.png\n')
