"""Training loop of all models: steps, logging, evaluation and checkpoints."""

import dataclasses
import signal
import time
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from tqdm import tqdm

from vistok.errors import UserError
from vistok.training.checkpoint import Checkpoints
from vistok.training.codebook_usage import CodebookUsage
from vistok.training.parallel import Runner
from vistok.training.state import Batch, StepReport, TrainState
from vistok.training.step import TrainStep
from vistok.training.throughput import model_flops_utilization
from vistok.training.writers import MetricWriter


@runtime_checkable
class TrainData(Protocol):
    """Interface of endless training batches whose position can be saved as JSON."""

    def __next__(self) -> Batch: ...

    def state(self) -> dict[str, Any]:
        """Returns the position after the batches taken so far."""

    def restore(self, state: dict[str, Any]) -> None:
        """Moves to a saved position."""


@dataclasses.dataclass(frozen=True)
class LoopOptions:
    """Schedule of a run: length and intervals, all in steps."""

    steps: int
    log_every: int = 50
    evaluate_every: int = 500
    checkpoint_every: int = 500
    compute_dtype: str = 'float32'  # for the utilization figure only


@dataclasses.dataclass(frozen=True)
class RunResult:
    """Final state of a run, its last metrics, and whether it was stopped early.

    Attributes:
      state: the last state, in global form.
      evaluation: metrics of the last evaluation.
      stopped: True when a signal ended the run before its last step.
    """

    state: TrainState
    evaluation: dict[str, float]
    stopped: bool


def train(
    *,
    train_step: TrainStep,
    runner: Runner,
    state: TrainState,
    data: TrainData,
    evaluate: Callable[[TrainState, int], dict[str, float]],
    checkpoints: Checkpoints,
    writer: MetricWriter,
    options: LoopOptions,
    show_progress: bool = True,
) -> RunResult:
    """Trains from `state` (fresh or restored, with `data` at its position) to `options.steps`.

    Evaluates and saves when due and at the end.  SIGTERM or Ctrl-C saves and returns; the same command goes on later.

    Raises:
      UserError: a loss or gradient is not finite; the newest checkpoint is from before that.
    """
    step = int(state.step)
    batch_size = 0
    evaluation: dict[str, float] = {}
    window = _Window()
    pending: StepReport | None = None
    step_function, flops = None, 0.0
    carried = runner.enter(state)
    frozen = runner.put_frozen(train_step.objective.frozen)

    def settle() -> None:
        """Waits for the step in progress; afterwards the state is valid."""
        nonlocal pending
        if pending is not None:
            window.add(jax.device_get(pending), step, checkpoints)
            pending = None

    def save(metrics: dict[str, float] | None = None) -> None:
        settle()
        checkpoints.save(step, runner.leave(carried), {'data': data.state()}, metrics)

    bar = tqdm(total=options.steps, initial=step, unit='step', disable=not show_progress, dynamic_ncols=True)
    with bar, _StopSignals() as stop:
        while step < options.steps:
            batch = next(data)
            batch_size = len(next(iter(batch.values()))) * jax.process_count()
            placed = runner.put_batch(batch)
            if step_function is None:
                bar.set_description('compiling')
                step_function, flops = runner.compile(train_step, carried, frozen, placed)
                bar.set_description('training')
                window.restart()
            carried, report = step_function(carried, frozen, placed)
            # One step stays under way while the next batch is prepared; no more, because a queue of collectives
            # deadlocks on simulated devices, and a loss that is not finite should stop the run at once.
            settle()
            pending = report
            step += 1
            bar.update()
            last = step == options.steps
            if step % options.log_every == 0 or last:
                settle()
                scalars = window.summary(batch_size, flops, runner.mesh.size, options.compute_dtype)
                bar.set_postfix_str(f'{scalars["speed/images_per_second"]:.1f} images/s')
                writer.write_scalars(step, scalars)
                window = _Window()
            if step % options.evaluate_every == 0 or last:
                settle()
                bar.set_description('evaluating')
                evaluation = evaluate(runner.leave(carried), step)
                writer.write_scalars(step, {f'evaluation/{name}': value for name, value in evaluation.items()})
                save(evaluation)
                bar.set_description('training')
                window.restart()
            elif step % options.checkpoint_every == 0:
                save()
                window.restart()
            if not last and (stop.requested or checkpoints.stop_requested(step)):
                save()
                break
    settle()
    checkpoints.wait()
    writer.flush()
    return RunResult(runner.leave(carried), evaluation, stopped=step < options.steps)


class _Window:
    """Sums of metrics and times over the steps since the last log line."""

    def __init__(self) -> None:
        self._metrics: dict[str, float] = {}
        self._usage: dict[str, CodebookUsage] = {}
        self._steps = 0
        self._timed_steps = 0
        self._start = time.perf_counter()

    def restart(self) -> None:
        """Discards the time so far (compiling, evaluating), not the metrics."""
        self._start = time.perf_counter()
        self._timed_steps = 0

    def add(self, report: StepReport, step: int, checkpoints: Checkpoints) -> None:
        """Adds the report of `step`.

        Raises:
          UserError: something in it is not finite.
        """
        if not report.metrics['finite']:
            checkpoints.wait()
            bad = [name for name, value in report.metrics.items() if not np.isfinite(value)]
            newest = checkpoints.latest_step
            raise UserError(
                f'not finite at step {step}: {", ".join(bad)}; stopped, the newest good checkpoint is '
                + (f'{checkpoints.folder / str(newest)}' if newest is not None else 'none')
                + '; a lower learning rate or a later discriminator start usually helps'
            )
        for name, value in report.metrics.items():
            if name != 'finite':
                self._metrics[name] = self._metrics.get(name, 0.0) + float(value)
        for name, counts in report.counts.items():
            self._usage.setdefault(name, CodebookUsage(len(counts))).add(counts)
        self._steps += 1
        self._timed_steps += 1

    def summary(self, batch_size: int, flops: float, devices: int, dtype: str) -> dict[str, float]:
        """Computes the scalars of a log line: means, throughput and utilization."""
        seconds = (time.perf_counter() - self._start) / max(self._timed_steps, 1)
        scalars = {name: total / self._steps for name, total in self._metrics.items()}
        for name, usage in self._usage.items():
            report = usage.report()
            scalars |= {f'usage/{name}': report.usage, f'perplexity/{name}': report.perplexity}
        scalars['speed/images_per_second'] = batch_size / seconds
        scalars['speed/seconds_per_step'] = seconds
        utilization = model_flops_utilization(flops, seconds, devices, jax.devices()[0].device_kind, dtype)
        if utilization is not None:
            scalars['speed/model_flops_utilisation'] = utilization
        return scalars


class _StopSignals:
    """Context in which SIGTERM and the first Ctrl-C ask the loop to stop instead of killing the process.

    In a multi-process run SIGTERM is left to `jax.distributed`, which tells all processes the same step to stop at.
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> '_StopSignals':
        signals = [signal.SIGINT] if jax.process_count() > 1 else [signal.SIGINT, signal.SIGTERM]
        for number in signals:
            try:
                self._previous[number] = signal.signal(number, self._request)
            except ValueError:  # not in the main thread: whoever runs us there handles signals
                break
        return self

    def _request(self, number: int, frame: Any) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
