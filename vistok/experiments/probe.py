"""Runs that recognise classes with the encoder of a trained ADDP."""

import copy
import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import jax
from ml_collections import ConfigDict

from vistok.data.images.pipeline import open_source
from vistok.errors import UserError
from vistok.experiments import registry, run_folder
from vistok.experiments.loading import load
from vistok.generators.evaluation import Batch, evaluate_generator
from vistok.generators.masked.linear_probe import LinearProbeObjective
from vistok.training.initialise import place_like
from vistok.training.parallel import Runner
from vistok.training.state import TrainState
from vistok.training.writers import MetricWriter

_SIZES = {'width': 'width', 'layers': 'encoder_layers', 'heads': 'encoder_heads'}  # ours: ADDP's


def wanted(config: ConfigDict) -> bool:
    """Whether `config` describes such a run."""
    return bool(config.model.name == 'recognizer')


def complete(config: ConfigDict, workdir: pathlib.Path) -> ConfigDict:
    """Fills `config.encoder_model`, which tells the sizes, and `config.class_names`.

    They come from the run folder `config.encoder` and from the data, or from the run in `workdir` where it has begun.

    Raises:
      UserError: there is no such run, it is of another kind of model, or its images have another size.
    """
    if not wanted(config):
        return config
    config = copy.deepcopy(config)
    if run_folder.has_checkpoints(workdir):
        begun = run_folder.read_config(workdir)
        sizes, names = begun.encoder_model, begun.class_names
    else:
        sizes = _described(config)
        names = open_source(config.data.source, 'train', data_dir=config.data.data_dir or None).class_names
    with config.unlocked():
        config.encoder_model, config.class_names = copy.deepcopy(sizes), tuple(names)
    return config


def _described(config: ConfigDict) -> ConfigDict:
    run = pathlib.Path(config.encoder)
    if not config.encoder or not run.exists():
        raise UserError(
            f'config.encoder is {config.encoder!r}, which is no run folder; make one with '
            'python launch/train.py --config=configs/addp.py, and name it: --config.encoder=runs/addp'
        )
    theirs = run_folder.read_config(run)
    if theirs.model.name != 'addp':
        raise UserError(f'{run} holds a {theirs.model.name}, which has no encoder of pixels; an addp has')
    rows, columns = theirs.tokens.grid
    patch = theirs.tokens.downsample_factor
    size = config.data.image_size
    if (rows * patch, columns * patch) != (size, size):
        raise UserError(
            f'data.image_size is {size}, but the encoder in {run} sees {rows * patch}x{columns * patch} pixels'
        )
    return ConfigDict(
        {'cells': rows * columns, 'patch': patch, **{ours: theirs.model[name] for ours, name in _SIZES.items()}}
    )


def objective(config: ConfigDict) -> LinearProbeObjective:
    """What is trained."""
    return LinearProbeObjective(registry.linear_probe(config), label_smoothing=config.model.label_smoothing)


def fill(state: TrainState, config: ConfigDict) -> TrainState:
    """A fresh state with the trained encoder in it."""
    trained: Any = load(config.encoder)
    encoder = trained.variables['params']['encoder']
    player = 'recognizer'
    if config.model.linear:
        own = state.model_state[player]
        own = {**own, 'frozen': {'trained_encoder': place_like(encoder, own['frozen']['trained_encoder'])}}
        return dataclasses.replace(state, model_state={**state.model_state, player: own})
    params = state.params[player]
    params = {**params, 'encoder': place_like(encoder, params['encoder'])}
    ema = None if state.ema is None else jax.tree.map(lambda x: x.copy(), params)
    return dataclasses.replace(state, params={**state.params, player: params}, ema=ema)


def evaluation(
    config: ConfigDict,
    objective: LinearProbeObjective,
    runner: Runner,
    batches: Any,
    folder: pathlib.Path,
    writer: MetricWriter,
) -> Callable[[TrainState, int], dict[str, float]]:
    """What the loop calls when an evaluation is due: loss and accuracy on unseen images."""
    del config, folder, writer
    compiled = runner.compile_evaluation(objective.scores)

    def evaluate(state: TrainState, step: int) -> dict[str, float]:
        del step
        params = state.params['recognizer'] if state.ema is None else state.ema
        variables = {'params': params, **state.model_state['recognizer']}

        def scores(batch: Batch) -> Any:
            return compiled(variables, {name: batch[name] for name in ('image', 'label')})

        return evaluate_generator(scores, batches)

    return evaluate
