"""Conversion rules between official PyTorch weights and ours, applied in both directions and without silent losses.

A rule pairs a name template of the official state dict with a path template of our variables and says how the values
are laid out.  Converting uses each official entry once and fills each of our variables once, with equal shapes; what
does not fit is reported together, in one error.
"""

import dataclasses
import fnmatch
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import numpy as np

from vistok.errors import UserError

StateDict = Mapping[str, np.ndarray]

_SHOWN = 12


class ConversionError(UserError):
    """Error for weights that do not fit the model."""


@dataclasses.dataclass(frozen=True)
class Transform:
    """Pair of inverse layout changes between official arrays and ours.

    Attributes:
      to_ours: one array per source -> our array.
      to_official: our array -> one array, or a tuple of them if the rule has several sources.
    """

    to_ours: Callable[..., np.ndarray]
    to_official: Callable[[np.ndarray], Any]


IDENTITY = Transform(lambda x: x, lambda x: x)
CONV = Transform(
    lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1)
)  # [out, in, h, w], [h, w, in, out]
LINEAR = Transform(lambda x: x.T, lambda x: x.T)  # [out, in], [in, out]; torch's packed in_proj as well
POINTWISE = Transform(lambda x: x[:, :, 0, 0].T, lambda x: x.T[:, :, None, None])  # a 1x1 convolution as a dense layer
CHANNELS = Transform(lambda x: x.reshape(-1), lambda x: x.reshape(1, -1, 1, 1))  # [1, c, 1, 1], [c]


def concatenate_sources(count: int, each: Transform = IDENTITY) -> Transform:
    """Joins `count` official arrays along our last axis, such as separate q, k and v into one `qkv`."""
    return Transform(
        lambda *parts: np.concatenate([each.to_ours(part) for part in parts], axis=-1),
        lambda x: tuple(each.to_official(part) for part in np.split(x, count, axis=-1)),
    )


def stack_layers(count: int, each: Transform = IDENTITY, parts: int = 1) -> Transform:
    """Stacks layers on a new first axis; sources are the `parts` of the first layer, then those of the second, and
    so on.
    """

    def to_official(x: np.ndarray) -> tuple[np.ndarray, ...]:
        layers = [each.to_official(layer) for layer in x]
        return tuple(source for layer in layers for source in (layer if isinstance(layer, tuple) else (layer,)))

    return Transform(
        lambda *sources: np.stack([each.to_ours(*sources[i * parts : (i + 1) * parts]) for i in range(count)]),
        to_official,
    )


@dataclasses.dataclass(frozen=True)
class Rule:
    """Correspondence of one or more official names with one path of ours.

    Templates hold placeholders: `{level}` stands for a number, `{layer:conv1|conv2}` for one of the words.  Both sides
    have the same placeholders, so that each name determines the other.

    Attributes:
      source: official name, or several whose values are joined ('encoder.mid.{i}.conv1.weight').
      target: our path, the collection first ('params/encoder/mid/res_{i}/conv1/kernel').
      transform: layout of the values.
    """

    source: str | tuple[str, ...]
    target: str
    transform: Transform = IDENTITY

    def __post_init__(self) -> None:
        names = _placeholders(self.target)
        for source in self.sources:
            if _placeholders(source) != names:
                raise UserError(f'the placeholders of {source!r} and {self.target!r} differ')

    @property
    def sources(self) -> tuple[str, ...]:
        """Official name templates of the rule."""
        return (self.source,) if isinstance(self.source, str) else self.source


@dataclasses.dataclass(frozen=True)
class ConversionResult:
    """Converted variables, and the official entries that were left out.

    Attributes:
      variables: collections of nested dicts of arrays ('params', where needed 'batch_stats').
      ignored: names of official entries that were knowingly left out.
    """

    variables: dict[str, Any]
    ignored: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Network:
    """Network module with its variables.

    Attributes:
      module: network module.
      variables: variable collections of the module.
      ignored: names of official entries that were knowingly left out.
    """

    module: nn.Module
    variables: dict[str, Any]
    ignored: tuple[str, ...] = ()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Applies the module to inputs."""
        return self.module.apply(self.variables, *args, **kwargs)


def variable_shapes(module: nn.Module, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """Infers the shapes of the module's variables for arguments like `args`, without computing anything."""
    return jax.eval_shape(functools.partial(module.init, **kwargs), jax.random.key(0), *args)


