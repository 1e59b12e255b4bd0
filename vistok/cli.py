"""Command `vistok`, which executes the commands of the folder `launch` by name."""

import ast
import importlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import vistok

_PACKAGE = 'vistok.launch'  # imported by name only: the library does not depend on its commands


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Executes `vistok <command> [flags]` and ends the process with the exit code of the command.

    Args:
      arguments: of the command line; None: those that the process was started with.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    if not given:
        print(overview(), file=sys.stderr)
        sys.exit(1)
    command = importlib.import_module(f'{_PACKAGE}.shared.command')
    if given[0] in ('--help', '-h', '-help', 'help'):
        command.print_text(overview())
        sys.exit(0)
    if given[0] == '--version':
        command.print_text(f'vistok {vistok.__version__}')
        sys.exit(0)
    name, known = given[0].replace('-', '_'), commands()
    if name not in known:
        from vistok.experiments.config_files import suggest

        print(f'error: there is no command {given[0]!r}{suggest(name, known)}', file=sys.stderr)
        sys.exit(1)
    module = importlib.import_module(f'{_PACKAGE}.{name}')
    sys.exit(command.execute(module.main, module.FLAGS, given[1:]))


def commands() -> dict[str, str]:
    """Returns the description of every command, by name: the first line of its docstring."""
    spec = importlib.util.find_spec(_PACKAGE)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    files = {path.stem: path for folder in folders for path in sorted(Path(folder).glob('*.py'))}
    return {name: _first_line(path) for name, path in files.items()}


def overview() -> str:
    """Returns what `vistok --help` prints."""
    described = commands()
    width = max(map(len, described), default=0)
    lines = [f'  {name:{width}}  {description}' for name, description in described.items()]
    return '\n'.join(
        [
            'usage: vistok <command> [arguments] [--flag=value ...]',
            '',
            'commands:',
            *lines,
            '',
            'vistok <command> --help lists the flags of a command; vistok --version prints the version.',
        ]
    )


def _first_line(path: Path) -> str:
    return (ast.get_docstring(ast.parse(path.read_text('utf-8'))) or '').partition('\n')[0]
