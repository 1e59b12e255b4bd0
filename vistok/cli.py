"""Runs a script of this folder: flags are parsed, and a user's mistake is answered in one line.

_CONFIG = config_flags.DEFINE_config_file('config')

def main() -> None: ...

if __name__ == '__main__':
    cli.run(main)
"""

import difflib
import dis
import inspect
import os
import re
import runpy
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from absl import app, flags, logging
from ml_collections import ConfigDict
from ml_collections.config_flags.config_flags import is_config_flag

from vistok.errors import UserError

_DEBUG = 'VISTOK_DEBUG'  # environment variable: 1 shows the traceback of a user's mistake too


def run(main: Callable[..., int | None], positional: Sequence[str] = (), optional: Sequence[str] = ()) -> NoReturn:
    """Parses the flags, calls `main`, and ends the process with its exit code (None means 0).

    Before that, every `--config.…` is checked against the config.  A mistake in the flags, a `UserError`, an `OSError`
    and a `ValueError` that this package raises end the process with one line on standard error and exit code 1.
    Anything else, such as an error inside a library, shows its traceback.

    Args:
      main: called with the values of the positional arguments.
      positional: their names, for the error message; most scripts take flags only.
      optional: names of those that may follow; one that is not there is not given to `main`.
    """
    logging.set_verbosity(logging.WARNING)  # Orbax tells every step of a save at the level below
    try:
        app.run(lambda arguments: main(*_expect(arguments[1:], positional, optional)), flags_parser=_parse)
    except KeyboardInterrupt:
        _fail('interrupted', exit_code=130)
    except Exception as error:
        if os.environ.get(_DEBUG) == '1' or not _is_users_mistake(error):
            raise
        _fail(_one_line(error))
    sys.exit(0)


def _fail(message: str, exit_code: int = 1) -> NoReturn:
    print(f'error: {message}', file=sys.stderr)
    sys.exit(exit_code)


def _is_users_mistake(error: Exception) -> bool:
    if isinstance(error, UserError | OSError):
        return True
    if not isinstance(error, ValueError):
        return False
    *_, innermost = _tracebacks(error)
    code = innermost.tb_frame.f_code
    module = innermost.tb_frame.f_globals.get('__name__', '')
    # Only where our own line says `raise` is the text a sentence for the user; `int('x')` of ours would be a bug.
    raised = code.co_code[innermost.tb_lasti] == dis.opmap['RAISE_VARARGS']
    return raised and (module == '__main__' or module.startswith('vistok.'))


def _tracebacks(error: Exception) -> Iterator[types.TracebackType]:
    """From the outermost frame to the one that raised."""
    entry = error.__traceback__
    while entry is not None:
        yield entry
        entry = entry.tb_next


def _one_line(error: Exception) -> str:
    text = str(error)
    if isinstance(error, OSError) and error.strerror and error.filename:
        text = f'{error.strerror}: {error.filename}'
    return ' '.join(text.split()) or type(error).__name__


def _expect(arguments: Sequence[str], positional: Sequence[str], optional: Sequence[str]) -> Sequence[str]:
    if not 0 <= len(arguments) - len(positional) <= len(optional):
        names = [*(f'<{name}>' for name in positional), *(f'[{name}]' for name in optional)]
        expected = ' '.join(names) or 'none (flags are written --name=value)'
        raise UserError(f'expected arguments: {expected}; got: {" ".join(arguments) or "none"}')
    return arguments


def _parse(argv: Sequence[str]) -> list[str]:
    """Parses all flags; `app.run` calls it."""
    for name in list(flags.FLAGS):
        if is_config_flag(flags.FLAGS[name]):
            check_config(name, argv[1:])
    try:
        return flags.FLAGS([*argv[:1], *map(_underscored, argv[1:])])
    except (flags.Error, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(_one_line(error)) from error


def _underscored(argument: str) -> str:
    """The argument with the flag's own name: `--max-bytes` is `--max_bytes`."""
    written = re.match(r'--?([a-z][\w-]*)', argument)
    known = written[1].replace('-', '_') if written else ''
    return argument.replace(written[1], known, 1) if written and known in flags.FLAGS else argument


def check_config(flag: str, argv: Sequence[str]) -> None:
    """Loads the config that `argv` names, if any, and checks that all overridden keys exist.

    Raises:
      UserError: for the first mistake found.
    """
    located = value_of(flag, argv)
    if located is None:
        return
    config = load_config(located)
    for argument in argv:
        override = re.match(rf'--?(?:no)?{flag}\.([\w.]+)', argument)
        if override:
            _check_key(flag, config, override[1].split('.'))


def value_of(flag: str, argv: Sequence[str]) -> str | None:
    """What `argv` gives for `--flag`, before any parsing; None if it is not there."""
    for i, argument in enumerate(argv):
        if match := re.match(rf'--?{flag}=(.*)', argument):
            return match[1]
        if argument in (f'--{flag}', f'-{flag}') and i + 1 < len(argv):
            return argv[i + 1]
    return None


def load_config(located: str) -> ConfigDict:
    """The config that `get_config` of a Python file returns.

    Args:
      located: 'path/to/file.py', or 'path/to/file.py:variant', where the variant is given to `get_config`.

    Raises:
      UserError: there is no such file, or no such variant in it.
    """
    path, _, variant = located.partition(':')
    if not Path(path).is_file():
        raise UserError(f'no config file {path!r} in {Path.cwd()}{_known_files(Path(path))}')
    get_config: Any = runpy.run_path(path).get('get_config')
    if get_config is None:
        raise UserError(f'{path} is no config file: it has no function get_config')
    arguments = (variant,) if variant else ()
    try:
        inspect.signature(get_config).bind(*arguments)
    except TypeError as error:
        wanted = 'has no variants' if variant else 'needs a variant'
        raise UserError(f'{path} {wanted}, got {located!r}') from error
    try:
        return get_config(*arguments)
    except ValueError as error:
        raise UserError(_one_line(error)) from error


def _known_files(missing: Path) -> str:
    """The config files beside a missing one, as `_suggest` puts it."""
    beside = sorted(missing.parent.glob('*.py')) if missing.parent.is_dir() else []
    return _suggest(str(missing), [str(path) for path in beside if 'def get_config(' in path.read_text('utf-8')])


def _check_key(flag: str, config: ConfigDict, keys: Sequence[str]) -> None:
    node: Any = config
    for depth, key in enumerate(keys):
        parent = '.'.join([flag, *keys[:depth]])
        if not isinstance(node, ConfigDict):
            raise UserError(f'unknown key "{key}" in {parent}: {parent} is the value {node!r} and has no keys')
        if key not in node:
            raise UserError(f'unknown key "{key}" in {parent}{_suggest(key, node.keys())}')
        node = node[key]


def _suggest(wrong: str, known: Iterable[str]) -> str:
    """'; did you mean "x"? known: x, y'; nothing if nothing is known."""
    known = list(known)
    if not known:
        return ''
    close = difflib.get_close_matches(wrong, known, n=1)
    hint = f'did you mean "{close[0]}"? ' if close else ''
    return f'; {hint}known: {", ".join(known)}'
