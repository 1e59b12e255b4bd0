"""The rules of the tree, checked on the tree itself and, so that the checks are known to bite, on small broken ones."""

import ast
import importlib.metadata
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Parts of the project, highest first; a part imports only itself and what stands on lower floors.
FLOORS = (
    ('launch',),
    ('experiments',),
    ('compression',),
    ('generators',),
    ('tokenizers',),
    ('metrics',),
    ('pretrained',),
    ('losses', 'data'),
    ('training', 'weights'),
    ('networks', 'clustering', 'visualization'),
    ('files', 'collectives'),
    ('errors',),
)
LINKED = ('compression', 'configs', 'generators', 'launch', 'tokenizers')  # top-level folders, linked into vistok/
# From above, a tokenizer is seen through its interface: only experiments and commands know the papers.
INTERFACES = {'tokenizers': ('tokenizers.tokenizer', 'tokenizers.trained')}
KNOW_ALL = ('launch', 'experiments')
MOST_LINES = 500
MOST_LINES_OF_MAIN = 40
LONGER_FOR_A_REASON: dict[str, str] = {}  # path -> reason
# Layers of flax that are wrong here, by what is to be used instead and where alone they may be named.
OWN_LAYERS = {
    'Dropout': ('vistok.networks.dropout.Dropout, which drops by the place in the global batch', ()),
    'LayerNorm': ('vistok.networks.norms.LayerNorm, which has the stable variance', ('vistok/networks/norms.py',)),
    'GroupNorm': ('vistok.networks.norms.GroupNorm, which has the stable variance', ()),
    'InstanceNorm': ('vistok.networks.norms.GroupNorm, which has the stable variance', ()),
    'BatchNorm': (
        'vistok.networks.norms.BatchNorm, which has the stable variance',
        ('vistok/networks/norms.py', 'vistok/pretrained/inception.py'),  # Inception computes no statistics
    ),
}
VAGUE_NAME = re.compile(r'(.*_)?(utils?|misc|helpers?)')
_BUILT = re.compile(r'/\.|/__pycache__/|\.egg-info/|/(build|dist|runs|venv)/')
MACHINE_PATH = re.compile(r'(?<![\w.~$}/-])/(?:home|root|Users|tmp|work|opt|mnt|workspace)/\w')


def project_files(root: Path) -> list[Path]:
    """All files that belong to the project: what git tracks or would track; without git, everything."""
    if (root / '.git').exists():
        command = ['git', 'ls-files', '-z', '--cached', '--others', '--exclude-standard']
        listed = subprocess.run(command, cwd=root, capture_output=True, check=True, text=True).stdout
        paths = [root / name for name in listed.split('\0') if name]
    else:
        paths = [path for path in root.rglob('*') if not _BUILT.search(f'/{path.relative_to(root).as_posix()}')]
    return sorted(path for path in paths if path.is_file())


def modules(root: Path) -> Iterator[tuple[str, ast.Module]]:
    """Path below the root, with slashes, and syntax tree of every Python file."""
    for path in project_files(root):
        if path.suffix == '.py':
            yield path.relative_to(root).as_posix(), ast.parse(path.read_text(encoding='utf-8'))


