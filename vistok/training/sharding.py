"""Sharding of parameters over a mesh `(data, fsdp, model)`, by rules on parameter paths."""

import math
import re
from typing import Any

import jax
import optax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from vistok.errors import UserError
from vistok.training.state import TrainState

AXES = ('data', 'fsdp', 'model')

# The first rule whose pattern is found in a parameter's path names the dimension (from the end) that the `model` axis
# splits.  Every split is correct, the compiler inserts what is needed; these need the least communication.
MODEL_AXIS_RULES: tuple[tuple[str, int], ...] = (
    (r'codewords$', -2),  # codebook search: each device finds the best of its own codewords
    (r'(attention/out|mlp_out)/kernel$', -2),  # second of two products: contract over the split dimension
    (r'kernel$', -1),
)

SMALLEST_SPLIT = 2**14  # parameters with fewer elements stay whole: splitting them costs more than it saves


def make_mesh(data: int = -1, fsdp: int = 1, model: int = 1, devices: int | None = None) -> Mesh:
    """Builds a mesh over the first `devices` devices (default: all); a size of -1 takes the remaining devices.

    Raises:
      UserError: more devices asked for than there are, or sizes that do not multiply to the device count.
    """
    available = jax.devices()
    count = len(available) if devices is None else devices
    if not 1 <= count <= len(available):
        raise UserError(f'{count} devices asked for, but this run has {len(available)} ({available[0].device_kind})')
    sizes = {'data': data, 'fsdp': fsdp, 'model': model}
    free = [name for name, size in sizes.items() if size == -1]
    fixed = math.prod(size for size in sizes.values() if size != -1)
    if len(free) > 1 or fixed < 1:
        raise UserError(f'mesh {sizes} is not possible: sizes are positive, and at most one may be -1')
    if fixed > count:
        raise UserError(f'mesh {sizes} asks for {fixed} devices, but this run has {count}')
    if free and count % fixed == 0:
        sizes[free[0]] = count // fixed
    if math.prod(sizes.values()) != count:
        raise UserError(f'mesh {sizes} does not cover the {count} devices of this run exactly')
    return jax.make_mesh(tuple(sizes.values()), AXES, axis_types=(AxisType.Auto,) * 3, devices=available[:count])


def parameter_spec(path: str, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """Chooses the sharding of a parameter: `model` by rule, `fsdp` along the largest other divisible dimension."""
    spec: list[str | None] = [None] * len(shape)
    if math.prod(shape) < SMALLEST_SPLIT:
        return PartitionSpec()
    for pattern, dimension in MODEL_AXIS_RULES:
        if mesh.shape['model'] > 1 and len(shape) >= -dimension and re.search(pattern, path):
            if shape[dimension] % mesh.shape['model'] == 0:
                spec[dimension] = 'model'
            break
    if mesh.shape['fsdp'] > 1:
        by_size = sorted(range(len(shape)), key=lambda i: -shape[i])
        for i in by_size:
            if spec[i] is None and shape[i] % mesh.shape['fsdp'] == 0:
                spec[i] = 'fsdp'
                break
    return PartitionSpec(*spec)


def state_shardings(state: TrainState, transformations: dict[str, optax.GradientTransformation], mesh: Mesh) -> Any:
    """Returns shardings with the structure of `state`: moments and averages are sharded like their parameters."""
    replicated = NamedSharding(mesh, PartitionSpec())

    def of_params(params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(
            lambda path, x: NamedSharding(mesh, parameter_spec(path_name(path), x.shape, mesh)), params
        )

    params = {player: of_params(tree) for player, tree in state.params.items()}
    opt_state = {
        player: optax.tree.map_params(
            transformations[player],
            lambda _, sharding: sharding,
            state.opt_state[player],
            params[player],
            transform_non_params=lambda _: replicated,
        )
        for player in state.params
    }
    return TrainState(
        step=replicated,
        params=params,
        opt_state=opt_state,
        model_state=jax.tree.map(lambda _: replicated, state.model_state),
        ema=None if state.ema is None else of_params(state.ema),
    )


def path_name(path: tuple[Any, ...]) -> str:
    """Formats a tree path of JAX, such as 'encoder/conv_in/kernel'."""
    return '/'.join(str(getattr(key, 'key', getattr(key, 'name', getattr(key, 'idx', key)))) for key in path)
