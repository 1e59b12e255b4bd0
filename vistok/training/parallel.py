"""Runners of a training step on many devices: `jit` over a mesh, or `pmap`; both give equal results (tested).

Between steps and on disk a state is the same thing under both: global arrays.  The pmap runner adds a device axis
on the way in and takes it off on the way out, without copying.
"""

import abc
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vistok.collectives import name_replica_axis
from vistok.errors import UserError
from vistok.training.sharding import make_mesh, state_shardings
from vistok.training.state import Batch, StepReport, TrainState
from vistok.training.step import TrainStep

StepFunction = Callable[[TrainState, Any, Any], tuple[TrainState, StepReport]]


class Runner(abc.ABC):
    """Base class of runners, which place data and state on devices and compile functions over them.

    Attributes:
      mesh: mesh of devices.
    """

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        self.replicated = NamedSharding(mesh, PartitionSpec())
        self.over_batch = NamedSharding(mesh, PartitionSpec(('data', 'fsdp')))

    @property
    def batch_shards(self) -> int:
        """Number of parts that a global batch is cut into."""
        return self.mesh.shape['data'] * self.mesh.shape['fsdp']

    def check_batch(self, batch_size: int, accumulate: int = 1) -> None:
        """Raises UserError when a global batch cannot be cut into equal parts."""
        parts = self.batch_shards * accumulate
        if batch_size % parts:
            raise UserError(
                f'batch size {batch_size} is not divisible by {parts} '
                f'({self.batch_shards} devices over the batch, {accumulate} accumulated parts)'
            )

    def put_batch(self, batch: Batch) -> Any:
        """Places this process's part of a batch on devices, as global arrays sharded over the batch axis."""
        return {
            name: jax.make_array_from_process_local_data(self.over_batch, np.asarray(x)) for name, x in batch.items()
        }

    def put_frozen(self, frozen: Any) -> Any:
        """Replicates variables of frozen networks on every device."""
        return jax.tree.map(lambda x: place(x, self.replicated), frozen)

    def abstract_state(self, train_step: TrainStep, example: Batch) -> TrainState:
        """Returns shapes, types and shardings of a state without computing it."""
        shapes = jax.eval_shape(train_step.init, jax.random.key(0), example)
        shardings = self._state_shardings(shapes, train_step)
        return jax.tree.map(lambda s, sh: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sh), shapes, shardings)

    def init(self, train_step: TrainStep, seed: int, example: Batch) -> TrainState:
        """Initializes a state; equal for every mesh, because it is computed on one device before it is sharded."""
        # For hundreds of parameters, keys of this kind compile several times faster than the default ones.
        key = jax.device_put(jax.random.key(seed, impl='unsafe_rbg'), jax.local_devices()[0])
        abstract = self.abstract_state(train_step, example)
        state = jax.jit(train_step.init)(key, example)
        return jax.tree.map(lambda x, s: place(x, s.sharding), state, abstract)

    @abc.abstractmethod
    def _state_shardings(self, state: TrainState, train_step: TrainStep) -> Any: ...

    @abc.abstractmethod
    def compile(self, train_step: TrainStep, state: TrainState, frozen: Any, batch: Any) -> tuple[StepFunction, float]:
        """Compiles the step; returns it with its FLOPs (all devices together, 0 where the compiler gives none).

        The step takes and returns what `enter` gives; it may reuse the memory of the state it is given.
        """

    def enter(self, state: TrainState) -> TrainState:
        """Converts a global state to the layout of the compiled step."""
        return state

    def leave(self, state: TrainState) -> TrainState:
        """Converts the state of the compiled step back to a global one."""
        return state

    def compile_evaluation(self, function: Callable[[Any, Any], Any]) -> Callable[[Any, Batch], Any]:
        """Compiles `function(variables, batch)`, which returns results per row, for this process's rows."""
        compiled = jax.jit(function, out_shardings=self.over_batch)

        def run(variables: Any, batch: Batch) -> Any:
            return jax.tree.map(local_rows, compiled(variables, self.put_batch(batch)))

        return run


class JitRunner(Runner):
    """Global-view `jit` over the mesh `(data, fsdp, model)`; parameters are sharded by the rules of `sharding.py`."""

    def _state_shardings(self, state: TrainState, train_step: TrainStep) -> Any:
        return state_shardings(state, dict(train_step.optimizers), self.mesh)

    def compile(self, train_step: TrainStep, state: TrainState, frozen: Any, batch: Any) -> tuple[StepFunction, float]:
        shardings = jax.tree.map(lambda x: x.sharding, state)
        step = jax.jit(train_step, out_shardings=(shardings, self.replicated), donate_argnums=0)
        with jax.set_mesh(self.mesh):  # for what splits its work over an axis by itself, as the codebook search does
            compiled = step.lower(state, frozen, batch).compile()
        # The analysis speaks of one device's program.
        return compiled, _flops(compiled) * self.mesh.size