def imported(tree: ast.Module) -> Iterator[str]:
    """Full names of everything that a module imports, anywhere; relative imports begin with a dot."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = '.' * node.level + (node.module or '')
            yield from (f'{source}.{alias.name}' for alias in node.names)


def part_of(path: str) -> str | None:
    """The part that a file belongs to: the folder or module below `vistok`, or a linked folder."""
    folders = path.removeprefix('vistok/').split('/')
    part = folders[0].removesuffix('.py')
    inside = path.startswith('vistok/') or part in LINKED
    return part if inside and part not in ('__init__', '__main__', 'cli') else None


def may_import(part: str) -> tuple[str, ...]:
    """What a part may import: itself, and everything on lower floors as far as it may be seen."""
    if part == 'configs':
        return ('configs',)
    floor = next((i for i, parts in enumerate(FLOORS) if part in parts), None)
    if floor is None:
        return ()
    lower = [name for parts in FLOORS[floor + 1 :] for name in parts]
    if part in KNOW_ALL:
        return (part, *lower)
    return (part, *(seen for name in lower for seen in INTERFACES.get(name, (name,))))


def imports_against_the_direction(root: Path) -> Iterator[str]:
    """Imports that point up, that reach for a concrete tokenizer, or that bypass `vistok`."""
    for path, tree in modules(root):
        part = part_of(path)
        for name in imported(tree):
            top, *rest = name.split('.')
            if top in LINKED:
                yield f'{path} imports {name}: write vistok.{name}'
            elif top == '' and part is not None:
                yield f'{path} imports {name}: write the full name'
            elif top == 'vistok' and part is not None and (rest or part != 'launch'):  # commands use the public API
                target, allowed = '.'.join(rest), may_import(part)
                if not allowed:
                    yield f'{path} stands on no floor: give {part} a place in FLOORS'
                elif not any(target == prefix or target.startswith(prefix + '.') for prefix in allowed):
                    yield f'{path} imports {name}: {part} may import only {", ".join(allowed)}'


def broken_import_root(root: Path) -> Iterator[str]:
    """`__init__.py` in linked folders; such folders without a link in vistok/, and links to nothing."""
    for folder in LINKED:
        if (root / folder).is_dir():
            for path in sorted((root / folder).rglob('__init__.py')):
                yield f'{path.relative_to(root).as_posix()} must not exist: the folder would hide a library of its name'
            link = root / 'vistok' / folder
            if not link.is_symlink() or link.readlink().as_posix() != f'../{folder}':
                yield f'vistok/{folder} is not a link to ../{folder}'
    for link in sorted((root / 'vistok').iterdir()):
        if link.is_symlink() and not link.is_dir():
            yield f'vistok/{link.name} links to nothing'


def long_files(root: Path) -> Iterator[str]:
    """Python files that are too long, and exceptions that are not needed."""
    lines = {
        p.relative_to(root).as_posix(): len(p.read_text().splitlines())
        for p in project_files(root)
        if p.suffix == '.py'
    }
    for path, count in lines.items():
        if count > MOST_LINES and path not in LONGER_FOR_A_REASON:
            yield f'{path} has {count} lines, more than {MOST_LINES}'


def shadowing_scripts(root: Path) -> Iterator[str]:
    """Scripts that would be imported instead of a library, because their folder comes first on `sys.path`."""
    taken = {*sys.stdlib_module_names, *importlib.metadata.packages_distributions(), 'torch', 'tensorflow', 'vistok'}
    for path in sorted((root / 'launch').glob('*.py')):
        if path.stem in taken:
            yield f'launch/{path.name} hides the library {path.stem}'


def commands_that_do_the_work(root: Path) -> Iterator[str]:
    """Commands that reach behind the public API, that are long, or that anything but a command imports."""
    for path, tree in modules(root):
        if re.fullmatch(r'launch/\w+\.py', path):
            for name in imported(tree):
                if name.startswith('vistok.') and not name.startswith('vistok.launch.shared'):
                    yield f'{path} imports {name}: commands use the public API, import vistok'
            for node in tree.body:
                if isinstance(node, ast.FunctionDef) and node.name == 'main':
                    count = (node.end_lineno or 0) - node.lineno + 1
                    if count > MOST_LINES_OF_MAIN:
                        yield f'{path}: main has {count} lines, more than {MOST_LINES_OF_MAIN}'
        elif not path.startswith(('launch/', 'tests/')):
            for name in imported(tree):
                if name.startswith('vistok.launch'):
                    yield f'{path} imports {name}: nothing depends on commands'


def vague_names(root: Path) -> Iterator[str]:
    """Files and folders whose name says nothing."""
    for path in project_files(root):
        below = path.relative_to(root)
        if any(VAGUE_NAME.fullmatch(part) for part in (*below.parts[:-1], below.stem)):
            yield f'{below.as_posix()}: name it after what it does'


def machine_paths(root: Path) -> Iterator[str]:
    """Paths that exist on somebody's machine only."""
    for path in project_files(root):
        data = path.read_bytes()
        if b'\0' not in data:
            for number, line in enumerate(data.decode('utf-8', errors='replace').splitlines(), 1):
                if found := MACHINE_PATH.search(line):
                    yield f'{path.relative_to(root).as_posix()}:{number} holds a path of one machine: {found[0]}…'


