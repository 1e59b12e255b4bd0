"""Models from what lies on disk: `vistok.load`."""

import os
import pathlib

import jax
import jax.numpy as jnp

from vistok.errors import UserError
from vistok.experiments import registry, run_folder
from vistok.experiments.official_models import from_official, to_official
from vistok.experiments.tokenizer_file import TOKENIZER, is_described, read_tokenizer, rebuilt
from vistok.generators.trained import TrainedGenerator
from vistok.tokenizers.trained import TrainedTokenizer
from vistok.weights.files import is_ours, load_variables
from vistok.weights.rules import Network


def load(path: str | os.PathLike[str], which: int | str = 'latest') -> TrainedTokenizer | TrainedGenerator | Network:
    """A trained model, ready to call.

    Args:
      path: a run folder, one of its checkpoints (`runs/fqgan/checkpoints/400`), or a `.safetensors` file that
        `launch/convert.py` wrote.
      which: of a run folder's checkpoints: 'latest', 'best', or a step.

    Returns:
      A tokenizer (`encode`, `decode`), a generator (`sample`; `tokenizer.decode` makes images of that), with moving
      averages where the run kept them, or another converted network.

    Raises:
      UserError: there is nothing at `path`, or it is damaged or of another kind.
    """
    path = pathlib.Path(path)
    if path.is_file():
        if not is_ours(path):
            raise UserError(f'{path} holds official weights, not ours: convert it with launch/convert.py')
        saved = load_variables(path)
        if is_described(saved):
            return rebuilt(saved)
        return from_official(saved.name, to_official(saved.name, saved.variables))
    if path.parent.name == 'checkpoints' and path.name.isdigit():
        path, which = path.parents[1], int(path.name)
    config = run_folder.read_config(path)
    _, tree = run_folder.read_checkpoint(path, which)
    player = 'generator' if registry.is_generator(config) else 'tokenizer'
    if config.model.name == 'recognizer':
        player = 'recognizer'
    params = tree['params'][player] if tree.get('ema') is None else tree['ema']
    variables = {'params': params, **(tree['model_state'].get(player) or {})}
    variables = jax.tree.map(jnp.asarray, variables)
    if player == 'recognizer':
        return Network(registry.linear_probe(config), variables)
    if player == 'tokenizer':
        return TrainedTokenizer(registry.tokenizer(config), variables)
    tokenizer = read_tokenizer(path / TOKENIZER)
    return TrainedGenerator(registry.generator(config, tokenizer.module), variables, tokenizer=tokenizer)


def load_tokenizer(path: str | os.PathLike[str], which: int | str = 'latest') -> TrainedTokenizer:
    """Loads a trained tokenizer, as `load` does.

    Raises:
      UserError: there is nothing at `path`, or it is another kind of model.
    """
    model = load(path, which)
    if not isinstance(model, TrainedTokenizer):
        raise UserError(f'{path} holds no tokenizer but a {type(model).__name__}')
    return model
