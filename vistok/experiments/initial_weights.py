"""Weights that a run starts from (`config.init_from`): an earlier run, a converted file, or an official one."""

import dataclasses
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import jax
import numpy as np

from vistok.errors import UserError
from vistok.experiments import registry, run_folder
from vistok.experiments.loading import read_official
from vistok.experiments.official_models import from_official
from vistok.training.initialization import overlay, place_like
from vistok.training.state import TrainState
from vistok.weights.files import is_ours, load_variables, read_state_dict


def apply_weights(state: TrainState, given: dict[str, dict[str, Any]]) -> tuple[TrainState, str]:
    """Puts the weights that `read_weights` gave into a fresh state; returns it and an account of what became of each.

    Optimizer states stay fresh; moving averages start at the given weights.

    Raises:
      UserError: they do not fit the model at all.
    """
    params, model_state, lines = dict(state.params), dict(state.model_state), []
    for player, collections in given.items():
        if player not in params:
            continue
        collections = dict(collections)
        fitted = overlay(params[player], collections.pop('params'))
        params[player] = place_like(fitted.params, params[player])
        lines.append(f'{player}: {fitted.describe()}')
        if collections and _are_alike(collections, model_state[player]):
            model_state[player] = place_like(collections, model_state[player])
        elif collections or model_state[player]:
            lines.append(f'{player}: statistics and frozen tables are of other shapes or not given, left fresh')
    lines += [f'{player}: not given, left fresh' for player in params if player not in given]
    ema = state.ema
    if ema is not None:
        ema = jax.tree.map(lambda x: x.copy(), params[_model(params)])
    return dataclasses.replace(state, params=params, model_state=model_state, ema=ema), '\n'.join(lines)


def read_weights(source: pathlib.Path, model: str) -> dict[str, dict[str, Any]]:
    """Reads collections of variables ('params', 'batch_stats', ...) by player, as host arrays.

    Raises:
      UserError: there is nothing at `source`, or it is neither a run nor weights of such a model.
    """
    if source.is_dir():
        _, tree = run_folder.read_checkpoint(source)
        players = {
            player: {'params': params, **(tree['model_state'].get(player) or {})}
            for player, params in tree['params'].items()
        }
        if tree.get('ema') is not None:
            players[_model(players)]['params'] = tree['ema']
        return players
    if not source.is_file():
        raise UserError(f'init_from: there is no run folder or file {source}')
    player = registry.PLAYERS[registry.find_model(model).kind]
    if is_ours(source):
        return {player: load_variables(source).variables}
    players = {player: _to_host(read_official(source, (model,)).variables)}
    if player == registry.PLAYERS[registry.TOKENIZER]:
        players |= _official_discriminator(source)
    return players


def _official_discriminator(source: pathlib.Path) -> dict[str, dict[str, Any]]:
    """Reads the discriminator of an official training checkpoint; nothing if it holds none."""
    discriminator = {
        found[1]: x
        for name, x in (read_state_dict(source) | _discriminator_entry(source)).items()
        if (found := re.fullmatch(r'(?:loss\.)?discriminator\.(.*)', name))
    }
    if not discriminator:
        return {}
    name = 'patchgan' if any(key.startswith('main.') for key in discriminator) else 'stylegan_disc'
    return {'discriminator': _to_host(from_official(name, discriminator).variables)}


def _model(players: Mapping[str, Any]) -> str:
    """Returns the player that is the model, of which moving averages are kept."""
    return next(player for player in registry.PLAYERS.values() if player in players)


def _are_alike(given: Any, needed: Any) -> bool:
    """Tells whether two trees have the same names and shapes."""
    shapes: list[Any] = [jax.tree.map(np.shape, tree) for tree in (given, needed)]
    return shapes[0] == shapes[1]


def _discriminator_entry(source: pathlib.Path) -> dict[str, np.ndarray]:
    """Reads the discriminator that LlamaGen's training checkpoints keep beside the model; taming's keep it inside."""
    if source.suffix == '.safetensors':
        return {}
    entry = read_state_dict(source, wrappers=('discriminator',))
    named = any(key.startswith(('main.', 'blocks.')) for key in entry)
    return {f'loss.discriminator.{key}': x for key, x in entry.items()} if named else {}


def _to_host(variables: dict[str, Any]) -> dict[str, Any]:
    flat = flax.traverse_util.flatten_dict(variables)
    return flax.traverse_util.unflatten_dict({key: np.asarray(x) for key, x in flat.items()})
