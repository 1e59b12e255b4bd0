"""The two frozen models inside an ADDP: the tokenizer, and the predictor of hidden tokens that it learns from."""

import copy
import dataclasses
import pathlib
from typing import Any

from ml_collections import ConfigDict

from vistok.errors import UserError
from vistok.experiments import run_folder
from vistok.experiments.loading import load
from vistok.tokenizers.trained import TrainedTokenizer
from vistok.training.initialise import place_like
from vistok.training.state import TrainState

PREDICTORS = ('mage', 'maskgit')


def wanted(config: ConfigDict) -> bool:
    """Whether `config` describes a generator with such parts."""
    return 'predictor' in config


def complete(config: ConfigDict, workdir: pathlib.Path) -> ConfigDict:
    """Fills `config.predictor_model`, if there is such a key.

    It describes the predictor in the run folder `config.predictor`, or, where the run in `workdir` has begun, the one
    that it began with.

    Raises:
      UserError: there is no such run, or it is of another kind of model or over other tokens.
    """
    if not wanted(config):
        return config
    begun = run_folder.has_checkpoints(workdir)
    theirs = run_folder.read_config(workdir).predictor_model if begun else _described(config)
    config = copy.deepcopy(config)
    with config.unlocked():
        config.predictor_model = copy.deepcopy(theirs)
    return config


def _described(config: ConfigDict) -> ConfigDict:
    run = pathlib.Path(config.predictor)
    if not config.predictor or not run.exists():
        raise UserError(
            f'config.predictor is {config.predictor!r}, which is no run folder; make one, for example with '
            'python launch/train.py --config=configs/mage.py, and name it: --config.predictor=runs/mage'
        )
    theirs = run_folder.read_config(run)
    if theirs.model.name not in PREDICTORS:
        raise UserError(f'{run} holds a {theirs.model.name}; a predictor is one of {", ".join(PREDICTORS)}')
    for what in ('fingerprint', 'grid', 'num_classes'):
        if _plain(theirs.tokens[what]) != _plain(config.tokens[what]):
            raise UserError(
                f'{run} predicts other tokens than these: its {what} is {theirs.tokens[what]}, that of this run '
                f'{config.tokens[what]}'
            )
    return theirs.model


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, list | tuple) else value


def fill(state: TrainState, config: ConfigDict, tokenizer: TrainedTokenizer) -> TrainState:
    """A fresh state with the trained parts in it."""
    predictor: Any = load(config.predictor)
    own = dict(state.model_state['generator'])
    given = {'tokenizer': tokenizer.variables, 'predictor': predictor.variables['params']}
    own |= {name: place_like(value, own[name]) for name, value in given.items()}
    return dataclasses.replace(state, model_state={**state.model_state, 'generator': own})
