"""Every mistake a user can make on the command line is answered in one line, and with an exit code."""

import importlib
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from vistok import cli
from vistok.errors import UserError
from vistok.experiments import config_files

ROOT = Path(__file__).parents[1]
CONFIG = """
from ml_collections import ConfigDict

with open('executions', 'a') as file:
    file.write('once ')

def get_config(variant=''):
    if variant not in ('', 'tiny'):
        raise ValueError(f'unknown variant {variant!r}; known: tiny')
    return ConfigDict({'model': {'width': 8, 'depth': 2, 'name': 'a', 'sizes': (1, 2)}, 'lr': 0.1, 'flag': False})
"""
COMMAND = '''
"""Does nothing.

    example
"""
from vistok.errors import UserError
from vistok.launch.shared.flags import Flags

FLAGS = Flags(__doc__, ['image'], ['out'])
CONFIG = FLAGS.config('Config of the experiment.')
FAIL = FLAGS.choice('fail', '', ['', 'user', 'library', 'file', 'bug', 'code', 'interrupt'], 'Kind of failure.')
WORDS = FLAGS.string('two_words', 'none', 'Words to print.', old=['older', 'oldest'])
NOTE = FLAGS.string('note', '', 'A name that begins like a negation.')
OUTS = FLAGS.strings('outs', [], 'Parts to print.', old={'folder': '{}/'.format})
NUMBERS = FLAGS.numbers('numbers', None, 'Numbers to print.')
SWITCH = FLAGS.switch('switch', 'A switch.')

def main(image, out='nothing'):
    if FAIL.value == 'user':
        raise UserError('the\\nmessage')
    if FAIL.value == 'library':
        int('three')
    if FAIL.value == 'file':
        open('absent.txt')
    if FAIL.value == 'bug':
        raise KeyError('bug')
    if FAIL.value == 'code':
        return 3
    if FAIL.value == 'interrupt':
        raise KeyboardInterrupt
    print(image, out, WORDS.value, NOTE.value, OUTS.value, NUMBERS.value, SWITCH.value)
    c = CONFIG.value
    if c is not None:
        print(c.model.width, c.model.sizes, c.lr, c.flag)
'''


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / 'small.py').write_text(CONFIG)
    plain = 'from ml_collections import ConfigDict\ndef get_config():\n    return ConfigDict()\n'
    (tmp_path / 'plain.py').write_text(plain)
    (tmp_path / 'empty.py').write_text('')
    (tmp_path / 'command.py').write_text(COMMAND)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def call(folder, capsys):
    """Executes the command; gives exit code, standard output and standard error."""
    spec = importlib.util.spec_from_file_location('does_nothing', folder / 'command.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    execute = importlib.import_module('vistok.launch.shared.command').execute

    def call(*arguments):
        code = execute(module.main, module.FLAGS, ['a.png', *arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def test_overrides_reach_the_config_which_is_executed_once(call, folder):
    given = ['--config=small.py:tiny', '--config.model.width=3', '--config.model.sizes=(4,5)', '--config.flag']
    code, out, _ = call(*given, '--config.lr', '3')
    assert code == 0
    assert out.splitlines()[1] == '3 (4, 5) 3.0 True'
    assert (folder / 'executions').read_text() == 'once '


def test_the_next_call_begins_with_the_defaults(call):
    first = call('--config=small.py', '--two_words=x', '--switch', '--numbers=1')
    assert first[1].splitlines()[0] == 'a.png nothing x  [] [1] True'
    assert call()[1] == 'a.png nothing none  [] None False\n'


def test_the_home_folder_is_put_in_also_where_no_shell_does(call, monkeypatch, folder):
    monkeypatch.setenv('HOME', str(folder))
    _, out, _ = call('--two_words=~/x y', '--outs=~/a,b~/c')
    assert out == f"a.png nothing {folder}/x y  ['{folder}/a', 'b~/c'] None False\n"


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
    'missing name': (['--config=fqgn:tiny'], 'no config \'fqgn\'; did you mean "fqgan"? known: addp, '),
    'no get_config': (['--config=empty.py'], 'empty.py is no config file'),
    'wrong key': (
        ['--config=small.py', '--config.model.widht=3'],
        'unknown key "widht" in config.model; did you mean "width"? known: depth, name, sizes, width',
    ),
    'wrong type': (['--config=small.py', '--config.model.width=wide'], 'config.model.width=wide'),
}
MISTAKES = CONFIG_MISTAKES | {
    'wrong flag': (['--two_wrods=x'], "Unknown command line flag 'two_wrods'. Did you mean: two_words ?"),
    'wrong choice': (['--fail=x'], 'flag --fail=x'),
    'wrong number': (['--numbers=1,x'], "'x' is no number"),
    'empty value': (['--two_words='], '--two_words is empty; give it a value or leave it out'),
    'empty values': (['--outs=,'], '--outs is empty; give it a value or leave it out'),
    'empty argument': ([''], 'argument 2 is empty'),
    'positional': (['b', 'c'], 'expected arguments: <image> [out]; got: a.png b c'),
    'user error': (['--fail=user'], 'the message'),
    'file error': (['--fail=file'], 'No such file or directory: absent.txt'),
}


@pytest.mark.parametrize('mistake', MISTAKES)
def test_a_mistake_is_answered_in_one_line(call, mistake):
    arguments, message = MISTAKES[mistake]
    code, out, err = call(*arguments)
    assert (code, out) == (1, '')
    assert message in err
    assert err.startswith('error: ')
    assert err.count('\n') == 1, err


@pytest.mark.parametrize(('fail', 'error'), [('bug', KeyError), ('library', ValueError)])
def test_bugs_keep_their_traceback(call, fail, error):
    with pytest.raises(error) as caught:
        call(f'--fail={fail}')
    assert not isinstance(caught.value, UserError)


def test_the_environment_can_ask_for_the_traceback(call, monkeypatch):
    monkeypatch.setenv('VISTOK_DEBUG', '1')
    with pytest.raises(UserError):
        call('--fail=user')


def test_exit_codes_are_passed_on(call):
    assert call('--fail=code')[0] == 3
    assert call('--fail=interrupt') == (130, '', 'error: interrupted\n')


def test_words_of_flags_are_joined_by_dashes_or_underscores(call):
    assert call('out', '--two-words=c-d', '--note', 'x-y', '--noswitch')[1] == 'a.png out c-d x-y [] None False\n'
    assert (
        call('--outs=a,b', '--outs=c', '--numbers=1,0.5')[1] == "a.png nothing none  ['a', 'b', 'c'] [1, 0.5] False\n"
    )


def test_old_flags_work_with_a_notice(call):
    code, out, err = call('--older=x', '--folder', 'y', '--outs=z')
    assert (code, out) == (0, "a.png nothing x  ['y/', 'z'] None False\n")
    assert err == 'note: --older is now called --two_words\nnote: --folder is now called --outs\n'


def test_help_and_version_end_well(call):
    code, out, err = call('--help', '--fail=nonsense')
    assert (code, err) == (0, '')
    assert '<image> [out]' in out
    assert "  --two_words  (default: 'none')\n      Words to print.\n" in out
    assert 'older' not in out
    assert call('--version')[:2] == (0, f'vistok {cli.vistok.__version__}\n')


def test_overrides_in_python_are_checked(folder):
    config = config_files.config('small.py', {'model.width': 3, 'lr': 1})
    assert (config.model.width, config.lr) == (3, 1)
    for overrides, message in (
        ({'model.widht': 3}, 'did you mean "width"'),
        ({'model.width': '3'}, r"config.model.width cannot be '3'"),
        ({'model.width': 2.5}, r'config.model.width cannot be 2.5'),
    ):
        with pytest.raises(UserError, match=message):
            config_files.config('small.py', overrides)
    with pytest.raises(AttributeError):
        config.model.widht = 3


def test_configs_of_the_package_are_found_by_name_and_files_win(folder):
    by_name = config_files.config('fqgan:tiny')
    assert by_name.model.name == 'fqgan'
    assert config_files.config('configs/fqgan.py:tiny').to_json() == by_name.to_json()  # as in a checkout
    (folder / 'fqgan').write_text(CONFIG)
    assert config_files.config('fqgan:tiny').model.name == 'a'
    own = ConfigDict()  # a config of a user's, which does not say what was merged
    assert str(config_files.default_workdir('mine/fqgan.py:triple,cifar10', own)) == 'runs/fqgan-triple-cifar10'
    assert str(config_files.default_workdir('configs/fqgan.py', own)) == 'runs/fqgan'


@pytest.mark.parametrize('arguments', [['--help'], ['--version'], ['compress', '--help'], ['train', '--help']])
def test_help_needs_no_accelerator_library(arguments):
    script = f'import sys; sys.argv[1:] = {arguments!r}\nfrom vistok.cli import main\ntry:\n    main()\nfinally:\n'
    script += '    assert "jax" not in sys.modules and "ml_collections" not in sys.modules'
    done = subprocess.run([sys.executable, '-c', script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, '')
    assert done.stdout.startswith(('usage: vistok', 'vistok '))


@pytest.mark.parametrize('arguments', [['--help'], ['train', '--help']])
def test_help_may_be_cut_short(arguments):
    reader, writer = os.pipe()
    os.close(reader)  # as after `vistok --help | head -1`
    try:
        command = [sys.executable, '-m', 'vistok', *arguments]
        done = subprocess.run(command, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, timeout=60)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (0, b'')


def run_vistok(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    return ended.value.code, capsys.readouterr()


def test_every_command_is_listed_and_helps(capsys):
    code, said = run_vistok(capsys, '--help')
    assert code == 0
    commands = {path.stem for path in (ROOT / 'launch').glob('*.py')}
    assert set(re.findall(r'^  (\w+)  +\w', said.out, re.MULTILINE)) == commands
    for command in sorted(commands):
        code, said = run_vistok(capsys, command.replace('_', '-'), '--help')
        assert (code, said.err) == (0, '')
        module = importlib.import_module(f'vistok.launch.{command}')
        for name, text in module.FLAGS.texts.items():
            assert re.fullmatch(r'[A-Z].*\.', text), (name, text)


def test_unknown_commands_are_answered_with_the_nearest(capsys):
    code, said = run_vistok(capsys, 'trian')
    assert code == 1
    assert said.err.startswith('error: there is no command \'trian\'; did you mean "train"? known: build_codebook, ')
    assert run_vistok(capsys)[0] == 1
    code, said = run_vistok(capsys, 'describe')
    assert (code, said.err) == (1, 'error: expected arguments: <bitstream or ->; got: none\n')


OLD = {  # flags of the release before, by command
    'build_codebook': {'output': 'out'},
    'cluster_codebook': {'run': 'model', 'output': 'out'},
    'compress': {'weights': 'model'},
    'convert': {'input': 'model', 'output': 'out'},
    'decompress': {'weights': 'model'},
    'describe': {'picture': 'out'},
    'evaluate': {'run': 'model', 'pictures': 'images'},
    'export': {'run': 'model'},
    'extract_tokens': {'run': 'model'},
    'fit_prior': {'weights': 'model', 'pictures': 'images'},
    'inpaint': {'run': 'model', 'folder': 'out', 'count': 'images'},
    'nest_codebook': {'weights': 'model', 'pictures': 'images'},
    'refit': {'run': 'model', 'output': 'out'},
    'sample': {'run': 'model', 'folder': 'out', 'npz': 'out'},
    'train_stand_in': {'output': 'out', 'batch': 'batch_size'},
    'transcode': {'weights': 'model'},
}


@pytest.mark.parametrize('command', OLD)
def test_every_old_flag_still_works_with_a_notice(command, capsys):
    own = importlib.import_module(f'vistok.launch.{command}').FLAGS
    for old, new in OLD[command].items():
        own.parse([*['x'] * len(own.arguments), f'--{old}=7'])
        assert str(own._values[new].value).strip("[]'/") == '7'
        assert capsys.readouterr().err == f'note: --{old} is now called --{new}\n'
