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

# What a folder may import of this project, apart from itself.
MAY_IMPORT = {
    'common': (),
    'tokenizers': ('common',),
    'generators': ('common', 'tokenizers.tokenizer', 'tokenizers.trained'),
    'compression': ('common', 'generators', 'tokenizers.tokenizer', 'tokenizers.trained'),
    'launch': ('common', 'tokenizers', 'generators', 'compression', 'configs'),
    'configs': (),
}
MOST_LINES = 500
LONGER_FOR_A_REASON: dict[str, str] = {}  # path -> reason
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


def imports_against_the_direction(root: Path) -> Iterator[str]:
    """Imports that point up, that reach for a concrete tokenizer, or that bypass `tesserax`."""
    for path, tree in modules(root):
        folder = path.split('/')[0]
        for name in imported(tree):
            top, *rest = name.split('.')
            if top in MAY_IMPORT:
                yield f'{path} imports {name}: write tesserax.{name}'
            elif top == '' and folder in MAY_IMPORT:
                yield f'{path} imports {name}: write the full name'
            elif top == 'tesserax' and folder in MAY_IMPORT:
                target = '.'.join(rest)
                allowed = (folder, *MAY_IMPORT[folder])
                if not any(target == prefix or target.startswith(prefix + '.') for prefix in allowed):
                    yield f'{path} imports {name}: {folder} may import only {", ".join(allowed)}'


def broken_import_root(root: Path) -> Iterator[str]:
    """`__init__.py` in real folders; real folders without a link in tesserax/, and links to nothing."""
    for folder in MAY_IMPORT:
        if (root / folder).is_dir():
            for path in sorted((root / folder).rglob('__init__.py')):
                yield f'{path.relative_to(root).as_posix()} must not exist: the folder would hide a library of its name'
            link = root / 'tesserax' / folder
            if not link.is_symlink() or link.readlink().as_posix() != f'../{folder}':
                yield f'tesserax/{folder} is not a link to ../{folder}'
    for link in sorted((root / 'tesserax').iterdir()):
        if link.is_symlink() and not link.is_dir():
            yield f'tesserax/{link.name} links to nothing'


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
    taken = {*sys.stdlib_module_names, *importlib.metadata.packages_distributions(), 'torch', 'tensorflow', 'tesserax'}
    for path in sorted((root / 'launch').glob('*.py')):
        if path.stem in taken:
            yield f'launch/{path.name} hides the library {path.stem}'


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


CHECKS = [
    imports_against_the_direction,
    broken_import_root,
    long_files,
    shadowing_scripts,
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
    for name, text in {'tesserax/__init__.py': '"""Root."""', **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text if not name.endswith('.py') or text.startswith('"""') else f'"""Says why."""\n{text}')
    for folder in MAY_IMPORT:
        if (root / folder).is_dir():
            (root / 'tesserax' / folder).symlink_to(f'../{folder}')
    return root


SOUND = {
    'common/nn/conv.py': 'import numpy\nfrom tesserax.common.errors import UserError\n',
    'tokenizers/vqgan.py': 'from tesserax.common.nn import conv\nfrom tesserax.tokenizers.tokenizer import Tokens\n',
    'generators/ar.py': 'import tesserax.common.nn.conv\nfrom tesserax.tokenizers.tokenizer import Tokens\n',
    'compression/codec.py': 'from tesserax.generators.ar import step\nfrom tesserax.tokenizers import tokenizer\n',
    'configs/vqgan.py': 'from ml_collections import ConfigDict\n',
    'launch/train.py': 'from tesserax.compression import codec\nfrom tesserax.tokenizers import vqgan\n',
    'docs/data.md': 'See ~/data, $HOME/tmp/x and https://example.org/work/more.',
}


@pytest.mark.parametrize('check', CHECKS)
def test_a_sound_tree_passes(tmp_path, check):
    assert list(check(make_tree(tmp_path, SOUND))) == []


BROKEN = [
    (
        imports_against_the_direction,
        'common/a.py',
        'def f():\n    from tesserax.tokenizers import vqgan\n',
        'may import only common',
    ),
    (imports_against_the_direction, 'tokenizers/a.py', 'import tesserax.launch.cli\n', 'tokenizers may import only'),
    (
        imports_against_the_direction,
        'generators/a.py',
        'from tesserax.tokenizers import vqgan\n',
        'generators may import only',
    ),
    (
        imports_against_the_direction,
        'generators/a.py',
        'from tesserax.tokenizers.vqgan import VQGAN\n',
        'generators may import',
    ),
    (
        imports_against_the_direction,
        'compression/a.py',
        'from tesserax import tokenizers\n',
        'compression may import only',
    ),
    (
        imports_against_the_direction,
        'configs/a.py',
        'from tesserax.common import errors\n',
        'configs may import only configs',
    ),
    (
        imports_against_the_direction,
        'tests/test_a.py',
        'from tokenizers.vqgan import VQGAN\n',
        'write tesserax.tokenizers.vqgan',
    ),
    (imports_against_the_direction, 'common/a.py', 'from . import errors\n', 'write the full name'),
    (broken_import_root, 'common/nn/__init__.py', '', 'common/nn/__init__.py must not exist'),
    (long_files, 'tests/test_long.py', 'x = 1\n' * 500, 'tests/test_long.py has 501 lines'),
    (shadowing_scripts, 'launch/tokenize.py', '', 'hides the library tokenize'),
    (shadowing_scripts, 'launch/optax.py', '', 'hides the library optax'),
    (vague_names, 'common/utils.py', '', 'common/utils.py'),
    (vague_names, 'common/image_utils/blur.py', '', 'common/image_utils/blur.py'),
    (vague_names, 'tests/misc.py', '', 'tests/misc.py'),
    (machine_paths, 'docs/run.md', 'first\ncd "/' + 'home/me/tesserax"', 'docs/run.md:2'),
    (machine_paths, 'tests/test_a.py', 'PATH = "/' + 'tmp/x"', 'tests/test_a.py:2'),
]


@pytest.mark.parametrize(('check', 'name', 'text', 'complaint'), BROKEN)
def test_a_broken_tree_is_caught(tmp_path, check, name, text, complaint):
    found = list(check(make_tree(tmp_path, SOUND | {name: text})))
    assert len(found) == 1
    assert complaint in found[0]


def test_a_module_without_docstring_is_caught(tmp_path):
    root = make_tree(tmp_path, SOUND)
    (root / 'common' / 'silent.py').write_text('x = 1\n')
    assert list(modules_without_docstring(root)) == ['common/silent.py has no docstring']


def test_a_folder_without_link_and_a_link_without_folder_are_caught(tmp_path):
    root = make_tree(tmp_path, SOUND)
    (root / 'tesserax' / 'common').unlink()
    (root / 'tesserax' / 'gone').symlink_to('../gone')
    assert list(broken_import_root(root)) == [
        'tesserax/common is not a link to ../common',
        'tesserax/gone links to nothing',
    ]
