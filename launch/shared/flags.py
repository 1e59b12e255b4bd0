"""Flags of a command: their definitions, their earlier names, and their help."""

import os
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from vistok.errors import UserError

OldNames = Sequence[str] | Mapping[str, Callable[[str], str]]
"""Earlier names of a flag; as a mapping, with what their values are now."""
_WIDTH = 100


class Flags:
    """Flags and positional arguments of one command.

    Words are joined by underscores or by dashes.  A flag by an earlier name is still understood, with a notice on
    standard error.

    Args:
      description: docstring of the command; its first line is shown by `vistok --help`.
      arguments: names of the positional arguments, for messages.
      optional: names of those that may be left out.
    """

    def __init__(self, description: str | None, arguments: Sequence[str] = (), optional: Sequence[str] = ()) -> None:
        self.description = description or ''
        self.arguments, self.optional = tuple(arguments), tuple(optional)
        self._values = flags.FlagValues()
        self._renamed: dict[str, tuple[str, Callable[[str], str]]] = {}
        self._may_be_empty: set[str] = set()
        self._config: ConfigFlag | None = None
        self.texts: dict[str, str] = {}  # help of every flag

    def string(
        self, name: str, default: str | None, help: str, *, old: OldNames = (), may_be_empty: bool = False
    ) -> 'Flag':
        """Defines a flag that holds a string; `~/` at its beginning is the home folder, also where no shell sees it."""
        if may_be_empty or default == '':
            self._may_be_empty.add(name)
        return self._define(flags.DEFINE_string, name, default, help, old, convert=lambda text: text and _expand(text))

    def integer(
        self, name: str, default: int | None, help: str, *, old: OldNames = (), least: int | None = None
    ) -> 'Flag':
        """Defines a flag that holds an integer, not below `least`."""
        return self._define(flags.DEFINE_integer, name, default, help, old, lower_bound=least)

    def number(self, name: str, default: float | None, help: str, *, old: OldNames = ()) -> 'Flag':
        """Defines a flag that holds a floating-point number."""
        return self._define(flags.DEFINE_float, name, default, help, old)

    def switch(self, name: str, help: str, *, old: OldNames = ()) -> 'Flag':
        """Defines a flag that is off unless it is given: `--name`, or `--noname`."""
        return self._define(flags.DEFINE_bool, name, False, help, old)

    def choice(
        self, name: str, default: str | None, choices: Sequence[str], help: str, *, old: OldNames = ()
    ) -> 'Flag':
        """Defines a flag that holds one of several strings."""
        return self._define(flags.DEFINE_enum, name, default, help, old, enum_values=list(choices))

    def strings(self, name: str, default: Sequence[str] | None, help: str, *, old: OldNames = ()) -> 'Flag':
        """Defines a flag that holds strings, given several times or joined by commas."""
        return self._define(flags.DEFINE_multi_string, name, default, help, old, convert=_split)

    def numbers(self, name: str, default: Sequence[float] | None, help: str, *, old: OldNames = ()) -> 'Flag':
        """Defines a flag that holds numbers, joined by commas."""
        given = None if default is None else [str(number) for number in default]
        return self._define(flags.DEFINE_multi_string, name, given, help, old, convert=_numbers)

    def config(self, help: str) -> 'ConfigFlag':
        """Defines `--config=NAME`, with overrides of its values: `--config.train.steps=500`."""
        self.texts['config'] = help
        self._config = ConfigFlag(flags.DEFINE_string('config', None, help, flag_values=self._values))
        return self._config

    def model(self, help: str, *, old: OldNames = ('run', 'weights')) -> 'Flag':
        """Defines the flag `--model=PATH`."""
        return self.string('model', None, help, old=old)

    def out(self, help: str, *, old: OldNames = ()) -> 'Flag':
        """Defines the flag `--out=PATH`."""
        return self.string('out', None, help, old=old)

    def seed(self) -> 'Flag':
        """Defines the flag `--seed=NUMBER`."""
        return self.integer('seed', 0, 'Seed of the random number generator.')

    def force(self) -> 'Flag':
        """Defines the flag `--force`."""
        return self.switch('force', 'Replaces files that exist.')

    def checkpoint(self) -> 'Flag':
        """Defines the flag `--checkpoint=STEP`."""
        return self.string('checkpoint', 'latest', "Checkpoint of a run folder: 'latest', 'best', or a step.")

    def data_dir(self) -> 'Flag':
        """Defines the flag `--data_dir=FOLDER`."""
        return self.string(
            'data_dir', None, 'Folder of TFDS datasets; default: $TFDS_DATA_DIR or ~/tensorflow_datasets.'
        )

    def process_count(self, default: int | None) -> 'Flag':
        """Defines the flag `--process_count=NUMBER`."""
        return self.integer('process_count', default, 'Number of processes that share the work.')

    def process_id(self, default: int | None) -> 'Flag':
        """Defines the flag `--process_id=NUMBER`."""
        return self.integer('process_id', default, 'Number of this process, from 0.')

    @staticmethod
    def require(flag: Any, message: str) -> Any:
        """Returns the value of a flag that must be given, or raises a UserError with the message."""
        if not flag.value:
            raise UserError(message)
        return flag.value

    def parse(self, arguments: Sequence[str]) -> list[str]:
        """Reads the flags, and returns the positional arguments.

        Raises:
          UserError: a flag is unknown or cannot have its value, or there are too many or too few arguments.
        """
        for name in self._values:  # a process may execute a command twice
            self._values[name].unparse()
        named = list(self._now_named(arguments))
        if self._config is not None:
            self._config.loaded = None
            named = self._config.read(named)
        try:
            positional = self._values(['vistok', *named])[1:]
        except (flags.Error, ValueError) as error:
            raise UserError(' '.join(str(error).split())) from error
        self._refuse_empty(positional)
        if not 0 <= len(positional) - len(self.arguments) <= len(self.optional):
            expected = self._arguments() or 'none (flags are written --name=value)'
            raise UserError(f'expected arguments: {expected}; got: {" ".join(positional) or "none"}')
        return positional

    def _refuse_empty(self, positional: Sequence[str]) -> None:
        """Raises UserError for an empty value, as an unset variable of a shell gives: as a path it is this folder."""
        for name in self._names():
            flag = self._values[name]
            parts = flag.value if isinstance(flag.value, list) else [flag.value]
            if flag.present and name not in self._may_be_empty and not any(str(part).strip(',') for part in parts):
                raise UserError(f'--{name} is empty; give it a value or leave it out')
        if '' in positional:
            raise UserError(f'argument {list(positional).index("") + 1} is empty')

    def help(self, program: str) -> str:
        """Returns what `--help` prints."""
        usage = ' '.join(filter(None, ['usage:', program, self._arguments(), '[--flag=value ...]']))
        lines = [usage, '', self.description.strip(), '', 'flags:']
        for name in self._names():
            flag = self._values[name]
            default = '' if flag.default in (None, False, '') else f'  (default: {flag.default_as_str})'
            lines.append(f'  --{name}{default}')
            lines += textwrap.wrap(self.texts[name], _WIDTH, initial_indent=' ' * 6, subsequent_indent=' ' * 6)
        return '\n'.join(lines)

    def old_names(self) -> dict[str, str]:
        """Returns today's name of every flag that had another one."""
        return {old: name for old, (name, _) in self._renamed.items()}

    def _define(
        self,
        define: Any,
        name: str,
        default: Any,
        help: str,
        old: OldNames,
        convert: Callable[[Any], Any] = lambda value: value,
        **options: Any,
    ) -> 'Flag':
        self.texts[name] = help
        given = old if isinstance(old, Mapping) else dict.fromkeys(old, str)
        self._renamed |= {earlier: (name, change) for earlier, change in given.items()}
        return Flag(define(name, default=default, help=help, flag_values=self._values, **options), convert)

    def _names(self) -> list[str]:
        return [name for name in self._values if len(name) > 1]

    def _arguments(self) -> str:
        return ' '.join([*(f'<{name}>' for name in self.arguments), *(f'[{name}]' for name in self.optional)])

    def _now_named(self, arguments: Sequence[str]) -> Iterator[str]:
        """Yields the arguments with today's names of the flags."""
        known = {*self._names(), *self._renamed}
        change_next: Callable[[str], str] | None = None
        for argument in arguments:
            if change_next is not None:
                yield change_next(argument)
                change_next = None
                continue
            match = re.fullmatch(r'--?(no)?([a-z][\w-]*)(=.*)?', argument, re.DOTALL)
            name = match[2].replace('-', '_') if match else ''
            if match and match[1] and f'no{name}' in known:  # no negation but a name such as 'note'
                match, name = re.fullmatch(r'--?()([a-z][\w-]*)(=.*)?', argument, re.DOTALL), f'no{name}'
            if match is None or name not in known:
                yield argument
                continue
            now, change = self._renamed.get(name, (name, str))
            if now != name:
                print(f'note: --{name} is now called --{now}', file=sys.stderr)
            if match[3] is None:
                change_next = None if self._values[now].boolean else change
                yield f'--{match[1] or ""}{now}'
            else:
                yield f'--{match[1] or ""}{now}={change(match[3][1:])}'


