"""Official weights by name: `vistok.from_official` and `vistok.to_official`."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from vistok.generators.convert.official import OFFICIAL as GENERATORS
from vistok.tokenizers.convert.official import OFFICIAL as TOKENIZERS
from vistok.weights.official import Official, find_entry
from vistok.weights.rules import StateDict


@dataclasses.dataclass(frozen=True)
class WithTokenizer:
    """A generator that decodes while it generates, and whose files may hold its tokenizer.

    Attributes:
      generator: how its own entries are read.
      tokenizer: how those of the tokenizer are.
      prefix: what these begin with.
    """

    generator: Official
    tokenizer: Official
    prefix: str

    def read(self, state_dict: StateDict, **arguments: Any) -> Any:
        """See `Official`; without the tokenizer's entries, a generator without one."""
        trained = self.generator.read(state_dict, **arguments)
        inside = {name.removeprefix(self.prefix): x for name, x in state_dict.items() if name.startswith(self.prefix)}
        if not inside:
            return trained
        tokenizer = self.tokenizer.read(inside)
        return dataclasses.replace(
            trained,
            generator=dataclasses.replace(trained.generator, tokenizer=tokenizer.module),
            variables={**trained.variables, 'tokenizer': tokenizer.variables},
            ignored=tuple(name for name in trained.ignored if not name.startswith(self.prefix)),
            tokenizer=tokenizer,
        )

    def write(self, variables: Mapping[str, Any]) -> dict[str, Any]:
        """See `Official`."""
        own = {name: collection for name, collection in variables.items() if name != 'tokenizer'}
        written = self.generator.write(own)
        if 'tokenizer' in variables:
            inside = self.tokenizer.write(variables['tokenizer'])
            written |= {self.prefix + name: x for name, x in inside.items()}
        return written


OFFICIAL: dict[str, Official | WithTokenizer] = {
    **TOKENIZERS,
    **GENERATORS,
    'addp': WithTokenizer(GENERATORS['addp'], TOKENIZERS['maskgit_vqgan'], 'vqgan.'),
}
"""Everything that `from_official` knows."""


def from_official(name: str, state_dict: StateDict, **arguments: Any) -> Any:
    """A model with official weights.

    Args:
      name: what the weights are of, one of `OFFICIAL`; sizes are read from the shapes.
      state_dict: arrays by official name, in PyTorch's layouts.
      **arguments: of the model, over those read from the weights (`dtype`, `remat`, `entropy_weight`; an FQGAN with
        `teachers=('', '')` drops the heads that predict the teachers' features; a generator's `grid` where the
        weights leave it open).

    Returns:
      A tokenizer with its parameters (`encode`, `decode`), a generator with its (`sample`, `loss`), or a network with
      its variables (call it).

    Raises:
      ConversionError: an unknown name, or weights that do not fit.
    """
    return find_entry(OFFICIAL, name).read(state_dict, **arguments)


def to_official(name: str, variables: Mapping[str, Any]) -> dict[str, Any]:
    """The official state dict of our variables: names and layouts of PyTorch, every value as it is.

    Raises:
      ConversionError: an unknown name, or variables of another model.
    """
    return find_entry(OFFICIAL, name).write(variables)
