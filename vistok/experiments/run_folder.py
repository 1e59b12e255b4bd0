"""Run folders: config, checkpoints, and the check that a run goes on with its own model."""

import json
import logging
import os
import pathlib
from typing import Any

from ml_collections import ConfigDict

from vistok.errors import UserError
from vistok.experiments import registry
from vistok.experiments.best_checkpoint import best_mode
from vistok.files import write_text
from vistok.training.checkpoint import Checkpoints


def prepare(folder: pathlib.Path, config: ConfigDict, *, primary: bool = True) -> None:
    """Makes the folder of a new run, or checks that an existing one fits, and writes `config.json`.

    Args:
      folder: the run folder.
      config: of the run that is about to start.
      primary: whether this process writes.

    Raises:
      UserError: the folder cannot be written, or holds a run of another model.
    """
    _check(folder, config)
    if primary:
        write_text(folder / 'config.json', config.to_json(indent=2) + '\n')


def has_checkpoints(run: pathlib.Path) -> bool:
    """Returns whether there is a checkpoint to go on from."""
    return (run / 'checkpoints').is_dir() and any(path.name.isdigit() for path in (run / 'checkpoints').iterdir())


def read_config(run: pathlib.Path) -> ConfigDict:
    """Reads the config of a run folder.

    Raises:
      UserError: this is no run folder, or its config is damaged.
    """
    path = run / 'config.json'
    if not path.is_file():
        raise UserError(f'{run} is no run folder: it has no config.json')
    try:
        return ConfigDict(json.loads(path.read_text()))
    except (json.JSONDecodeError, UnicodeDecodeError, TypeError) as error:
        raise UserError(f'{path} is damaged: {error}') from error


def read_checkpoint(run: pathlib.Path, which: int | str = 'latest') -> tuple[int, Any]:
    """Reads a checkpoint of a run: its step, and its state tree as host arrays.

    Args:
      run: the run folder.
      which: 'latest', 'best', or a step.

    Raises:
      UserError: there is no such checkpoint.
    """
    config = read_config(run)
    if not (run / 'checkpoints').is_dir():
        raise UserError(f'{run} has no checkpoints yet')
    checkpoints = open_checkpoints(run, config, read_only=True)
    try:
        steps = checkpoints.steps
        if not steps:
            raise UserError(f'{run} has no checkpoints yet')
        step = {'latest': checkpoints.latest_step, 'best': checkpoints.best_step()}.get(str(which), which)
        if step not in steps:
            raise UserError(f'{run} has no checkpoint {which!r}; it has latest, best, {", ".join(map(str, steps))}')
        return int(step), checkpoints.restore_arrays(int(step))
    finally:
        checkpoints.close()


def open_checkpoints(run: pathlib.Path, config: ConfigDict, *, read_only: bool = False) -> Checkpoints:
    """Opens the checkpoints of a run, for training or for reading only."""
    return Checkpoints(
        run / 'checkpoints',
        keep=config.train.keep,
        best=config.evaluate.best_metric,
        best_mode=best_mode(config.evaluate.best_metric),
        read_only=read_only,
    )


def _check(workdir: pathlib.Path, config: ConfigDict) -> None:
    """Makes the folder, or refuses one that cannot be written or holds another model."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f'the run folder {workdir} cannot be made: {error.strerror}') from error
    if not os.access(workdir, os.W_OK):
        raise UserError(f'the run folder {workdir} cannot be written')
    if not (workdir / 'config.json').exists():
        return
    earlier = read_config(workdir)
    ours = ConfigDict(json.loads(config.to_json()))
    for block in ('model', 'tokens'):
        there, here = (dict(config.get(block, {})) for config in (earlier, ours))
        keys = sorted({*there, *here} - {'dtype'})
        if block == 'model':  # the run may be older than an argument, which then had its default
            there, here = ({**registry.default_arguments(model.get('name', '')), **model} for model in (there, here))
        for key in keys:
            if there.get(key) != here.get(key):
                raise UserError(
                    f'the run folder {workdir} holds another model (config.{block}.{key} is {there.get(key)} there, '
                    f'{here.get(key)} here); name another one by --workdir'
                )
    for key, value in _flat(ours).items():
        if _flat(earlier).get(key) != value:
            logging.warning('config.%s was %s when this run began and is %s now', key, _flat(earlier).get(key), value)


def _flat(config: ConfigDict, prefix: str = '') -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= _flat(value, f'{prefix}{key}.') if isinstance(value, ConfigDict) else {prefix + key: value}
    return flat