class Flag:
    """Flag of a command.

    Args:
      holder: of its value.
      convert: makes of the value what the command reads.
    """

    def __init__(self, holder: flags.FlagHolder[Any], convert: Callable[[Any], Any] = lambda value: value) -> None:
        self._holder, self._convert = holder, convert

    @property
    def value(self) -> Any:
        """Value that was given, or the default."""
        return self._convert(self._holder.value)


class ConfigFlag(Flag):
    """Config of an experiment, with the overrides of the command line."""

    loaded: Any = None

    @property
    def value(self) -> Any:
        """Config with its overrides; None if none was named."""
        return self.loaded

    @property
    def name(self) -> str:
        """Name or path of the config as it was given."""
        return self._holder.value or ''

    @property
    def default_workdir(self) -> Path:
        """Run folder for the config: 'runs/fqgan-triple' for 'fqgan:triple'."""
        from vistok.experiments import config_files

        return config_files.default_workdir(self.name, self.loaded)

    def read(self, arguments: list[str]) -> list[str]:
        """Loads the config that the arguments name, and returns the arguments without the overrides."""
        for i, argument in enumerate(arguments):
            if argument.startswith('--config='):
                return self._load(argument.partition('=')[2], arguments)
            if argument == '--config' and i + 1 < len(arguments):
                return self._load(arguments[i + 1], arguments)
        return arguments

    def _load(self, name: str, arguments: list[str]) -> list[str]:
        from vistok.experiments import config_files  # only now, so that help is quick

        loaded = config_files.load_config(name)
        others = config_files.parse_overrides(loaded, arguments)
        self.loaded = loaded.lock()
        return others


def _split(given: Sequence[str] | None) -> list[str] | None:
    """Splits values that are joined by commas; None without any."""
    return None if given is None else [_expand(part) for text in given for part in text.split(',') if part]


def _expand(text: str) -> str:
    """Puts the home folder in the place of `~` at the beginning of a path."""
    return os.path.expanduser(text) if text == '~' or text.startswith('~/') else text


def _numbers(given: Sequence[str] | None) -> list[int | float] | None:
    """Reads numbers that are joined by commas; None without any."""
    parts = _split(given)
    return None if parts is None else [_number(part) for part in parts]


def _number(text: str) -> int | float:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    raise UserError(f'{text!r} is no number')
