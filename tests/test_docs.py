"""The documentation: Python snippets are executed on tiny models, and command lines are read by the commands' flags."""

import ast
import importlib
import inspect
import re
import shlex
from pathlib import Path

import jax
import pytest
from golden_packs import random_variables
from image_files import colour_image, encode, two_classes, write
from safetensors.numpy import save_file

import vistok
from vistok import cli
from vistok.experiments import official_models
from vistok.experiments.config_files import load_config, parse_overrides
from vistok.generators.autoregressive.llamagen import LlamaGen
from vistok.generators.diffusion.vq_ddm import VQDDM
from vistok.generators.trained import TrainedGenerator

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md'))]
SIDE = 16  # of the images, in pixels

# Config files in the working directory win over those of the package: snippets name 'vqgan' and get this one.
CONFIG = """
from vistok.experiments.config_files import load_config

def get_config(variant=''):
    config = load_config({path!r})
    config.train.update(devices=1, batch_size=8)
    config.data.image_size = 16
    config.update_from_flattened_dict({overrides!r})
    return config
"""
TINY = {
    'vqgan': {
        'evaluate.batch_size': 4,
        'objective.discriminator': '',
        'objective.perceptual': '',
        'train.ema_decay': 0.0,
    },
    # Heads of 64 channels, so that the run fits the official layout.
    'llamagen': {'model.width': 128, 'evaluate.per_class': 0, 'evaluate.batch_size': 4, 'train.ema_decay': 0.0},
}


def blocks(page, language):
    """(line number, text, comment in the line above) of each fenced block of a language."""
    lines = page.read_text('utf-8').splitlines()
    fences = [i for i, line in enumerate(lines) if line.startswith('```')]
    for start, end in zip(fences[::2], fences[1::2], strict=True):
        if lines[start] == f'```{language}':
            above = lines[start - 1] if start else ''
            yield start + 1, '\n'.join(lines[start + 1 : end]), above if above.startswith('<!--') else ''


PYTHON = ROOT / 'docs' / 'python.md'
SETUP, *SNIPPETS = blocks(PYTHON, 'python')
MADE_ONCE = SNIPPETS[:3]  # a tokenizer, its tokens and a generator, which all other snippets name
ELSEWHERE = [(page.name, block) for page in PAGES if page != PYTHON for block in blocks(page, 'python')]
ALL = [('python.md', block) for block in SNIPPETS[3:]] + ELSEWHERE
EXECUTED = {f'{page}:{line}': text for page, (line, text, comment) in ALL if not comment}
NOT_EXECUTED = {f'{page}:{line}': text for page, (line, text, comment) in ALL if comment}


def execute(text, names):
    """Executes a snippet after the first one of the page on Python."""
    exec(compile(SETUP[1], 'docs', 'exec'), names)
    exec(compile(text, 'docs', 'exec'), names)


@pytest.fixture(scope='module')
def world(tmp_path_factory):
    """A folder with all that the snippets name: images, prompts, a run of each kind, and an official file."""
    folder = tmp_path_factory.mktemp('world')
    two_classes(folder / 'my_images', 60)
    write(folder, {'photo.png': encode(colour_image(0, SIDE, SIDE)), 'prompts.txt': b'a cat\na dog\n'})
    for name, overrides in TINY.items():
        path = str(ROOT / 'configs' / f'{name}.py:tiny')
        (folder / name).write_text(CONFIG.format(path=path, overrides=overrides))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for _, text, _ in MADE_ONCE:
            execute(text, {})
        trained = vistok.load_generator('runs/llamagen')
        tokens = {name: getattr(trained.generator, name) for name in ('spec', 'grid', 'num_classes')}
        vq_ddm = VQDDM(**tokens, denoiser='transformer', channels=8, layers=1, heads=2, timesteps=4, evaluation_terms=1)
        model = TrainedGenerator(vq_ddm, random_variables(jax.eval_shape(vq_ddm.init, jax.random.key(0))))
        vistok.save(model, 'vq_ddm.safetensors')
        gpt = LlamaGen(**tokens, layers=1, heads=2, width=128, mlp_width=8)
        variables = random_variables(jax.eval_shape(gpt.init, jax.random.key(0)))
        save_file(official_models.export_variables('llamagen_gpt', variables), 'official_gpt.safetensors')
    return folder


@pytest.mark.parametrize('where', EXECUTED)
def test_snippets_run(where, world, monkeypatch):
    monkeypatch.chdir(world)
    execute(EXECUTED[where], {})


def test_a_command_takes_at_most_five_lines_of_python():
    assert {line: text for line, text, _ in SNIPPETS if len(text.splitlines()) > 5} == {}


