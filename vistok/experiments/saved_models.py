"""Self-describing files of trained models: a `.safetensors` file whose header says how the model is built.

Entries of the header, besides those of every file of ours: 'model' (the block `config.model`), 'tokens' (for
generators, the block `config.tokens`), 'sample' (sampling defaults), 'layout' (digest of the description and of the
arrays' shapes, by which a file whose header was changed is noticed), and whatever is said about where it comes from.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from vistok.errors import UserError
from vistok.experiments import registry
from vistok.generators.generator import Generator
from vistok.generators.trained import TrainedGenerator
from vistok.tokenizers.tokenizer import Tokenizer
from vistok.tokenizers.trained import AnyArray, TrainedTokenizer
from vistok.weights.files import SavedVariables, save_variables

_MODEL, _TOKENS, _SAMPLE, _LAYOUT = 'model', 'tokens', 'sample', 'layout'


def save_model(
    model: TrainedTokenizer | TrainedGenerator,
    path: str | os.PathLike[str],
    about: Mapping[str, str] | None = None,
) -> None:
    """Writes a trained model as one file that `vistok.load` reads; an interrupted write leaves nothing at `path`.

    The tokenizer of a generator is not written: the file keeps its fingerprint.

    Args:
      model: what is written.
      path: of the file, which ends in `.safetensors`.
      about: where the model comes from, such as data and licence.

    Raises:
      UserError: the model's class is not in the registry, or its variables are not those of such a model.
    """
    variables = jax.tree.map(np.asarray, dict(model.variables))
    header = _describe(model)
    module: Any = model.module if isinstance(model, TrainedTokenizer) else model.generator
    check_variables(module, variables, str(path))
    header[_LAYOUT] = _layout_digest(header, variables)
    save_variables(path, json.loads(header[_MODEL])['name'], variables, {**(about or {}), **header})


def _describe(model: TrainedTokenizer | TrainedGenerator) -> dict[str, str]:
    """Returns the entries of the header that describe a model, as JSON."""
    if isinstance(model, TrainedTokenizer):
        return {_MODEL: json.dumps(registry.describe_model(model.module))}
    generator = model.generator
    tokens = {
        **dataclasses.asdict(generator.spec),
        'grid': generator.grid,
        'num_classes': generator.num_classes,
        'class_names': model.class_names,
        'fingerprint': model.tokenizer.fingerprint if model.tokenizer is not None else model.tokenizer_fingerprint,
    }
    if model.text_encoder is not None:
        tokens['text'] = dict(model.text_encoder)
    return {
        _MODEL: json.dumps(registry.describe_model(generator)),
        _TOKENS: json.dumps(tokens),
        _SAMPLE: json.dumps(dataclasses.asdict(model.sample_config)),
    }


def is_described(saved: SavedVariables) -> bool:
    """Tells whether one of our files says how its model is built; files of earlier versions may not."""
    return _MODEL in saved.about


def rebuild_model(saved: SavedVariables, source: str) -> TrainedTokenizer | TrainedGenerator:
    """Builds the model of a file that `save_model` wrote.

    Args:
      saved: what the file holds.
      source: name of the file, for messages.

    Raises:
      UserError: the description is damaged, unknown, or not that of the arrays.
    """
    try:
        settings = json.loads(saved.about[_MODEL])
        tokens = json.loads(saved.about.get(_TOKENS, 'null'))
        sample = json.loads(saved.about.get(_SAMPLE, '{}'))
        kind = registry.find_model(settings['name']).kind
        module: Any = registry.build_tokenizer(settings) if kind == registry.TOKENIZER else _generator(settings, tokens)
    except UserError as error:
        raise UserError(f'{source} describes a model that cannot be built: {error}') from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f'the description of the model in {source} is damaged: {error!r}') from error
    noted = saved.about.get(_LAYOUT)
    if noted is None or noted != _layout_digest(saved.about, saved.variables):
        check_variables(module, saved.variables, source)
    variables = _to_device(saved.variables)
    if kind == registry.TOKENIZER:
        return TrainedTokenizer(module, variables)
    return TrainedGenerator(
        module,
        variables,
        class_names=tuple(tokens['class_names']),
        sample_config=registry.build_sample_config(sample),
        tokenizer_fingerprint=tokens['fingerprint'],
        text_encoder=tokens.get('text'),
    )


def _generator(settings: registry.Settings, tokens: registry.Settings) -> Generator:
    parts: dict[str, Any] = {}
    rest = dict(settings)
    for name, value in settings.items():
        if isinstance(value, Mapping):  # a model that is an argument of this one
            part = registry.find_model(rest.pop(name)['name'])
            is_tokenizer = part.kind == registry.TOKENIZER
            parts[name] = registry.build_tokenizer(value) if is_tokenizer else registry.build_generator(value, tokens)
    return registry.build_generator(rest, tokens, **parts)


def _layout_digest(header: Mapping[str, str], variables: Mapping[str, Any]) -> str:
    """Returns a digest of a description and of the names and shapes of the arrays that it describes."""
    described = {name: header[name] for name in (_MODEL, _TOKENS) if name in header}
    flat = flax.traverse_util.flatten_dict(dict(variables), sep='/')
    shapes = {name: list(np.shape(value)) for name, value in flat.items()}
    return hashlib.sha256(json.dumps([described, shapes], sort_keys=True).encode()).hexdigest()


def check_variables(module: Tokenizer | Generator, variables: Mapping[str, Any], source: str) -> None:
    """Compares the names and shapes of variables with those that a model has.

    Raises:
      UserError: they differ; the sentence names the first difference.
    """
    if isinstance(module, Generator):
        needed: Any = jax.eval_shape(module.init, jax.random.key(0))
    else:
        image = jax.ShapeDtypeStruct((1, module.spec.cell, module.spec.cell, 3), jnp.float32)
        needed = jax.eval_shape(lambda x: module.init(jax.random.key(0), x), image)
    expected = {name: x.shape for name, x in flax.traverse_util.flatten_dict(dict(needed), sep='/').items()}
    given = {name: np.shape(x) for name, x in flax.traverse_util.flatten_dict(dict(variables), sep='/').items()}
    for name in sorted({*expected, *given}):
        if expected.get(name) != given.get(name):
            here = f'the shape {given[name]}' if name in given else 'no such array'
            there = f'one of shape {expected[name]}' if name in expected else 'none'
            raise UserError(
                f'{source} does not hold the model that it describes: {name} has {here}, but a '
                f'{type(module).__name__} of these arguments has {there}'
            )


def round_to_half(model: TrainedTokenizer | TrainedGenerator) -> TrainedTokenizer | TrainedGenerator:
    """Rounds the float32 values of a trained model to float16, which makes its file half as large.

    `rebuild_model` makes float32 of them again, so that the model computes as always, with the rounded values.

    Raises:
      UserError: a value is too large for float16.
    """

    def half(value: AnyArray) -> np.ndarray:
        array = np.asarray(value)
        if array.dtype != np.float32:
            return array
        if (largest := float(np.abs(array).max(initial=0))) > float(np.finfo(np.float16).max):
            raise UserError(f'the weights hold {largest:g}, too large for float16')
        return array.astype(np.float16)

    return dataclasses.replace(model, variables=jax.tree.map(half, model.variables))


def _to_device(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Puts host arrays on the device, half precision as float32; one call for all, which copies in the background."""
    return jax.device_put(jax.tree.map(lambda x: x.astype(np.float32) if x.dtype == np.float16 else x, dict(variables)))
