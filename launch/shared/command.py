"""Execution of a command: its flags are parsed, and a user's mistake is answered in one line."""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from absl import flags, logging

import vistok
from vistok.launch.shared.flags import Flags

_DEBUG = 'VISTOK_DEBUG'  # environment variable: 1 shows the traceback of a user's mistake too


def run(main: Callable[..., int | None], own: Flags, arguments: Sequence[str] | None = None) -> NoReturn:
    """Executes a command and ends the process with its exit code.

    Args:
      main: called with the values of the positional arguments; gives the exit code, where None means 0.
      own: flags of the command.
      arguments: of the command line; None: those that the process was started with.
    """
    sys.exit(execute(main, own, sys.argv[1:] if arguments is None else arguments))


def execute(main: Callable[..., int | None], own: Flags, arguments: Sequence[str]) -> int:
    """Executes a command and returns its exit code.

    A `UserError` and an `OSError` are answered with one line on standard error and exit code 1, unless the environment
    variable VISTOK_DEBUG is 1.  All other exceptions leave this function.

    Args:
      main: see `run`.
      own: flags of the command.
      arguments: of the command line.
    """
    given = set(arguments[: list(arguments).index('--')] if '--' in arguments else arguments)
    if given & {'--help', '-h', '-help', '--helpfull', '--helpshort'}:
        print_text(own.help(program()))
        return 0
    if '--version' in given:
        print_text(f'vistok {vistok.__version__}')
        return 0
    if not flags.FLAGS.is_parsed():  # libraries read flags of their own
        flags.FLAGS(['vistok'])
    logging.use_absl_handler()
    logging.set_verbosity(logging.WARNING)  # Orbax tells every step of a save at the level below
    try:
        return main(*own.parse(arguments)) or 0
    except KeyboardInterrupt:
        print('error: interrupted', file=sys.stderr)
        return 130
    except (vistok.UserError, OSError) as error:
        if os.environ.get(_DEBUG) == '1':
            raise
        print(f'error: {_one_line(error)}', file=sys.stderr)
        return 1


def print_text(text: str) -> None:
    """Prints a text to a reader who may stop before its end, as `head` does."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the interpreter tries again at its end


def program() -> str:
    """Returns how this process was started, for the help: 'python launch/train.py' or 'vistok train'."""
    started = Path(sys.argv[0] if sys.argv else 'vistok')
    if started.suffix == '.py' and started.stem != '__main__':
        return f'python {started}'
    return ' '.join(['vistok', *sys.argv[1:2]])


def _one_line(error: Exception) -> str:
    text = str(error)
    if isinstance(error, OSError) and error.strerror and error.filename:
        text = f'{error.strerror}: {error.filename}'
    return ' '.join(text.split()) or type(error).__name__
