"""Checkpoints of a run: the newest ones and the best one, written atomically in the background.

All of Orbax is behind this file.
"""

import contextlib
import json
import logging
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore
from orbax.checkpoint import checkpoint_managers as policies

from vistok.errors import UserError
from vistok.training.digests import compute_digests, find_difference
from vistok.training.sharding import path_name
from vistok.training.state import TrainState

# Orbax warns of what is as it should be (a folder opened for reading only, a checkpoint without metrics), and prints
# tracebacks of errors that it raises as well.
logging.getLogger('absl').addFilter(lambda record: 'orbax' not in record.pathname)

_DIGESTS = 'digests'  # key in the JSON of a checkpoint


class Checkpoints:
    """Checkpoints in the folder of a run.

    Each one holds the state, and as JSON the position in the data and whatever else the caller wants back.  A digest of
    each array lies beside them and is compared when the checkpoint is read.

    Args:
      folder: folder of the checkpoints, one subfolder per step.
      keep: number of newest checkpoints that stay.
      best: name of the evaluation metric that decides which older checkpoint stays too; None keeps no best one.
      best_mode: 'max' or 'min'.
      read_only: open for loading; nothing is created or deleted.

    Raises:
      UserError: the metrics of a checkpoint are damaged.
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
        self._check_metrics()
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
        """Starts to write a checkpoint and returns before it is on disk; a step that is there already is left alone.

        Raises:
          UserError: this checkpoint or the one before it cannot be written.
        """
        if step in self._manager.all_steps():
            return
        with self._writing():
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state),
                    meta=ocp.args.JsonSave({**meta, _DIGESTS: compute_digests(state)}),
                ),
                metrics=metrics,
                force=True,
            )

    def restore(self, step: int, abstract: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """Restores state and meta of `step` with the shardings of `abstract` (any number of devices).

        Raises:
          UserError: the checkpoint is damaged, or it is of another model.
        """
        self._check_model(step, abstract)
        meta = self._read_meta(step)
        with self._reading(step):
            restored = self._manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract)))
        self._check_digests(step, restored['state'], meta.pop(_DIGESTS, {}))
        return restored['state'], meta

    def _check_model(self, step: int, abstract: TrainState) -> None:
        """Compares names and shapes with the model's: Orbax finds a difference only after it has begun to read."""
        tree = self._read_metadata(step)
        stored = {path_name(path): tuple(x.shape) for path, x in _leaves(tree)}
        needed = {path_name(path): tuple(x.shape) for path, x in _leaves(abstract)}
        different = sorted(
            (name for name in {**needed, **stored} if stored.get(name) != needed.get(name)),
            key=lambda name: not name.startswith('params/'),
        )
        problem = ''
        if different and different[0].startswith('ema/') and (tree.get('ema') is None) != (abstract.ema is None):
            problem = 'only one of the two has moving averages (train.ema_decay)'
        elif different:
            name = different[0]
            problem = (
                f'{name} is {stored.get(name, "not there")} in it and {needed.get(name, "not there")} in this model'
            )
        if problem:
            raise UserError(f'checkpoint {self.folder / str(step)} cannot be read into this model: {problem}')

    def _read_metadata(self, step: int) -> Any:
        """Reads the metadata of every array in a checkpoint, as a tree.

        Raises:
          UserError: they cannot be read.
        """
        folder = self.folder / str(step) / 'state'
        with self._reading(step), ocp.PyTreeCheckpointer() as reader:
            # Orbax reads all arrays at once, and prints a traceback for each that has no index: the index comes first.
            index = tensorstore.KvStore.open({'driver': 'ocdbt', 'base': f'file://{folder}/'}).result()
            if not index.list().result():
                raise self._damage_error(step, 'state/manifest.ocdbt is missing or empty')
            return reader.metadata(folder).item_metadata.tree

    def _read_meta(self, step: int) -> dict[str, Any]:
        """Reads what lies beside the arrays of a checkpoint: the caller's JSON, and their digests.

        Raises:
          UserError: it is damaged.
        """
        path = self.folder / str(step) / 'meta' / 'metadata'
        try:
            meta = json.loads(path.read_bytes())
        except (OSError, ValueError) as error:
            raise self._damage_error(step, 'meta/metadata is missing or cut off') from error
        if not isinstance(meta, dict):
            raise self._damage_error(step, 'meta/metadata is no JSON object')
        return meta

    def restore_arrays(self, step: int) -> Any:
        """Restores the state of `step` as a plain tree of host arrays, without knowing the model.

        Raises:
          UserError: the checkpoint is damaged.
        """
        folder = self.folder / str(step) / 'state'
        host = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), self._read_metadata(step))
        with self._reading(step), ocp.PyTreeCheckpointer() as reader:
            tree = reader.restore(folder, args=ocp.args.PyTreeRestore(restore_args=host))
        self._check_digests(step, tree, self._read_meta(step).get(_DIGESTS, {}))
        return tree

    def _check_digests(self, step: int, tree: Any, digests: Any) -> None:
        """Compares the arrays that were read with the digests of those that were saved; earlier versions kept none."""
        name = find_difference(tree, digests)
        if name is not None:
            raise self._damage_error(step, f'{name} is not what was saved')

    def _check_metrics(self) -> None:
        """Reads the metrics of all checkpoints, which Orbax does when it opens their folder."""
        for path in sorted(self.folder.glob('[0-9]*/metrics/metrics')):
            try:
                whole = isinstance(json.loads(path.read_bytes()), dict)
            except (OSError, ValueError):
                whole = False
            if not whole:
                raise self._damage_error(int(path.parts[-3]), 'metrics/metrics is cut off or no JSON object')

    @contextlib.contextmanager
    def _reading(self, step: int) -> Iterator[None]:
        """Turns what Orbax raises for damaged files, down to a bare Exception, into one sentence."""
        try:
            yield
        except (UserError, MemoryError, jax.errors.JaxRuntimeError):
            raise
        except Exception as error:
            raise self._damage_error(step, _reason(error)) from error

    def _damage_error(self, step: int, reason: str) -> UserError:
        """Makes the error of a damaged checkpoint, which names the one before it and how to go on from there."""
        path = self.folder / str(step)
        earlier = [int(p.name) for p in self.folder.iterdir() if p.name.isdigit() and int(p.name) < step]
        way_on = (
            f'the one before it is {self.folder / str(max(earlier))}; remove {path} to go on from there'
            if earlier
            else f'there is none before it; remove {path} to begin again'
        )
        return UserError(f'checkpoint {path} is damaged ({reason}): {way_on}')

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Turns what Orbax raises for a full disk and the like into one sentence; later calls do not raise it again."""
        try:
            yield
        except (UserError, MemoryError, jax.errors.JaxRuntimeError):
            raise
        except Exception as error:
            newest = self._manager.latest_step()
            kept = 'none was saved before' if newest is None else f'the newest that is saved is of step {newest}'
            raise UserError(
                f'a checkpoint in {self.folder} cannot be written ({_reason(error)}); {kept}; '
                'the same command goes on from there once there is room'
            ) from error

    def stop_requested(self, step: int) -> bool:
        """Returns whether the machine is about to be preempted; all processes of a run get the same answer."""
        return jax.process_count() > 1 and self._manager.reached_preemption(step)

    def wait(self) -> None:
        """Waits until everything saved so far is on disk."""
        with self._writing():
            self._manager.wait_until_finished()

    def __enter__(self) -> 'Checkpoints':
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Waits for pending writes and releases the folder."""
        try:
            self.wait()
        finally:
            self._manager.close()


def _leaves(tree: Any) -> list[Any]:
    return jax.tree_util.tree_leaves_with_path(tree)


def _reason(error: BaseException) -> str:
    while type(error) is Exception and error.__cause__ is not None:  # Orbax wraps the reason
        error = error.__cause__
    if isinstance(error, KeyError | TypeError | AttributeError):  # says more of the reader than of the file
        return 'a file in it is missing or cut off'
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
