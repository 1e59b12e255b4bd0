"""Registry of models: one row per model name, and the construction of models from their settings."""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeAlias

import jax.numpy as jnp
from ml_collections import ConfigDict

from vistok.errors import UserError
from vistok.generators.autoregressive.ctf import CTF
from vistok.generators.autoregressive.dq_transformer import DQTransformer
from vistok.generators.autoregressive.far import FAR
from vistok.generators.autoregressive.llamagen import LlamaGen
from vistok.generators.autoregressive.vqgan_lc_gpt import VQGANLCGPT
from vistok.generators.diffusion.vq_ddm import VQDDM
from vistok.generators.generator import Generator, SampleConfig
from vistok.generators.masked.addp import ADDP
from vistok.generators.masked.addp_network import PixelEncoder
from vistok.generators.masked.linear_probe import LinearProbe
from vistok.generators.masked.mage import MAGE
from vistok.generators.masked.maskgit import MaskGIT
from vistok.tokenizers.code_free import BSQ, FSQ, LFQ
from vistok.tokenizers.control_gic import ControlGIC, ControlGICSimVQ
from vistok.tokenizers.dq_vae import DQVAE
from vistok.tokenizers.fqgan import FQGAN
from vistok.tokenizers.fvq import FVQ, MultiScaleFVQ, ResidualFVQ
from vistok.tokenizers.magvit2 import Magvit2VQ
from vistok.tokenizers.maskgit_vqgan import MaskGITVQGAN
from vistok.tokenizers.simvq import SimVQ, SimVQGAN
from vistok.tokenizers.tokenizer import Tokenizer, TokenSpec
from vistok.tokenizers.vqgan import EMAVQGAN, VQGAN
from vistok.tokenizers.vqgan_lc import VQGANLC

TOKENIZER, GENERATOR, PROBE = 'tokenizer', 'generator', 'probe'

Settings: TypeAlias = Mapping[str, Any] | ConfigDict
"""A block of a config, or the same as JSON gives it."""


@dataclasses.dataclass(frozen=True)
class Model:
    """Row of the registry.

    Attributes:
      kind: what the model is, and so which experiment trains it: 'tokenizer', 'generator' or 'probe'.
      cls: its class.
      config: the config (and variant) that trains it by default, as `vistok.config` takes it; '' where none does.
      official: names of `from_official` whose files hold this model, in the order in which they are tried; names that
        differ in nothing but the sizes, which are read from the weights, stand here once.
    """

    kind: str
    cls: type
    config: str
    official: tuple[str, ...] = ()


MODELS: dict[str, Model] = {
    'vqgan': Model(TOKENIZER, VQGAN, 'vqgan', ('llamagen_vq16', 'taming_vqgan_f16_1024')),
    'vqgan_ema': Model(TOKENIZER, EMAVQGAN, 'vqgan:ema'),
    'fqgan': Model(TOKENIZER, FQGAN, 'fqgan', ('fqgan_dual', 'fqgan_triple')),
    'vqgan_lc': Model(TOKENIZER, VQGANLC, 'vqgan_lc', ('vqgan_lc',)),
    'simvq': Model(TOKENIZER, SimVQ, 'simvq', ('simvq',)),
    'simvq_vqgan': Model(TOKENIZER, SimVQGAN, 'simvq:vqgan'),
    'magvit2_vq': Model(TOKENIZER, Magvit2VQ, 'simvq:plain'),
    'maskgit_vqgan': Model(TOKENIZER, MaskGITVQGAN, '', ('maskgit_vqgan',)),
    'fvq': Model(TOKENIZER, FVQ, 'fvq', ('fvq',)),
    'fvq_rq': Model(TOKENIZER, ResidualFVQ, 'fvq:rq'),
    'fvq_var': Model(TOKENIZER, MultiScaleFVQ, 'fvq:var'),
    'fsq': Model(TOKENIZER, FSQ, 'code_free:fsq'),
    'lfq': Model(TOKENIZER, LFQ, 'code_free:lfq'),
    'bsq': Model(TOKENIZER, BSQ, 'code_free:bsq'),
    'dq_vae': Model(TOKENIZER, DQVAE, 'dq_vae', ('dq_vae',)),
    'control_gic': Model(TOKENIZER, ControlGIC, 'control_gic', ('control_gic',)),
    'control_gic_simvq': Model(TOKENIZER, ControlGICSimVQ, 'control_gic:codec'),
    'llamagen': Model(GENERATOR, LlamaGen, 'llamagen', ('llamagen_gpt',)),
    'far': Model(GENERATOR, FAR, 'far', ('fqgan_far',)),
    'vqgan_lc_gpt': Model(GENERATOR, VQGANLCGPT, 'vqgan_lc_gpt', ('vqgan_lc_gpt',)),
    'vq_ddm': Model(GENERATOR, VQDDM, 'vq_ddm', ('vq_ddm',)),
    'dq_transformer': Model(GENERATOR, DQTransformer, 'dq_transformer', ('dq_transformer',)),
    'ctf': Model(GENERATOR, CTF, 'ctf'),
    'mage': Model(GENERATOR, MAGE, 'mage', ('mage',)),
    'maskgit': Model(GENERATOR, MaskGIT, 'maskgit'),
    'addp': Model(GENERATOR, ADDP, 'addp', ('addp',)),
    'recognizer': Model(PROBE, LinearProbe, 'addp_probe'),
}
"""Models by `config.model.name`.  A new model is one more row."""

PLAYERS = {TOKENIZER: 'tokenizer', GENERATOR: 'generator', PROBE: 'recognizer'}
"""Names of the players whose parameters are the model's, by kind of model."""

