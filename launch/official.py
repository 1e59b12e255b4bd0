"""Official weights by name: `tesserax.from_official` and `tesserax.to_official`."""

from collections.abc import Mapping
from typing import Any

from tesserax.common.convert import StateDict
from tesserax.common.official import named
from tesserax.generators.convert.official import OFFICIAL as GENERATORS
from tesserax.tokenizers.convert.official import OFFICIAL as TOKENIZERS

OFFICIAL = {**TOKENIZERS, **GENERATORS}
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
    return named(OFFICIAL, name).read(state_dict, **arguments)


def to_official(name: str, variables: Mapping[str, Any]) -> dict[str, Any]:
    """The official state dict of our variables: names and layouts of PyTorch, every value as it is.

    Raises:
      ConversionError: an unknown name, or variables of another model.
    """
    return named(OFFICIAL, name).write(variables)