def modules_without_docstring(root: Path) -> Iterator[str]:
    """Modules that do not say what they are for."""
    for path, tree in modules(root):
        if not ast.get_docstring(tree):
            yield f'{path} has no docstring'


def layers_with_one_of_our_own(root: Path) -> Iterator[str]:
    """Layers of flax that depend on the layout of devices or whose variance cancels, and the switch for the latter."""
    for path, tree in modules(root):
        if part_of(path) is None:
            continue
        used = [name.rpartition('.')[2] for name in imported(tree) if name.startswith('flax.linen.')]
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) in ('nn', 'flax.linen', 'linen'):
                used.append(node.attr)
            if isinstance(node, ast.keyword) and node.arg == 'use_fast_variance':
                yield f'{path}:{node.value.lineno} chooses the variance: take a layer of vistok.networks.norms'
        for name in used:
            instead, places = OWN_LAYERS.get(name, ('', (path,)))
            if path not in places:
                yield f'{path} uses nn.{name}: take {instead}'


CHECKS = [
    layers_with_one_of_our_own,
    imports_against_the_direction,
    broken_import_root,
    long_files,
    shadowing_scripts,
    commands_that_do_the_work,
    vague_names,
    machine_paths,
    modules_without_docstring,
]


@pytest.mark.parametrize('check', CHECKS)
def test_the_tree_keeps_the_rule(check):
    assert list(check(ROOT)) == []


def test_exceptions_for_long_files_are_still_needed():
    for path in LONGER_FOR_A_REASON:
        assert len((ROOT / path).read_text().splitlines()) > MOST_LINES


def make_tree(root, files):
    for name, text in {'vistok/__init__.py': '"""Root."""', **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text if not name.endswith('.py') or text.startswith('"""') else f'"""Says why."""\n{text}')
    for folder in LINKED:
        if (root / folder).is_dir():
            (root / 'vistok' / folder).symlink_to(f'../{folder}')
    return root


SOUND = {
    'vistok/networks/conv.py': 'import numpy\nfrom vistok.errors import UserError\n',
    'vistok/training/loop.py': 'from vistok.networks.conv import Conv\n',
    'vistok/data/images/folder.py': 'from vistok.files import write\n',
    'tokenizers/vqgan.py': 'from vistok.networks import conv\nfrom vistok.tokenizers.tokenizer import Tokens\n',
    'generators/ar.py': 'import vistok.networks.conv\nfrom vistok.tokenizers.tokenizer import Tokens\n',
    'compression/codec.py': 'from vistok.generators.ar import step\nfrom vistok.tokenizers import tokenizer\n',
    'configs/vqgan.py': 'from ml_collections import ConfigDict\nfrom vistok.configs.base import tokenizer\n',
    'vistok/experiments/run.py': 'from vistok.compression import codec\nfrom vistok.tokenizers import vqgan\n',
    'launch/train.py': 'import vistok\nfrom vistok.launch.shared import flags\ndef main():\n    vistok.train()\n',
    'launch/shared/flags.py': 'from vistok.errors import UserError\n',
    'vistok/cli.py': 'import vistok.experiments.run\n',
    'docs/data.md': 'See ~/data, $HOME/tmp/x and https://example.org/work/more.',
}


@pytest.mark.parametrize('check', CHECKS)
def test_a_sound_tree_passes(tmp_path, check):
    assert list(check(make_tree(tmp_path, SOUND))) == []


