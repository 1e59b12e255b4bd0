"""Non-random initial values of a run: arrays that a model requests, and weights of an earlier model."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from vistok.errors import UserError
from vistok.networks.positions import resample_positions
from vistok.training.parallel import place
from vistok.training.state import Batch, TrainState

Arrays = Mapping[str, np.ndarray]
"""Values by path, 'collection/module/.../name', where the collection is 'params' or one of the model state."""


@dataclasses.dataclass(frozen=True)
class InitialData:
    """Inputs of the initializers of one run.

    Attributes:
      seed: seed of the run.
      image_size: side of the training images in pixels.
      training_views: from a batch size to endless batches of augmented training images.
      tokenizer: the frozen tokenizer of a generator's run (a `TrainedTokenizer`); None for other runs.
      components: variables of the trained models that are parts of this one, by their name in the config.
    """

    seed: int
    image_size: int
    training_views: Callable[[int], Iterator[Batch]]
    tokenizer: Any = None
    components: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)


@runtime_checkable
class Initializer(Protocol):
    """Interface of initializers: makers of initial arrays, listed in the `initializers` of a model's class.

    Attributes:
      option: key of the config that it reads its own settings from; '' for none.
    """

    @property
    def option(self) -> str:
        """Key of the config with its settings, or ''."""

    def arrays(self, model: Any, settings: Any, data: InitialData) -> Arrays:
        """Computes the initial arrays of a fresh model; an empty mapping leaves all values random.

        Raises:
          UserError: a setting or file that does not fit the model.
        """


def with_arrays(state: TrainState, player: str, arrays: Arrays) -> TrainState:
    """Returns a fresh state in which some arrays of one player have the given values, its moving average included.

    Raises:
      UserError: the player has no array at a path, or one of another shape.
    """
    flat = flax.traverse_util.flatten_dict({'params': state.params[player], **state.model_state[player]}, sep='/')
    for path, value in arrays.items():
        if path not in flat or np.shape(value) != flat[path].shape:
            needed = f'needs the shape {flat[path].shape}' if path in flat else 'has no such array'
            raise UserError(f'an initial value of shape {np.shape(value)} is given for {path}, but the model {needed}')
        flat[path] = place_like(value, flat[path])
    collections = flax.traverse_util.unflatten_dict(flat, sep='/')
    params = collections.pop('params')
    ema = state.ema
    if ema is not None and any(path.startswith('params/') for path in arrays):
        ema = jax.tree.map(lambda x: x.copy(), params)
    return dataclasses.replace(
        state,
        params={**state.params, player: params},
        model_state={**state.model_state, player: {**state.model_state[player], **collections}},
        ema=ema,
    )


@dataclasses.dataclass(frozen=True)
class OverlayResult:
    """Parameters after `overlay`, with a record of which were taken, resized or left fresh.

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
        """Describes in a few lines which parameters were taken."""
        lines = [f'{len(self.loaded)} loaded, {len(self.resized)} resized, {len(self.fresh)} left fresh']
        for label, names in (('resized', self.resized), ('left fresh', self.fresh), ('not used', self.unused)):
            if names:
                shown = ', '.join(names[:8]) + (f', … ({len(names) - 8} more)' if len(names) > 8 else '')
                lines.append(f'  {label}: {shown}')
        return '\n'.join(lines)


def overlay(fresh: Any, given: Any) -> OverlayResult:
    """Replaces `fresh` parameters by `given` ones, matched by path.

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
    return OverlayResult(
        flax.traverse_util.unflatten_dict(result, sep='/'), tuple(loaded), tuple(resized), tuple(left), tuple(unused)
    )


def _is_resizable(old: tuple[int, ...], new: tuple[int, ...]) -> bool:
    square = lambda n: math.isqrt(n) ** 2 == n  # noqa: E731
    return len(old) == len(new) == 2 and old[1] == new[1] and square(old[0]) and square(new[0])


def place_like(tree: Any, like: Any) -> Any:
    """Places host arrays with the shardings and types of `like`."""
    return jax.tree.map(lambda x, target: place(np.asarray(x, target.dtype), target.sharding), tree, like)
