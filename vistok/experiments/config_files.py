"""Experiment configs, found by name or by path and changed by overrides."""

import difflib
import importlib.util
import inspect
import re
import runpy
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from vistok.errors import UserError

_PACKAGE = 'vistok.configs'


def config(name: str, overrides: Mapping[str, Any] | None = None) -> ConfigDict:
    """Returns the config of an experiment, locked against new keys.

    Args:
      name: a config of the package ('fqgan'), or the path of a Python file with a function `get_config`, which wins;
        either may be followed by variants of it ('fqgan:triple,cifar10').
      overrides: values by dotted key, such as `{'train.steps': 500}`.

    Raises:
      UserError: there is no such config, variant or key, or a value has another type than the one it replaces.
    """
    loaded = load_config(name)
    for key, value in (overrides or {}).items():
        check_key(loaded, key)
        try:
            loaded.update_from_flattened_dict({key: value})
        except (TypeError, ValueError) as error:
            raise UserError(f'config.{key} cannot be {value!r}: {" ".join(str(error).split())}') from error
    return loaded.lock()


def load_config(name: str) -> ConfigDict:
    """Returns the config that `get_config` of a Python file makes, which is executed once.

    Args:
      name: see `config`.

    Raises:
      UserError: there is no such file, or no such variant in it.
    """
    located, _, variant = name.partition(':')
    path = _find(located)
    get_config: Any = runpy.run_path(str(path)).get('get_config')
    if get_config is None:
        raise UserError(f'{located} is no config file: it has no function get_config')
    arguments = (variant,) if variant else ()
    try:
        inspect.signature(get_config).bind(*arguments)
    except TypeError as error:
        wanted = 'has no variants' if variant else 'needs a variant'
        raise UserError(f'{located} {wanted}, got {name!r}') from error
    try:
        return get_config(*arguments)
    except ValueError as error:
        raise UserError(' '.join(str(error).split())) from error


def parse_overrides(loaded: ConfigDict, arguments: Sequence[str]) -> list[str]:
    """Applies the overrides among command-line arguments to a config, in place.

    Args:
      loaded: the config.
      arguments: '--config.key=value', '--config.key value', '--config.key' and '--noconfig.key' for switches, and
        others.

    Returns:
      The other arguments.

    Raises:
      UserError: there is no such key, or a value of it cannot be read.
    """
    overrides, others = [], []
    remaining = iter(arguments)
    for argument in remaining:
        override = re.match(r'--?(no)?config\.([\w.]+)(=?)', argument)
        if override is None:
            others.append(argument)
            continue
        value = check_key(loaded, override[2])
        overrides.append(argument)
        if not (override[1] or override[3] or isinstance(value, bool)):
            overrides.extend([next(remaining, '')])
    values = flags.FlagValues()
    try:
        config_flags.DEFINE_config_dict('config', loaded, flag_values=values, sys_argv=['', *overrides])
        values(['', *overrides])
    except (flags.Error, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(' '.join(str(error).split())) from error
    return others


def default_workdir(name: str, loaded: ConfigDict) -> Path:
    """Returns 'runs/fqgan-triple-cifar10' for 'fqgan:cifar10,triple' and for 'configs/fqgan.py:triple,cifar10'.

    Args:
      name: of the config, with its variants.
      loaded: the config, which holds its variants in the order in which they were merged.
    """
    path, _, variant = name.partition(':')
    merged = loaded.get('variants', variant)
    return Path('runs', '-'.join([Path(path).stem, *filter(None, merged.split(','))]))


def packaged_configs() -> dict[str, Path]:
    """Returns the configs that are part of the package, by name."""
    spec = importlib.util.find_spec(_PACKAGE)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    return {path.stem: path for folder in folders for path in sorted(Path(folder).glob('*.py'))}


def check_key(loaded: ConfigDict, key: str) -> Any:
    """Returns the value of a dotted key.

    Raises:
      UserError: there is no such key; the sentence names the nearest one.
    """
    node: Any = loaded
    keys = key.split('.')
    for depth, part in enumerate(keys):
        parent = '.'.join(['config', *keys[:depth]])
        if not isinstance(node, ConfigDict):
            raise UserError(f'unknown key "{part}" in {parent}: {parent} is the value {node!r} and has no keys')
        if part not in node:
            raise UserError(f'unknown key "{part}" in {parent}{suggest(part, node.keys())}')
        node = node[part]
    return node


def suggest(wrong: str, known: Iterable[str]) -> str:
    """Returns '; did you mean "x"? known: x, y' for a wrong word, or nothing if no words are known."""
    known = list(known)
    if not known:
        return ''
    close = difflib.get_close_matches(wrong, known, n=1)
    hint = f'did you mean "{close[0]}"? ' if close else ''
    return f'; {hint}known: {", ".join(known)}'


def _find(located: str) -> Path:
    path, packaged = Path(located), packaged_configs()
    if path.is_file():
        return path
    # 'configs/fqgan.py' as in a checkout, said where there is none
    name = path.stem if path.parent == Path('configs') and path.suffix == '.py' else located
    if name in packaged:
        return packaged[name]
    if path.suffix == '.py' or '/' in located:
        beside = sorted(path.parent.glob('*.py')) if path.parent.is_dir() else []
        known = [str(file) for file in beside if 'def get_config(' in file.read_text('utf-8')]
        raise UserError(f'no config file {located!r} in {Path.cwd()}{suggest(located, known)}')
    raise UserError(f'no config {located!r}{suggest(located, packaged)}')
