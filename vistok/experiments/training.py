"""One training run, from a config to a run folder."""

import dataclasses
import pathlib
from typing import Any

import clu.parameter_overview
import jax
from ml_collections import ConfigDict

from vistok.experiments import assembly, initial_weights, registry, run_folder
from vistok.experiments.best_checkpoint import check_best_metric
from vistok.experiments.experiment import Experiment
from vistok.experiments.generator import GeneratorExperiment
from vistok.experiments.probe import ProbeExperiment
from vistok.experiments.ranges import check_numbers
from vistok.experiments.saved_models import save_model
from vistok.experiments.tokenizer import TokenizerExperiment
from vistok.training.checkpoint import Checkpoints
from vistok.training.initialization import Arrays, with_arrays
from vistok.training.loop import LoopOptions, RunResult
from vistok.training.loop import train as run_loop
from vistok.training.parallel import Runner
from vistok.training.state import TrainState
from vistok.training.step import TrainStep
from vistok.training.writers import create_writer

EXPERIMENTS: dict[str, Any] = {
    registry.TOKENIZER: TokenizerExperiment,
    registry.GENERATOR: GeneratorExperiment,
    registry.PROBE: ProbeExperiment,
}


@dataclasses.dataclass(frozen=True)
class _Start:
    """Values that a fresh run begins with instead of random ones.

    Attributes:
      player: name of the model among the players.
      arrays: what the model's initializers computed.
      weights: what `config.init_from` holds, by player; None without it.
      source: `config.init_from`.
    """

    player: str
    arrays: Arrays
    weights: dict[str, dict[str, Any]] | None
    source: str

    def apply(self, state: TrainState) -> TrainState:
        """Puts the values into a fresh state."""
        state = with_arrays(state, self.player, self.arrays)
        if self.weights is None:
            return state
        state, report = initial_weights.apply_weights(state, self.weights)
        _print(f'starting from {self.source}: {report}')
        return state


@dataclasses.dataclass(frozen=True)
class Run:
    """Outcome of a call of `train`.

    Attributes:
      folder: the run folder, which `vistok.load` takes.
      step: number of finished steps.
      metrics: metrics of the last evaluation, by name.
      stopped: True when a signal ended the run before its last step; the same call goes on from there.
    """

    folder: pathlib.Path
    step: int
    metrics: dict[str, float]
    stopped: bool

    def __str__(self) -> str:
        """Says in one line how the run ended."""
        if self.stopped:
            return f'stopped at step {self.step}, saved; the same command goes on from there · {self.folder}'
        metrics = self.metrics
        if 'psnr' not in metrics:
            bits = f' · {metrics["bits_per_token"]:.3f} bits per token' if 'bits_per_token' in metrics else ''
            bits += f' · {metrics["accuracy"]:.1%} recognised' if 'accuracy' in metrics else ''
            return f'loss {metrics["loss"]:.4f}{bits} on {int(metrics["images"])} unseen images · {self.folder}'
        usage = ', '.join(f'{k.removeprefix("usage/")} {v:.1%}' for k, v in metrics.items() if k.startswith('usage/'))
        quality = f'PSNR {metrics["psnr"]:.2f} dB on {int(metrics["images"])} unseen images'
        return f'{quality} · codebook usage: {usage} · {self.folder}'


def train(config: ConfigDict, workdir: str | pathlib.Path, *, show_progress: bool = True) -> Run:
    """Trains the model of a config in a run folder, going on where an earlier run of it stopped there.

    Args:
      config: of `vistok.config`.
      workdir: the run folder; it receives `config.json`, checkpoints, metrics, curves and sheets of images.
      show_progress: shows a progress bar with rate and time left.

    Raises:
      UserError: a setting or file that does not fit; the folder is not touched before all are checked.
    """
    folder = pathlib.Path(workdir)
    result = run_training(config, folder, show_progress=show_progress)
    return Run(folder, int(result.state.step), dict(result.evaluation), result.stopped)


