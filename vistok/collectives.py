"""Statistics and random numbers of the whole batch, however a runner distributes it over devices.

Under `jit` with a mesh the step sees the global batch and a mean is a mean.  Under `pmap` each replica sees its own
part, and a batch statistic needs a collective.  Code that computes one calls `replica_mean` (or `replica_sum`,
`replica_gather`); the pmap runner names its axis while it traces the step, and elsewhere these are the identity.

Random numbers of single samples likewise belong to the place of a sample in the global batch, not to a replica: what
draws them calls `replica_draw`.
"""

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

_axis: contextvars.ContextVar[str | None] = contextvars.ContextVar('replica_axis', default=None)


@contextlib.contextmanager
def name_replica_axis(name: str) -> Iterator[None]:
    """Makes batch statistics global over a `pmap` axis while a step is traced."""
    token = _axis.set(name)
    try:
        yield
    finally:
        _axis.reset(token)


def replica_axis() -> str | None:
    """Returns the axis name in force, or None when the step already sees the global batch."""
    return _axis.get()


def replica_count() -> int:
    """Returns the number of replicas that share the batch; 1 when the step already sees the global batch."""
    axis = replica_axis()
    return 1 if axis is None else jax.lax.psum(1, axis)


def replica_mean(tree: Any) -> Any:
    """Averages per-replica means (replicas hold equally many samples)."""
    axis = replica_axis()
    return tree if axis is None else jax.lax.pmean(tree, axis)


def replica_sum(tree: Any) -> Any:
    """Adds up per-replica sums."""
    axis = replica_axis()
    return tree if axis is None else jax.lax.psum(tree, axis)


def replica_index() -> jax.Array | int:
    """Returns the number of this replica, which holds that part of the global batch."""
    axis = replica_axis()
    return 0 if axis is None else jax.lax.axis_index(axis)


def replica_gather(x: jax.Array) -> jax.Array:
    """Concatenates the arrays of all replicas along axis 0."""
    axis = replica_axis()
    return x if axis is None else jax.lax.all_gather(x, axis, axis=0, tiled=True)


def replica_take(x: jax.Array, rows: jax.Array) -> jax.Array:
    """Returns rows of the global batch by their numbers in it; the same rows on all replicas."""
    if replica_axis() is None:
        return x[rows]
    own = rows - replica_index() * len(x)
    here = ((own >= 0) & (own < len(x))).reshape(-1, *(1,) * (x.ndim - 1))
    return replica_sum(jnp.where(here, x[jnp.clip(own, 0, len(x) - 1)], 0))  # all but one term are 0


def replica_draw(draw: Callable[[int], Any], rows: int) -> Any:
    """Draws random numbers for the samples of this replica: the same as they get where the batch is not divided.

    Every draw for single samples inside a training step is made through this.  A replica draws for the whole batch,
    with the key that all replicas share, and keeps what belongs to its own samples.

    Args:
      draw: returns arrays with a leading axis of the given length, one row per sample (or a multiple of it).
      rows: length of that axis for the samples of this replica.
    """
    if replica_axis() is None:
        return draw(rows)
    first = replica_index() * rows
    return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, first, rows), draw(rows * replica_count()))
