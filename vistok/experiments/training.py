"""One training run: from a config to a run folder, and back from a run folder to a model."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import clu.parameter_overview
import jax
from ml_collections import ConfigDict

from vistok.experiments import (
    addp_companions,
    codeword_clusters,
    feature_table,
    generator,
    initial_weights,
    probe,
    registry,
    run_folder,
)
from vistok.files import write_text
from vistok.tokenizers.evaluation import evaluate_tokenizer
from vistok.tokenizers.objective import TokenizerObjective
from vistok.training.checkpoint import Checkpoints
from vistok.training.loop import LoopOptions, RunResult, train
from vistok.training.parallel import Runner
from vistok.training.state import TrainState
from vistok.training.writers import MetricWriter, create_writer
from vistok.visualization import save_png


def run_training(config: ConfigDict, workdir: pathlib.Path, *, show_progress: bool = True) -> RunResult:
    """Trains what `config` describes in `workdir`, going on where an earlier run of the same model stopped there.

    Leaves there: `config.json`, `parameters.txt`, `checkpoints/`, `metrics.jsonl`, TensorBoard events, `images/`.

    Raises:
      UserError: a setting or file that does not fit; the folder is not touched before all are checked.
    """
    frozen_tokenizer = None
    if registry.is_generator(config):
        config, frozen_tokenizer = generator.complete(config, workdir)
        config = addp_companions.complete(config, workdir)
    config = probe.complete(config, workdir)
    runner = registry.runner(config)
    runner.check_batch(config.train.batch_size, config.train.accumulate)
    runner.check_batch(config.evaluate.batch_size)
    data = registry.train_batches(config)
    validation = registry.evaluation_batches(config)
    recognises = probe.wanted(config)
    objective = probe.objective(config) if recognises else registry.objective(config, frozen_tokenizer)
    train_step = registry.train_step(config, objective)
    example = registry.example_batch(config)
    main_process = jax.process_index() == 0

    given, table = None, None
    if not run_folder.has_checkpoints(workdir):
        table = feature_table.initial_table(config)
        if config.init_from:
            given = initial_weights.read(pathlib.Path(config.init_from), config.model.name)

    run_folder.prepare(workdir, config, primary=main_process)
    if frozen_tokenizer is not None and main_process and not run_folder.has_checkpoints(workdir):
        generator.keep_tokenizer(workdir, frozen_tokenizer)
    checkpoints = Checkpoints(
        workdir / 'checkpoints',
        keep=config.train.keep,
        best=config.evaluate.best_metric,
        best_mode=run_folder.best_mode(config),
    )
    newest = checkpoints.latest_step
    if newest is None:
        state = runner.init(train_step, config.train.seed, example)
        if table is not None:
            state = feature_table.fill(state, table)
        if frozen_tokenizer is not None and codeword_clusters.wanted(config):
            state = codeword_clusters.fill(state, config, frozen_tokenizer)
        if frozen_tokenizer is not None and codeword_clusters.shares_output_vectors(config):
            state = codeword_clusters.fill_output_vectors(state, config, frozen_tokenizer)
        if frozen_tokenizer is not None and addp_companions.wanted(config):
            state = addp_companions.fill(state, config, frozen_tokenizer)
        if recognises:
            state = probe.fill(state, config)
        if given is not None:
            state, report = initial_weights.apply(state, given)
            if main_process:
                print(f'starting from {config.init_from}: {report}')
    else:
        state, meta = checkpoints.restore(newest, runner.abstract_state(train_step, example))
        data.restore(meta['data'])
        if main_process:
            print(f'resuming {workdir} at step {newest}')
    if main_process:
        overview = {player: clu.parameter_overview.get_parameter_overview(p) for player, p in state.params.items()}
        write_text(
            workdir / 'parameters.txt', '\n\n'.join(f'{player}\n{text}' for player, text in overview.items()) + '\n'
        )
        for player, params in state.params.items():
            print(f'{player}: {sum(x.size for x in jax.tree.leaves(params)):,} parameters')

    writer = create_writer(workdir, resume_step=newest, primary=main_process)
    evaluation: Any = generator.evaluation if registry.is_generator(config) else _evaluation
    if recognises:
        evaluation = probe.evaluation
    evaluate = evaluation(config, objective, runner, validation, workdir / 'pictures', writer)
    try:
        result = train(
            train_step=train_step,
            runner=runner,
            state=state,
            data=data,
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
            show_progress=show_progress and main_process,
        )
        if not result.evaluation and not result.stopped:  # nothing was left to train
            result = dataclasses.replace(result, evaluation=evaluate(result.state, int(result.state.step)))
    finally:
        checkpoints.close()
        writer.close()
    if data.skipped and main_process:
        name, reason = next(iter(data.skipped.items()))
        print(f'{len(data.skipped)} images could not be used and were skipped; the first: {name}: {reason}')
    return result


def _evaluation(
    config: ConfigDict,
    objective: TokenizerObjective,
    runner: Runner,
    batches: Any,
    folder: pathlib.Path,
    writer: MetricWriter,
) -> Callable[[TrainState, int], dict[str, float]]:
    """What the loop calls when an evaluation is due: metrics over unseen images, and a sheet of reconstructions."""
    tokenizer = objective.tokenizer
    perceptual = objective.perceptual

    def forward(variables: Any, batch: Any) -> Any:
        output: Any = tokenizer.apply(variables, batch['image'], train=False)
        return output.reconstruction, output.tokens

    compiled = runner.compile_evaluation(forward)

    def evaluate(state: TrainState, step: int) -> dict[str, float]:
        variables = tokenizer_variables(state)
        evaluation = evaluate_tokenizer(
            lambda images: compiled(variables, {'image': images}),
            batches,
            tokenizer.spec,
            perceptual=perceptual,
            shown=config.evaluate.pictures,
        )
        if jax.process_index() == 0 and len(evaluation.originals):
            sheet = evaluation.sheet()
            folder.mkdir(exist_ok=True)
            save_png(folder / f'reconstructions_{step:07d}.png', sheet)
            writer.write_images(step, {'reconstructions': sheet[None]})
        return evaluation.metrics

    return evaluate


def tokenizer_variables(state: TrainState) -> dict[str, Any]:
    """Variables for `Tokenizer.apply`: the moving average where the run keeps one."""
    params = state.params['tokenizer'] if state.ema is None else state.ema
    return {'params': params, **state.model_state['tokenizer']}


def closing_line(result: RunResult, workdir: pathlib.Path) -> str:
    """How a run ended, in one line."""
    step = int(result.state.step)
    if result.stopped:
        return f'stopped at step {step}, saved; the same command goes on from there · {workdir}'
    metrics = result.evaluation
    if 'psnr' not in metrics:
        bits = f' · {metrics["bits_per_token"]:.3f} bits per token' if 'bits_per_token' in metrics else ''
        bits += f' · {metrics["accuracy"]:.1%} recognised' if 'accuracy' in metrics else ''
        return f'loss {metrics["loss"]:.4f}{bits} on {int(metrics["images"])} unseen images · {workdir}'
    usage = ', '.join(f'{k.removeprefix("usage/")} {v:.1%}' for k, v in metrics.items() if k.startswith('usage/'))
    quality = f'PSNR {metrics["psnr"]:.2f} dB on {int(metrics["images"])} unseen images'
    return f'{quality} · codebook usage: {usage} · {workdir}'
