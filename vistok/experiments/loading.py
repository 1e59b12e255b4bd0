"""Loading of trained models from run folders, from our files and from official ones."""

import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from vistok.errors import UserError
from vistok.experiments import registry, run_folder
from vistok.experiments.official_models import export_variables, from_official
from vistok.experiments.saved_models import is_described, rebuild_model
from vistok.generators.trained import TrainedGenerator
from vistok.tokenizers.trained import TrainedTokenizer
from vistok.weights.files import is_ours, load_variables, read_state_dict
from vistok.weights.rules import ConversionError, Network

TOKENIZER_FILE = 'tokenizer.safetensors'
"""Name of the tokenizer's file in run folders of generators and in folders of extracted tokens."""

Path = str | os.PathLike[str]
Model = TrainedTokenizer | TrainedGenerator | Network


def load(path: Path, which: int | str = 'latest', *, tokenizer: Path | TrainedTokenizer | None = None) -> Model:
    """Loads a trained model, ready to call.

    Args:
      path: a run folder, one of its checkpoints (`runs/fqgan/checkpoints/400`), or a `.safetensors` file that
        `vistok.save` or the command `convert` wrote.
      which: of a run folder's checkpoints: 'latest', 'best', or a step.
      tokenizer: for a generator whose tokenizer does not lie beside it, the tokenizer of its tokens or where it is.

    Returns:
      A tokenizer (`encode`, `decode`), a generator (`sample`), with moving averages where the run kept them, or
      another network.

    Raises:
      UserError: there is nothing at `path`, it is damaged or of another kind, or the tokenizer is of other tokens.
    """
    path = pathlib.Path(path)
    model = _load_file(path) if path.is_file() else _load_run(path, which)
    return model if tokenizer is None else with_tokenizer(model, tokenizer)


def _load_file(path: pathlib.Path) -> Model:
    if not is_ours(path):
        raise UserError(
            f'{path} holds official weights, not ours: convert it with launch/convert.py, or name what it holds: '
            'vistok.from_official(name, path)'
        )
    saved = load_variables(path)
    if is_described(saved):
        return rebuild_model(saved, str(path))
    return from_official(saved.name, export_variables(saved.name, saved.variables))  # of an earlier version


def _load_run(path: pathlib.Path, which: int | str) -> Model:
    if path.parent.name == 'checkpoints' and path.name.isdigit():
        path, which = path.parents[1], int(path.name)
    config = run_folder.read_config(path)
    _, tree = run_folder.read_checkpoint(path, which)
    kind = registry.find_model(config.model.name).kind
    player = registry.PLAYERS[kind]
    params = tree['params'][player] if tree.get('ema') is None else tree['ema']
    variables = {'params': params, **(tree['model_state'].get(player) or {})}
    variables = jax.tree.map(jnp.asarray, variables)
    if kind == registry.PROBE:
        return Network(registry.build_probe(config.model, config.encoder_model, len(config.class_names)), variables)
    if kind == registry.TOKENIZER:
        return TrainedTokenizer(registry.build_tokenizer(config.model), variables)
    tokenizer = load_tokenizer(path / TOKENIZER_FILE)
    return TrainedGenerator(
        build_run_generator(config, tokenizer),
        variables,
        tokenizer=tokenizer,
        class_names=tuple(config.tokens.class_names),
        sample_config=registry.build_sample_config(config.sample),
        tokenizer_fingerprint=config.tokens.fingerprint,
        text_encoder=config.tokens.get('text'),
    )


def build_run_generator(config: ConfigDict, tokenizer: TrainedTokenizer) -> Any:
    """Builds the generator of a run from its complete config, with the models that are parts of it."""
    cls: Any = registry.find_model(config.model.name).cls
    parts: dict[str, Any] = {
        name: registry.build_generator(config[f'{name}_model'], config.tokens) for name in cls.components
    }
    if 'tokenizer' in registry.argument_names(cls):
        parts['tokenizer'] = tokenizer.module
    return registry.build_generator(config.model, config.tokens, **parts)


def with_tokenizer(model: Model, tokenizer: Path | TrainedTokenizer) -> TrainedGenerator:
    """Returns a generator together with the tokenizer of its tokens.

    Raises:
      UserError: the model is no generator, or the tokenizer's tokens are not its.
    """
    if not isinstance(model, TrainedGenerator):
        raise UserError(f'only a generator is given a tokenizer, got a {type(model).__name__}')
    opened = tokenizer if isinstance(tokenizer, TrainedTokenizer) else load_tokenizer(tokenizer)
    return model.with_tokenizer(opened)


def load_tokenizer(path: Path, which: int | str = 'latest') -> TrainedTokenizer:
    """Loads a model as `load` does, which must be a tokenizer.

    Raises:
      UserError: there is none at `path`.
    """
    model = load(path, which)
    if not isinstance(model, TrainedTokenizer):
        raise UserError(f'{path} holds no tokenizer but a {type(model).__name__}')
    return model


def load_generator(
    path: Path, which: int | str = 'latest', *, tokenizer: Path | TrainedTokenizer | None = None
) -> TrainedGenerator:
    """Loads a model as `load` does, which must be a generator with its tokenizer.

    Raises:
      UserError: there is none at `path`, or its tokenizer is not known.
    """
    model = load(path, which, tokenizer=tokenizer)
    if not isinstance(model, TrainedGenerator):
        raise UserError(f'{path} holds no generator but a {type(model).__name__}')
    if model.tokenizer is None:
        raise UserError(f'{path} holds a generator without its tokenizer: name it, --tokenizer=FILE_OR_RUN')
    return model


def load_component(config: ConfigDict, key: str, names: tuple[str, ...]) -> TrainedGenerator:
    """Loads the trained generator that `config.<key>` names: a run folder, one of our files, or an official file.

    Args:
      config: of the run that needs it.
      key: name of the component.
      names: models that can take its place, by their name in the registry.

    Raises:
      UserError: there is none, or a model of another kind.
    """
    path = pathlib.Path(config[key])
    recipe = registry.find_model(names[0]).config
    if not config[key] or not path.exists():
        raise UserError(
            f'config.{key} is {config[key]!r}, which is no run folder and no file of weights; make one, for example '
            f'with python launch/train.py --config=configs/{recipe}.py, and name it: --config.{key}=runs/{recipe}'
        )
    model: Any = read_official(path, names) if path.is_file() and not is_ours(path) else load(path)
    found = registry.describe_model(model.generator)['name'] if isinstance(model, TrainedGenerator) else ''
    if found not in names:
        what = f'a model named {found}' if found else f'a {type(model).__name__}'
        raise UserError(f'{path} holds {what}; config.{key} is one of {", ".join(names)}')
    return model


def read_official(path: pathlib.Path, names: tuple[str, ...]) -> Any:
    """Reads an official file that holds one of some models, trying all layouts that are known of them.

    Raises:
      UserError: the file fits none of the layouts; the sentence says why not.
    """
    weights = read_state_dict(path)
    reasons = []
    layouts = [layout for name in names for layout in registry.find_model(name).official]
    for layout in layouts:
        try:
            return from_official(layout, weights)
        except ConversionError as error:
            reasons.append(f'not {layout}: {str(error).splitlines()[0]}')
    if not layouts:
        raise UserError(f'{path} holds official weights, but no official layout is known of {", ".join(names)}')
    raise UserError(f'{path} fits no official layout of {", ".join(names)}: {"; ".join(reasons)}')