class PmapRunner(Runner):
    """Data-parallel `pmap`: every device holds the whole state and its part of the batch."""

    axis_name = 'replica'

    def __init__(self, mesh: Mesh) -> None:
        if mesh.shape['fsdp'] != 1 or mesh.shape['model'] != 1:
            raise UserError(
                f'the pmap runner is data parallel only, but the mesh is {dict(mesh.shape)}; use runner jit'
            )
        super().__init__(mesh)
        self.over_devices = NamedSharding(mesh, PartitionSpec('data'))

    def _state_shardings(self, state: TrainState, train_step: TrainStep) -> Any:
        return jax.tree.map(lambda _: self.replicated, state)

    def compile(self, train_step: TrainStep, state: TrainState, frozen: Any, batch: Any) -> tuple[StepFunction, float]:
        def body(state: TrainState, frozen: Any, batch: Any) -> tuple[TrainState, StepReport]:
            with name_replica_axis(self.axis_name):
                return train_step(state, frozen, batch)

        mapped = jax.pmap(body, axis_name=self.axis_name, donate_argnums=0, devices=list(self.mesh.devices.flat))
        compiled = mapped.lower(state, frozen, batch).compile()

        def step(state: TrainState, frozen: Any, batch: Any) -> tuple[TrainState, StepReport]:
            state, report = mapped(state, frozen, batch)
            return state, self._take_axis_off(report)

        return step, _flops(compiled) * self.mesh.size

    def put_batch(self, batch: Batch) -> Any:
        """Places this process's part of a batch as arrays `[devices, batch / devices, ...]`."""
        local = len(self.mesh.local_devices)
        cut = {name: np.reshape(x, (local, -1, *np.shape(x)[1:])) for name, x in batch.items()}
        return {name: jax.make_array_from_process_local_data(self.over_devices, x) for name, x in cut.items()}

    def put_frozen(self, frozen: Any) -> Any:
        return self._put_axis_on(super().put_frozen(frozen))

    def enter(self, state: TrainState) -> TrainState:
        return self._put_axis_on(state)

    def leave(self, state: TrainState) -> TrainState:
        return self._take_axis_off(state)

    def compile_evaluation(self, function: Callable[[Any, Any], Any]) -> Callable[[Any, Batch], Any]:
        compiled = jax.jit(function, out_shardings=self.over_batch)

        def run(variables: Any, batch: Batch) -> Any:
            return jax.tree.map(local_rows, compiled(variables, Runner.put_batch(self, batch)))

        return run

    def _put_axis_on(self, tree: Any) -> Any:
        def one(x: jax.Array) -> jax.Array:
            pieces = [shard.data[None] for shard in x.addressable_shards]
            return jax.make_array_from_single_device_arrays((self.mesh.size, *x.shape), self.over_devices, pieces)

        return jax.tree.map(one, tree)

    def _take_axis_off(self, tree: Any) -> Any:
        def one(x: jax.Array) -> jax.Array:
            pieces = [shard.data[0] for shard in x.addressable_shards]
            return jax.make_array_from_single_device_arrays(x.shape[1:], self.replicated, pieces)

        return jax.tree.map(one, tree)


RUNNERS = {'jit': JitRunner, 'pmap': PmapRunner}


def make_runner(
    kind: str = 'jit', *, data: int = -1, fsdp: int = 1, model: int = 1, devices: int | None = None
) -> Runner:
    """Builds a runner by name over a mesh; see `make_mesh` for the sizes.

    Raises:
      UserError: an unknown runner, or a mesh that this machine does not have.
    """
    if kind not in RUNNERS:
        raise UserError(f'unknown runner {kind!r}; known: {", ".join(RUNNERS)}')
    return RUNNERS[kind](make_mesh(data, fsdp, model, devices))


def local_rows(x: jax.Array) -> np.ndarray:
    """Returns the rows of a batch-sharded array that this process holds, in order."""
    if x.is_fully_addressable:
        return np.asarray(x)
    by_start = {shard.index[0].start or 0: shard for shard in x.addressable_shards}
    return np.concatenate([np.asarray(by_start[start].data) for start in sorted(by_start)])


def place(x: Any, sharding: jax.sharding.Sharding) -> jax.Array:
    """Shards an array, which this process holds whole, over the devices of all processes."""
    host = np.asarray(x)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def _flops(compiled: Any) -> float:
    analysis = compiled.cost_analysis()
    analysis = analysis[0] if isinstance(analysis, list) else analysis
    return float((analysis or {}).get('flops', 0.0))
