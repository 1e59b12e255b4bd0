"""Starting a run from weights that exist: what fits is taken, what can be resized is resized, the rest stays fresh."""

import dataclasses
import math
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from vistok.errors import UserError
from vistok.networks.positions import resample_positions
from vistok.training.parallel import place


@dataclasses.dataclass(frozen=True)
class Overlaid:
    """Parameters after `overlay`, and what became of each.

    Attributes:
      params: a tree like the fresh one.
      loaded: names whose value was taken.
      resized: names whose value was interpolated to another grid.
      fresh: names that kept their fresh value, with the reason.
      unused: names of given weights that have no place here.
    """

    params: Any
    loaded: tuple[str, ...]
    resized: tuple[str, ...]
    fresh: tuple[str, ...]
    unused: tuple[str, ...]

    def describe(self) -> str:
        """A few lines for people."""
        lines = [f'{len(self.loaded)} loaded, {len(self.resized)} resized, {len(self.fresh)} left fresh']
        for label, names in (('resized', self.resized), ('left fresh', self.fresh), ('not used', self.unused)):
            if names:
                shown = ', '.join(names[:8]) + (f', … ({len(names) - 8} more)' if len(names) > 8 else '')
                lines.append(f'  {label}: {shown}')
        return '\n'.join(lines)


def overlay(fresh: Any, given: Any) -> Overlaid:
    """Puts `given` weights over `fresh` ones, matching by path.

    Learned positions (`.../positions`, `[n, d]` over a square grid) of another grid are interpolated bicubically.

    Raises:
      UserError: nothing fits, so these are weights of another model.
    """
    target = flax.traverse_util.flatten_dict(fresh, sep='/')
    source = flax.traverse_util.flatten_dict(given, sep='/')
    result, loaded, resized, left = {}, [], [], []
    for name, value in target.items():
        weight = source.get(name)
        result[name] = value
        if weight is None:
            left.append(f'{name} (not given)')
        elif weight.shape == value.shape:
            result[name] = jnp.asarray(weight, value.dtype)
            loaded.append(name)
        elif name.endswith('positions') and _is_resizable(weight.shape, value.shape):
            side = math.isqrt(value.shape[0])
            result[name] = resample_positions(jnp.asarray(weight, value.dtype), (side, side))
            resized.append(f'{name} {tuple(weight.shape)} to {tuple(value.shape)}')
        else:
            left.append(f'{name} (given {tuple(weight.shape)}, needed {tuple(value.shape)})')
    if not loaded:
        raise UserError(
            f'none of the {len(source)} given weights fits this model: it has names such as {next(iter(target))!r}, '
            f'they have names such as {next(iter(source), None)!r}'
        )
    unused = sorted(set(source) - set(target))
    return Overlaid(
        flax.traverse_util.unflatten_dict(result, sep='/'), tuple(loaded), tuple(resized), tuple(left), tuple(unused)
    )


def _is_resizable(old: tuple[int, ...], new: tuple[int, ...]) -> bool:
    square = lambda n: math.isqrt(n) ** 2 == n  # noqa: E731
    return len(old) == len(new) == 2 and old[1] == new[1] and square(old[0]) and square(new[0])


def place_like(tree: Any, like: Any) -> Any:
    """Host arrays, laid out as `like` is, in its types."""
    return jax.tree.map(lambda x, target: place(np.asarray(x, target.dtype), target.sharding), tree, like)