_CACHE_DTYPES = {'': None, 'int8': jnp.int8, 'float32': jnp.float32, 'bfloat16': jnp.bfloat16}
DTYPES = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}
_TOKEN_FIELDS = ('spec', 'grid', 'num_classes')  # arguments of generators that `tokens` holds, not `model`


def find_model(name: str) -> Model:
    """Returns the row of a model.

    Raises:
      UserError: an unknown name.
    """
    return known_entry(MODELS, name, 'model.name')


def names_of_kind(kind: str) -> tuple[str, ...]:
    """Returns the names of all models of a kind."""
    return tuple(name for name, model in MODELS.items() if model.kind == kind)


def known_entry(table: Mapping[str, Any], name: str, key: str) -> Any:
    """Returns an entry of a table.

    Raises:
      UserError: the table has none of this name; `key` is where the name was set.
    """
    if name not in table:
        raise UserError(f'unknown {key} {name!r}; known: {", ".join(table)}')
    return table[name]


def build_tokenizer(model: Settings) -> Tokenizer:
    """Builds the tokenizer that `config.model` describes.

    Raises:
      UserError: an unknown name or argument, or a model of another kind.
    """
    return _build(model, TOKENIZER)


def build_token_spec(tokens: Settings) -> TokenSpec:
    """Builds the token specification of a block `config.tokens`."""
    return TokenSpec(**{field.name: hashable(tokens[field.name]) for field in dataclasses.fields(TokenSpec)})


def build_generator(model: Settings, tokens: Settings, **components: Any) -> Generator:
    """Builds the generator that `config.model` describes.

    Args:
      model: `config.model`.
      tokens: `config.tokens`, the tokens that it generates.
      **components: models that are arguments of this one.

    Raises:
      UserError: an unknown name or argument, or a model of another kind.
    """
    arguments = dict(model)
    given = {
        'grid': hashable(tokens['grid']),
        'num_classes': arguments.pop('num_classes', tokens['num_classes']),  # a component may know no classes
    }
    return _build(arguments, GENERATOR, spec=build_token_spec(tokens), **given, **components)


def build_probe(model: Settings, encoder: Settings, num_classes: int) -> LinearProbe:
    """Builds a classifier on an encoder of pixels, whose sizes `encoder` holds."""
    later = {name: model[name] for name in ('drop_path', 'batch_norm') if name in model}  # runs may be older than these
    return LinearProbe(PixelEncoder(**encoder, dropout=model['dropout']), num_classes, linear=model['linear'], **later)


def build_sample_config(settings: Settings, **changes: Any) -> SampleConfig:
    """Builds the sampling settings of `config.sample`, with some of them changed."""
    options = {**settings, **changes}
    second = options.pop('second', None)  # of methods that draw two kinds of ids
    return SampleConfig(**options, second=None if second is None else SampleConfig(**second))


def _build(model: Settings, kind: str, **given: Any) -> Any:
    arguments = {key: hashable(value) for key, value in model.items()}
    name = arguments.pop('name')
    row = find_model(name)
    if row.kind != kind:
        raise UserError(f'model.name {name!r} is a {row.kind}; a {kind} is one of {", ".join(names_of_kind(kind))}')
    dtype = known_entry(DTYPES, arguments.pop('dtype', 'float32'), 'model.dtype')
    if 'cache_dtype' in arguments:
        arguments['cache_dtype'] = known_entry(_CACHE_DTYPES, arguments['cache_dtype'], 'model.cache_dtype')
    fields = {name for name in argument_names(row.cls) if name not in given}
    unknown = sorted(set(arguments) - fields)
    if unknown:
        raise UserError(f'{name} has no argument {unknown[0]!r}; known: {", ".join(sorted(fields))}')
    return row.cls(**arguments, **given, dtype=dtype)


def argument_names(cls: type) -> list[str]:
    """Returns the names of a model's constructor arguments."""
    return [field.name for field in dataclasses.fields(cls) if field.name not in ('parent', 'name')]


def describe_model(model: Any) -> dict[str, Any]:
    """Returns the block `config.model` that builds a model again, as JSON values.

    Models that are arguments of this one are described inside; the tokens of a generator are left out.

    Raises:
      UserError: the model's class has no row in the registry.
    """
    name = next((name for name, row in MODELS.items() if row.cls is type(model)), None)
    if name is None:
        raise UserError(f'a {type(model).__name__} has no row in the registry; known: {", ".join(MODELS)}')
    settings: dict[str, Any] = {'name': name}
    for key in argument_names(type(model)):
        if key in _TOKEN_FIELDS and MODELS[name].kind == GENERATOR:
            continue
        value = getattr(model, key)
        if dataclasses.is_dataclass(value):
            described = describe_model(value)
            classes = getattr(value, 'num_classes', None)
            if classes not in (None, model.num_classes):
                described['num_classes'] = classes
            value = described
        elif key == 'dtype':
            value = jnp.dtype(value).name
        elif key == 'cache_dtype':
            value = next(text for text, dtype in _CACHE_DTYPES.items() if dtype == value)
        settings[key] = value
    return settings


def default_arguments(name: str) -> dict[str, Any]:
    """Returns the arguments that a model has where `config.model` names none; lists for tuples, as in `config.json`."""
    if name not in MODELS:
        return {}
    fields = {field.name: field for field in dataclasses.fields(MODELS[name].cls)}
    given = {key: field.default for key, field in fields.items() if field.default is not dataclasses.MISSING}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in given.items()}


def hashable(value: Any) -> Any:
    """Returns tuples for lists (as JSON gives them): models are compared by their arguments."""
    return tuple(hashable(v) for v in value) if isinstance(value, list | tuple) else value
