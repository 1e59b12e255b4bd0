"""Models from what lies on disk: `tesserax.load`."""

import os
import pathlib

import jax
import jax.numpy as jnp

from tesserax.common.convert import Network
from tesserax.common.errors import UserError
from tesserax.common.weights import is_ours, load_variables
from tesserax.generators.trained import TrainedGenerator
from tesserax.launch import assemble, run_folder
from tesserax.launch.official import from_official, to_official
from tesserax.launch.tokenizer_file import TOKENIZER, is_described, read_tokenizer, rebuilt
from tesserax.tokenizers.trained import TrainedTokenizer


def load(path: str | os.PathLike[str], which: int | str = 'latest') -> TrainedTokenizer | TrainedGenerator | Network:
    """A trained model, ready to call.

    Args:
      path: a run folder, one of its checkpoints (`runs/fqgan/checkpoints/400`), or a `.safetensors` file that
        `launch/convert.py` wrote.
      which: of a run folder's checkpoints: 'latest', 'best', or a step.

    Returns:
      A tokenizer (`encode`, `decode`), a generator (`sample`; `tokenizer.decode` makes pictures of that), with moving
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
    player = 'generator' if assemble.is_generator(config) else 'tokenizer'
    if config.model.name == 'recognizer':
        player = 'recognizer'
    params = tree['params'][player] if tree.get('ema') is None else tree['ema']
    variables = {'params': params, **(tree['model_state'].get(player) or {})}
    variables = jax.tree.map(jnp.asarray, variables)
    if player == 'recognizer':
        return Network(assemble.recognizer(config), variables)
    if player == 'tokenizer':
        return TrainedTokenizer(assemble.tokenizer(config), variables)
    tokenizer = read_tokenizer(path / TOKENIZER)
    return TrainedGenerator(assemble.generator(config, tokenizer.module), variables, tokenizer=tokenizer)