def calls_of_the_api(text):
    """(name, count of positional arguments, names of the others) of each call `vistok.name(...)`."""
    for node in ast.walk(ast.parse(text)):
        function = node.func if isinstance(node, ast.Call) else None
        if isinstance(function, ast.Attribute) and getattr(function.value, 'id', '') == 'vistok':
            yield function.attr, len(node.args), [keyword.arg for keyword in node.keywords if keyword.arg]


@pytest.mark.parametrize('where', NOT_EXECUTED)
def test_calls_of_snippets_that_need_much_fit_their_functions(where):
    compile(NOT_EXECUTED[where], 'docs', 'exec')
    for name, count, keywords in calls_of_the_api(NOT_EXECUTED[where]):
        inspect.signature(getattr(vistok, name)).bind(*range(count), **dict.fromkeys(keywords))


def test_the_page_covers_every_command():
    headings = ' '.join(re.findall(r'^## (.*)', PYTHON.read_text('utf-8'), re.MULTILINE))
    assert set(re.findall(r'`vistok (\w+)`', headings)) == set(cli.commands())


def command_lines():
    """(page and line, command, arguments) of each command line, in blocks and in the text."""
    for page in PAGES:
        found = [
            (line, part)
            for line, text, _ in blocks(page, '')
            for joined in re.sub(r'\\\n\s*', ' ', text).splitlines()
            for part in re.split(r'&&|[|]', re.split(r'\s# |\s{3,}', joined.strip())[0])
        ]
        prose = enumerate(page.read_text('utf-8').splitlines(), 1)
        found += [(line, part) for line, text in prose for part in re.findall(r'`([^`]*)`', text)]
        for line, part in found:
            match = re.match(r'(?:vistok|python launch/(?=\w+\.py\b))\s*([a-z_]+)(?:\.py)?(?= |$)(.*)', part.strip())
            if match:
                yield f'{page.name}:{line}', match[1], shlex.split(match[2])


def check_command(command, arguments):
    """Reads the arguments as the command would, without executing it; also refuses earlier names of flags.

    Raises:
      AssertionError, UserError: the command would refuse them, or print a notice.
    """
    assert command in cli.commands(), 'no such command'
    flags = importlib.import_module(f'vistok.launch.{command}').FLAGS
    old = flags.old_names()
    overrides = [text for text in arguments if re.match(r'--(no)?config\.', text)]
    given = [text for text in arguments if text not in overrides]
    for text in given:
        if match := re.match(r'--([\w-]+)', text):
            name = match[1].replace('-', '_')
            assert name not in old, f'--{name} is now --{old[name]}'
            assert name in (*flags.texts, 'help'), f'there is no flag --{name}'
    positional = [text for text in given if not text.startswith('--')]
    assert len(positional) <= len(flags.arguments) + len(flags.optional), f'too many arguments: {positional}'
    names = [text.partition('=')[2] for text in given if text.startswith('--config=')]
    assert names or not overrides, 'overrides of no config'
    for name in names:
        if '<' not in name:
            assert parse_overrides(load_config(name), overrides) == []


def test_command_lines_of_the_documentation_are_right():
    lines, wrong = list(command_lines()), []
    for where, command, arguments in lines:
        try:
            check_command(command, arguments)
        except (AssertionError, vistok.UserError) as error:
            wrong.append(f'{where}: vistok {command} {" ".join(arguments)}: {error}')
    assert len(lines) > 60
    assert not wrong, '\n'.join(wrong)


@pytest.mark.parametrize(
    ('command', 'arguments'),
    [
        ('trian', []),
        ('sample', ['--npz=a.npz']),
        ('sample', ['--mdoel=runs/a']),
        ('describe', ['a.bin', 'b.bin']),
        ('train', ['--config=fqgn']),
        ('train', ['--config=fqgan:tripel']),
        ('train', ['--config=fqgan', '--config.train.stesp=3']),
        ('train', ['--config.train.steps=3']),
    ],
)
def test_wrong_command_lines_are_noticed(command, arguments):
    with pytest.raises((AssertionError, vistok.UserError)):
        check_command(command, arguments)


def test_files_that_the_documentation_names_exist():
    folders = [path for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(('.', 'venv', 'build'))]
    listed = [path.relative_to(ROOT).as_posix() for folder in folders for path in folder.rglob('*.py')]
    for page in PAGES:
        for name in re.findall(r'(?<![\w<>.-])[\w/]+\.py\b', page.read_text('utf-8')):
            assert any(f'/{path}'.endswith(f'/{name}') for path in listed), f'{page.name} names {name}'