DIRECTION = imports_against_the_direction
BROKEN = [
    (DIRECTION, 'vistok/networks/a.py', 'def f():\n    from vistok.tokenizers import vqgan\n', 'networks may import'),
    (DIRECTION, 'vistok/training/a.py', 'from vistok.data.images import folder\n', 'training may import only'),
    (DIRECTION, 'vistok/losses/a.py', 'from vistok.data.images import folder\n', 'losses may import only'),
    (DIRECTION, 'vistok/errors.py', 'import vistok.files\n', 'errors may import only errors'),
    (DIRECTION, 'tokenizers/a.py', 'import vistok.launch.train\n', 'tokenizers may import only'),
    (DIRECTION, 'vistok/experiments/a.py', 'import vistok.launch.train\n', 'experiments may import only'),
    (DIRECTION, 'generators/a.py', 'from vistok.tokenizers import vqgan\n', 'generators may import only'),
    (DIRECTION, 'generators/a.py', 'from vistok.tokenizers.vqgan import VQGAN\n', 'generators may import'),
    (DIRECTION, 'compression/a.py', 'from vistok import tokenizers\n', 'compression may import only'),
    (DIRECTION, 'configs/a.py', 'from vistok import errors\n', 'configs may import only configs'),
    (DIRECTION, 'tests/test_a.py', 'from tokenizers.vqgan import VQGAN\n', 'write vistok.tokenizers.vqgan'),
    (DIRECTION, 'vistok/networks/a.py', 'from . import conv\n', 'write the full name'),
    (DIRECTION, 'vistok/common/a.py', 'from vistok import errors\n', 'stands on no floor'),
    (broken_import_root, 'tokenizers/nn/__init__.py', '', 'tokenizers/nn/__init__.py must not exist'),
    (long_files, 'tests/test_long.py', 'x = 1\n' * 500, 'tests/test_long.py has 501 lines'),
    (shadowing_scripts, 'launch/tokenize.py', '', 'hides the library tokenize'),
    (shadowing_scripts, 'launch/optax.py', '', 'hides the library optax'),
    (commands_that_do_the_work, 'launch/a.py', 'from vistok.experiments import run\n', 'commands use the public API'),
    (commands_that_do_the_work, 'launch/a.py', 'def main():\n' + '    x = 1\n' * 40, 'main has 41 lines'),
    (commands_that_do_the_work, 'benchmarks/a.py', 'from vistok.launch import train\n', 'nothing depends on commands'),
    (commands_that_do_the_work, 'vistok/cli.py', 'import vistok.launch.train\n', 'nothing depends on commands'),
    (layers_with_one_of_our_own, 'tokenizers/a.py', 'y = nn.LayerNorm()(x)\n', 'networks.norms.LayerNorm'),
    (layers_with_one_of_our_own, 'generators/a.py', 'norm = functools.partial(nn.GroupNorm, 8)\n', 'norms.GroupNorm'),
    (layers_with_one_of_our_own, 'generators/a.py', 'y = nn.Dropout(0.1)(x)\n', 'networks.dropout.Dropout'),
    (layers_with_one_of_our_own, 'generators/a.py', 'from flax.linen import Dropout\n', 'networks.dropout.Dropout'),
    (layers_with_one_of_our_own, 'vistok/networks/a.py', 'Norm(use_fast_variance=True)\n', 'chooses the variance'),
    (vague_names, 'vistok/utils.py', '', 'vistok/utils.py'),
    (vague_names, 'vistok/image_utils/blur.py', '', 'vistok/image_utils/blur.py'),
    (vague_names, 'tests/misc.py', '', 'tests/misc.py'),
    (machine_paths, 'docs/run.md', 'first\ncd "/' + 'home/me/vistok"', 'docs/run.md:2'),
    (machine_paths, 'tests/test_a.py', 'PATH = "/' + 'tmp/x"', 'tests/test_a.py:2'),
]


@pytest.mark.parametrize(('check', 'name', 'text', 'complaint'), BROKEN)
def test_a_broken_tree_is_caught(tmp_path, check, name, text, complaint):
    found = list(check(make_tree(tmp_path, SOUND | {name: text})))
    assert len(found) == 1
    assert complaint in found[0]


def test_a_module_without_docstring_is_caught(tmp_path):
    root = make_tree(tmp_path, SOUND)
    (root / 'launch' / 'silent.py').write_text('x = 1\n')
    assert list(modules_without_docstring(root)) == ['launch/silent.py has no docstring']


def test_a_folder_without_link_and_a_link_without_folder_are_caught(tmp_path):
    root = make_tree(tmp_path, SOUND)
    (root / 'vistok' / 'configs').unlink()
    (root / 'vistok' / 'gone').symlink_to('../gone')
    assert list(broken_import_root(root)) == [
        'vistok/configs is not a link to ../configs',
        'vistok/gone links to nothing',
    ]
