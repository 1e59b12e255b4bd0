"""Checkpoints of a run: the newest ones and the best one, written atomically in the background.

All of Orbax is behind this file.
"""

import logging
import pathlib
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from vistok.errors import UserError
from vistok.training.sharding import path_name
from vistok.training.state import TrainState

# Orbax warns of what is as it should be: a folder opened for reading only, a checkpoint without metrics.
logging.getLogger('absl').addFilter(lambda record: record.levelno > logging.WARNING or 'orbax' not in record.pathname)

# What Orbax raises for files that are missing, cut off, or of other shapes.
_UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, OSError)


class Checkpoints:
    """Checkpoints in the folder of a run.

    Each one holds the state, and as JSON the position in the data and whatever else the caller wants back.

    Args:
      folder: folder of the checkpoints, one subfolder per step.
      keep: number of newest checkpoints that stay.
      best: name of the evaluation metric that decides which older checkpoint stays too; None keeps no best one.
      best_mode: 'max' or 'min'.
      read_only: open for loading; nothing is created or deleted.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        *,
        keep: int = 2,
        best: str | None = None,
        best_mode: str = 'max',
        read_only: bool = False,
    ) -> None:
        self.folder = pathlib.Path(folder).absolute()
        kept: list[Any] = [policies.LatestN(keep)]
        if best is not None:
            kept.append(
                policies.BestN(
                    get_metric_fn=lambda metrics: metrics[best],
                    reverse=best_mode == 'min',
                    n=1,
                    keep_checkpoints_without_metrics=False,
                )
            )
        self._ranked = best is not None
        self._manager = ocp.CheckpointManager(
            self.folder,
            item_names=('state', 'meta'),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=policies.AnyPreservationPolicy(kept),
                # The manager writes metrics to disk only when it is told how to rank them.
                best_fn=None if best is None else lambda metrics: metrics[best],
                best_mode=best_mode,
                create=not read_only,
                read_only=read_only,
                cleanup_tmp_directories=not read_only,
            ),
        )

    @property
    def latest_step(self) -> int | None:
        """Step of the newest complete checkpoint."""
        return self._manager.latest_step()

    @property
    def steps(self) -> list[int]:
        """Steps of all complete checkpoints."""
        return sorted(self._manager.all_steps())

    def best_step(self) -> int | None:
        """Returns the step of the checkpoint with the best metric, or None when none was evaluated."""
        scored = [step for step in self.steps if self._manager.metrics(step) is not None]
        return self._manager.best_step() if self._ranked and scored else None

    def save(self, step: int, state: TrainState, meta: dict[str, Any], metrics: dict[str, float] | None = None) -> None:
        """Starts to write a checkpoint and returns before it is on disk; a step that is there already is left alone."""
        if step in self._manager.all_steps():
            return
        self._manager.save(
            step,
            args=ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta)),
            metrics=metrics,
            force=True,
        )

    def restore(self, step: int, abstract: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """Restores state and meta of `step` with the shardings of `abstract` (any number of devices).

        Raises:
          UserError: the checkpoint is damaged, or it is of another model.
        """
        self._check_model(step, abstract)
        try:
            restored = self._manager.restore(
                step,
                args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract), meta=ocp.args.JsonRestore()),
            )
        except _UNREADABLE as error:
            raise UserError(
                f'checkpoint {self.folder / str(step)} cannot be read into this model '
                f'(another model or other sizes, or a damaged file): {_reason(error)}'
            ) from error
        return restored['state'], restored['meta']

    def _check_model(self, step: int, abstract: TrainState) -> None:
        """Compares names and shapes with the model's: Orbax finds a difference only after it has begun to read."""
        tree = self._read_metadata(step)
        stored = {path_name(path): tuple(x.shape) for path, x in _leaves(tree.get('params'))}
        needed = {path_name(path): tuple(x.shape) for path, x in _leaves(abstract.params)}
        different = [name for name in (*needed, *stored) if stored.get(name) != needed.get(name)]
        problem = ''
        if different:
            name = different[0]
            problem = (
                f'{name} is {stored.get(name, "not there")} in it and {needed.get(name, "not there")} in this model'
            )
        elif (tree.get('ema') is None) != (abstract.ema is None):
            problem = 'only one of the two has moving averages (train.ema_decay)'
        if problem:
            raise UserError(f'checkpoint {self.folder / str(step)} cannot be read into this model: {problem}')

    def _read_metadata(self, step: int) -> Any:
        """Reads the metadata of every array in a checkpoint, as a tree.

        Raises:
          UserError: they cannot be read.
        """
        try:
            with ocp.PyTreeCheckpointer() as reader:
                return reader.metadata(self.folder / str(step) / 'state').item_metadata.tree
        except _UNREADABLE as error:
            raise UserError(f'checkpoint {self.folder / str(step)} is damaged: {_reason(error)}') from error

    def restore_arrays(self, step: int) -> Any:
        """Restores the state of `step` as a plain tree of host arrays, without knowing the model.

        Raises:
          UserError: the checkpoint is damaged.
        """
        folder = self.folder / str(step) / 'state'
        host = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), self._read_metadata(step))
        try:
            with ocp.PyTreeCheckpointer() as reader:
                return reader.restore(folder, args=ocp.args.PyTreeRestore(restore_args=host))
        except _UNREADABLE as error:
            raise UserError(f'checkpoint {self.folder / str(step)} is damaged: {_reason(error)}') from error

    def stop_requested(self, step: int) -> bool:
        """Returns whether the machine is about to be preempted; all processes of a run get the same answer."""
        return jax.process_count() > 1 and self._manager.reached_preemption(step)

    def wait(self) -> None:
        """Waits until everything saved so far is on disk."""
        self._manager.wait_until_finished()

    def __enter__(self) -> 'Checkpoints':
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Waits for pending writes and releases the folder."""
        self._manager.wait_until_finished()
        self._manager.close()


def _leaves(tree: Any) -> list[Any]:
    return jax.tree_util.tree_leaves_with_path(tree)


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