def to_ours(
    rules: Sequence[Rule], state_dict: StateDict, shapes: Mapping[str, Any], ignore: Sequence[str] = ()
) -> ConversionResult:
    """Converts an official state dict to our variables.

    Args:
      rules: conversion rules.
      state_dict: official weights by name; values are copied.
      shapes: nested dict of everything with a shape and a dtype that must be filled (`variable_shapes`).
      ignore: patterns of official names that have no place here (`loss.*`); they win over rules.

    Raises:
      ConversionError: an entry has no rule or two, a variable is filled twice or not at all, or shapes differ.
    """
    targets = flax.traverse_util.flatten_dict(dict(shapes), sep='/')
    ignored = tuple(name for name in state_dict if any(fnmatch.fnmatchcase(name, pattern) for pattern in ignore))
    skipped = set(ignored)
    parts: dict[str, dict[int, str]] = {}  # our path -> the official names that fill it, by their place in the rule
    chosen: dict[str, Rule] = {}
    problems, unknown = [], []
    for name in state_dict:
        if name in skipped:
            continue
        places = [
            (rule, i, _render(rule.target, values))
            for rule in rules
            for i, source in enumerate(rule.sources)
            if (values := _match(source, name)) is not None
        ]
        if len(places) != 1 or places[0][2] not in targets:
            unknown.append(name)
            problems.append(
                f'{name}: {len(places)} rules fit'
                if len(places) > 1
                else f'{name} {_shape(state_dict[name])}: no place'
            )
            continue
        rule, i, path = places[0]
        if chosen.setdefault(path, rule) is not rule:
            problems.append(f'{name}: {path} is filled twice')
        parts.setdefault(path, {})[i] = name

    if unknown and len(parts) * 2 < len(targets):
        wanted = next(iter(_official_names(rules, targets)), None)
        raise ConversionError(
            f'these are weights of another model: {len(parts)} of {len(targets)} variables found, '
            f'there is {unknown[0]!r} where names such as {wanted!r} belong'
        )

    filled = {}
    for path, target in targets.items():
        filling, found = chosen.get(path), parts.get(path, {})
        if filling is None or len(found) < len(filling.sources):
            problems.append(f'{path} {_shape(target)}: nothing given')
            continue
        sources = [np.asarray(state_dict[found[i]]) for i in range(len(filling.sources))]
        label = ', '.join(f'{found[i]} {_shape(source)}' for i, source in enumerate(sources))
        try:
            value = filling.transform.to_ours(*sources)
        except (ValueError, IndexError):
            problems.append(f'{label}: not the layout of {path} {_shape(target)}')
            continue
        if value.shape != tuple(target.shape):
            problems.append(f'{label}: makes {_shape(value)}, {path} is {_shape(target)}')
            continue
        filled[path] = np.array(value, dtype=target.dtype, order='C')
    if problems:
        shown = problems[:_SHOWN] + ([f'... and {len(problems) - _SHOWN} more'] if len(problems) > _SHOWN else [])
        raise ConversionError(f'{len(problems)} entries do not fit:\n  ' + '\n  '.join(shown))
    return ConversionResult(flax.traverse_util.unflatten_dict(filled, sep='/'), ignored)


def to_official(rules: Sequence[Rule], variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Converts our variables to an official state dict; the inverse of `to_ours`, bit for bit.

    Raises:
      ConversionError: a variable has no rule or two, or two of them give one name.
    """
    state_dict: dict[str, np.ndarray] = {}
    problems = []
    for path, value in flax.traverse_util.flatten_dict(dict(variables), sep='/').items():
        places = [(rule, values) for rule in rules if (values := _match(rule.target, path)) is not None]
        if len(places) != 1:
            problems.append(f'{path}: {len(places) or "no"} rules fit')
            continue
        rule, values = places[0]
        arrays = rule.transform.to_official(np.asarray(value))
        for source, array in zip(rule.sources, arrays if isinstance(arrays, tuple) else (arrays,), strict=True):
            name = _render(source, values)
            if name in state_dict:
                problems.append(f'{path}: {name} is written twice')
            state_dict[name] = np.ascontiguousarray(array).reshape(array.shape)
    if problems:
        shown = problems[:_SHOWN] + ([f'... and {len(problems) - _SHOWN} more'] if len(problems) > _SHOWN else [])
        raise ConversionError(f'{len(problems)} variables have no official name:\n  ' + '\n  '.join(shown))
    return state_dict


def _official_names(rules: Sequence[Rule], paths: Mapping[str, Any]) -> list[str]:
    """Returns the official names of our paths."""
    return [
        _render(rule.sources[0], values)
        for path in paths
        for rule in rules
        if (values := _match(rule.target, path)) is not None
    ]


def _shape(x: Any) -> str:
    return '[' + ', '.join(str(n) for n in x.shape) + ']'


_PLACEHOLDER = re.compile(r'\{(\w+)(?::([^}]*))?\}')


def _placeholders(template: str) -> set[str]:
    return {match.group(1) for match in _PLACEHOLDER.finditer(template)}


@functools.cache
def _pattern(template: str) -> re.Pattern[str]:
    pieces, end = [], 0
    for match in _PLACEHOLDER.finditer(template):
        words = match.group(2)
        alternatives = '|'.join(re.escape(word) for word in words.split('|')) if words else r'\d+'
        pieces += [re.escape(template[end : match.start()]), f'(?P<{match.group(1)}>{alternatives})']
        end = match.end()
    return re.compile(''.join([*pieces, re.escape(template[end:])]))


def _match(template: str, name: str) -> dict[str, str] | None:
    """Returns the values of the placeholders if `name` is an instance of `template`, else None."""
    match = _pattern(template).fullmatch(name)
    return None if match is None else match.groupdict()


def _render(template: str, values: Mapping[str, str]) -> str:
    return _PLACEHOLDER.sub(lambda match: values[match.group(1)], template)
