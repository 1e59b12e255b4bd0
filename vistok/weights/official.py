"""Importers and exporters of official weights: sizes read from the shapes, rules, and the resulting model."""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vistok.weights.rules import ConversionError, Network, Rule, StateDict, to_ours, variable_shapes
from vistok.weights.rules import to_official as apply_backwards


@dataclasses.dataclass(frozen=True)
class Official:
    """Importer and exporter of one kind of official weights.

    Attributes:
      model: builds the model with the sizes of the given weights.
      import_rules: returns the rules for the given weights.
      export_rules: returns the rules for our variables.
      ignored: returns patterns of entries that the model leaves out.
      shapes: returns the shapes of the model's variables.
      override: returns the model with other arguments.
      wrap: builds the result from the model, its variables and the names of ignored entries.
      defaults: returns values of entries that official weights may lack, by official name.
      normalize_names: renames the entries to the names that the rules expect.
      inside: other models whose entries such files may hold too: the prefix of their names and their importer, by the
        collection of variables that they become.
      attach: puts the models found inside into the result.
    """

    model: Callable[[StateDict], Any]
    import_rules: Callable[[StateDict], Sequence[Rule]]
    export_rules: Callable[[Mapping[str, Any]], Sequence[Rule]]
    ignored: Callable[[Any], Sequence[str]]
    shapes: Callable[[Any], Mapping[str, Any]]
    override: Callable[..., Any] = nn.Module.clone
    wrap: Callable[[Any, dict[str, Any], tuple[str, ...]], Any] = Network
    defaults: Callable[[Any], StateDict] = lambda model: {}
    normalize_names: Callable[[StateDict], StateDict] = dict
    inside: Mapping[str, tuple[str, 'Official']] = dataclasses.field(default_factory=dict)
    attach: Callable[[Any, dict[str, Any]], Any] = lambda result, inside: result

    def read(self, state_dict: StateDict, **arguments: Any) -> Any:
        """Builds a model with official weights.

        Args:
          state_dict: arrays by official name, in PyTorch's layouts.
          **arguments: model arguments that override those read from the weights.

        Raises:
          ConversionError: the weights do not fit.
        """
        state_dict = self.normalize_names(state_dict)
        model = self.override(self.model(state_dict), **arguments)
        state_dict = {**self.defaults(model), **state_dict}
        converted = to_ours(self.import_rules(state_dict), state_dict, self.shapes(model), self.ignored(model))
        result = self.wrap(model, jax.tree.map(jnp.asarray, converted.variables), converted.ignored)
        return self.attach(result, self._read_inside(state_dict))

    def _read_inside(self, state_dict: StateDict) -> dict[str, Any]:
        """Reads the other models of a file, as far as it holds any, by collection."""
        found = {}
        for collection, (prefix, importer) in self.inside.items():
            entries = {name.removeprefix(prefix): x for name, x in state_dict.items() if name.startswith(prefix)}
            if entries:
                found[collection] = importer.read(entries)
        return found

    def write(self, variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Converts our variables to an official state dict.

        Raises:
          ConversionError: these are variables of another model.
        """
        own = {name: collection for name, collection in variables.items() if name not in self.inside}
        written = apply_backwards(self.export_rules(own), own)
        for collection, (prefix, exporter) in self.inside.items():
            if collection in variables:
                entries = exporter.write(variables[collection])
                written |= {prefix + name: x for name, x in entries.items()}
        return written


def infer_shapes(inputs: Callable[[Any], tuple[Any, ...]], **options: Any) -> Callable[[Any], Mapping[str, Any]]:
    """Returns a function that infers a module's variable shapes for input arrays of the shapes `inputs(module)`."""
    return lambda module: variable_shapes(module, *inputs(module), **options)


_Entry = TypeVar('_Entry')


def find_entry(table: Mapping[str, _Entry], name: str) -> _Entry:
    """Looks up an entry of a table by name.

    Raises:
      ConversionError: an unknown name.
    """
    if name not in table:
        raise ConversionError(f'unknown name {name!r}; known: {", ".join(table)}')
    return table[name]


def read_shape(state_dict: StateDict, name: str, axes: int | None = None) -> tuple[int, ...]:
    """Reads the shape of an entry, which determines sizes of the model.

    Raises:
      ConversionError: there is no such entry, or not with so many axes.
    """
    if name not in state_dict:
        raise ConversionError(
            f'these are weights of another model: there is no {name!r} among {len(state_dict)} entries '
            f'such as {next(iter(state_dict), None)!r}'
        )
    shape = np.shape(state_dict[name])
    if len(shape) != (axes or len(shape)):
        raise ConversionError(f'these are weights of another model: {name} has shape {shape}, not {axes} axes')
    return shape


def find_numbers(state_dict: StateDict, pattern: str) -> list[int]:
    """Finds all different numbers that the group of `pattern` captures at the start of names, in order."""
    found = {int(match.group(1)) for name in state_dict if (match := re.match(pattern, name))}
    if found and max(found) > 64:
        raise ConversionError(f'these are weights of another model: there is a part number {max(found)}')
    return sorted(found)
