"""Statistics over the whole batch, however a runner distributes it over devices.

Under `jit` with a mesh the step sees the global batch and a mean is a mean.  Under `pmap` each replica sees its own
part, and a batch statistic needs a collective.  Code that computes one calls `replica_mean` (or `replica_sum`,
`replica_gather`); the pmap runner names its axis while it traces the step, and elsewhere these are the identity.
"""

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any

import jax

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