def run_training(config: ConfigDict, workdir: pathlib.Path, *, show_progress: bool = True) -> RunResult:
    """Trains the model that `config` describes in `workdir`, going on where an earlier run of it stopped there.

    Leaves there: `config.json`, `parameters.txt`, `checkpoints/`, `metrics.jsonl`, TensorBoard events, and sheets of
    images.

    Raises:
      UserError: a setting or file that does not fit; the folder is not touched before all are checked.
    """
    check_numbers(config)
    runner = assembly.build_runner(config)
    experiment: Experiment = EXPERIMENTS[registry.find_model(config.model.name).kind](config, workdir)
    config = experiment.config
    check_best_metric(config.evaluate.best_metric, experiment.metrics())
    train_step = assembly.build_train_step(config, experiment.objective)
    start = None if run_folder.has_checkpoints(workdir) else _prepare_start(experiment)

    run_folder.prepare(workdir, config, primary=jax.process_index() == 0)
    if start is not None and jax.process_index() == 0:
        for name, tokenizer in experiment.companions().items():
            save_model(tokenizer, workdir / name)
    checkpoints = run_folder.open_checkpoints(workdir, config)
    state = _initial_state(experiment, runner, train_step, checkpoints, start, workdir)
    _write_overview(workdir, state)
    writer = create_writer(workdir, resume_step=checkpoints.latest_step, primary=jax.process_index() == 0)
    evaluate = experiment.evaluation(runner, writer, workdir / 'pictures')
    try:
        result = run_loop(
            train_step=train_step,
            runner=runner,
            state=state,
            data=experiment.train_data,
            evaluate=evaluate,
            checkpoints=checkpoints,
            writer=writer,
            options=LoopOptions(
                steps=config.train.steps,
                log_every=config.train.log_every,
                evaluate_every=config.evaluate.every,
                checkpoint_every=config.train.checkpoint_every,
                compute_dtype=config.model.get('dtype', 'float32'),
            ),
            show_progress=show_progress and jax.process_index() == 0,
        )
        if not result.evaluation and not result.stopped:  # nothing was left to train
            result = dataclasses.replace(result, evaluation=evaluate(result.state, int(result.state.step)))
    finally:
        checkpoints.close()
        writer.close()
    _report_skipped(experiment.train_data)
    return result


def _prepare_start(experiment: Experiment) -> _Start:
    """Reads and computes what a fresh run begins with."""
    config = experiment.config
    player = registry.PLAYERS[registry.find_model(config.model.name).kind]
    weights = (
        initial_weights.read_weights(pathlib.Path(config.init_from), config.model.name) if config.init_from else None
    )
    return _Start(player, experiment.initial_arrays(), weights, config.init_from)


def _initial_state(
    experiment: Experiment,
    runner: Runner,
    train_step: TrainStep,
    checkpoints: Checkpoints,
    start: _Start | None,
    workdir: pathlib.Path,
) -> TrainState:
    """Restores the newest checkpoint, with the place in the data; without one, makes a fresh state."""
    newest = checkpoints.latest_step
    if newest is None:
        state = runner.init(train_step, experiment.config.train.seed, experiment.example)
        return state if start is None else start.apply(state)
    state, meta = checkpoints.restore(newest, runner.abstract_state(train_step, experiment.example))
    experiment.train_data.restore(meta['data'])
    _print(f'resuming {workdir} at step {newest}')
    return state


def _write_overview(workdir: pathlib.Path, state: TrainState) -> None:
    """Writes `parameters.txt`, a table of all parameters, and prints their numbers."""
    if jax.process_index() != 0:
        return
    overview = {player: clu.parameter_overview.get_parameter_overview(p) for player, p in state.params.items()}
    text = '\n\n'.join(f'{player}\n{table}' for player, table in overview.items()) + '\n'
    run_folder.write_text(workdir / 'parameters.txt', text)
    for player, params in state.params.items():
        print(f'{player}: {sum(x.size for x in jax.tree.leaves(params)):,} parameters')


def _report_skipped(data: Any) -> None:
    """Prints how many images could not be used, and the first of them."""
    if data.skipped:
        name, reason = next(iter(data.skipped.items()))
        _print(f'{len(data.skipped)} images could not be used and were skipped; the first: {name}: {reason}')


def _print(line: str) -> None:
    if jax.process_index() == 0:
        print(line)
