"""From a config to objects.  The names that a config may use are the keys of the tables here."""

import dataclasses
import pathlib
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from vistok.data.images.pipeline import EvaluationBatches, TrainIterator, open_source
from vistok.data.images.pipeline import evaluation_batches as make_evaluation_batches
from vistok.data.images.pipeline import train_batches as make_train_batches
from vistok.data.text.features import TextFeatureSource
from vistok.data.tokens.batches import EvaluationTokenBatches, train_token_batches
from vistok.data.tokens.dataset import TokenSource, token_folder
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
from vistok.generators.objective import GeneratorObjective
from vistok.pretrained.frozen_network import FrozenNetwork, load_frozen_network
from vistok.tokenizers.code_free import BSQ, FSQ, LFQ
from vistok.tokenizers.control_gic import ControlGIC, ControlGICSimVQ
from vistok.tokenizers.dq_vae import DQVAE
from vistok.tokenizers.fqgan import FQGAN
from vistok.tokenizers.fvq import FVQ, MultiScaleFVQ, ResidualFVQ
from vistok.tokenizers.magvit2 import Magvit2VQ
from vistok.tokenizers.maskgit_vqgan import MaskGITVQGAN
from vistok.tokenizers.networks.patchgan import PatchGAN
from vistok.tokenizers.networks.stylegan_discriminator import StyleGANDiscriminator
from vistok.tokenizers.objective import AdversarialGame, TokenizerObjective
from vistok.tokenizers.simvq import SimVQ, SimVQGAN
from vistok.tokenizers.tokenizer import Tokenizer, TokenSpec
from vistok.tokenizers.trained import TrainedTokenizer
from vistok.tokenizers.vqgan import EMAVQGAN, VQGAN
from vistok.tokenizers.vqgan_lc import VQGANLC
from vistok.training.optimizer import make_optimizer
from vistok.training.parallel import Runner, make_runner
from vistok.training.state import Objective
from vistok.training.step import TrainStep

TOKENIZERS: dict[str, type[Tokenizer]] = {
    'vqgan': VQGAN,
    'vqgan_ema': EMAVQGAN,
    'fqgan': FQGAN,
    'vqgan_lc': VQGANLC,
    'simvq': SimVQ,
    'simvq_vqgan': SimVQGAN,
    'magvit2_vq': Magvit2VQ,
    'maskgit_vqgan': MaskGITVQGAN,
    'fvq': FVQ,
    'fvq_rq': ResidualFVQ,
    'fvq_var': MultiScaleFVQ,
    'fsq': FSQ,
    'lfq': LFQ,
    'bsq': BSQ,
    'dq_vae': DQVAE,
    'control_gic': ControlGIC,
    'control_gic_simvq': ControlGICSimVQ,
}
GENERATORS: dict[str, type[Generator]] = {
    'llamagen': LlamaGen,
    'far': FAR,
    'vqgan_lc_gpt': VQGANLCGPT,
    'vq_ddm': VQDDM,
    'dq_transformer': DQTransformer,
    'ctf': CTF,
    'mage': MAGE,
    'maskgit': MaskGIT,
    'addp': ADDP,
}
CACHE_DTYPES = {'': None, 'int8': jnp.int8, 'float32': jnp.float32, 'bfloat16': jnp.bfloat16}
DTYPES = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}


def tokenizer(config: ConfigDict) -> Tokenizer:
    """The module that `config.model` describes.

    Raises:
      UserError: an unknown name or argument.
    """
    return _model(TOKENIZERS, config)


def is_generator(config: ConfigDict) -> bool:
    """Whether `config.model` describes a generator."""
    return config.model.name in GENERATORS


def token_spec(config: ConfigDict) -> TokenSpec:
    """The tokens that `config.tokens` describes."""
    return TokenSpec(**{field.name: _hashable(config.tokens[field.name]) for field in dataclasses.fields(TokenSpec)})


def generator(config: ConfigDict, tokenizer: Tokenizer | None = None) -> Generator:
    """The generator that `config.model` describes, of the tokens that `config.tokens` describes.

    Args:
      config: of the run.
      tokenizer: whose tokens these are, for generators that decode while they generate.

    Raises:
      UserError: an unknown name or argument.
    """
    tokens: dict[str, Any] = {
        'spec': token_spec(config),
        'grid': _hashable(config.tokens.grid),
        'num_classes': config.tokens.num_classes,
    }
    parts: dict[str, Any] = {}
    if 'predictor_model' in config:
        predictor = _model(GENERATORS, ConfigDict({'model': config.predictor_model}), **tokens)
        parts = {'tokenizer': tokenizer, 'predictor': predictor}
    return _model(GENERATORS, config, **tokens, **parts)


def linear_probe(config: ConfigDict) -> LinearProbe:
    """The classifier that `config` describes, on an encoder of the sizes that `config.encoder_model` tells."""
    encoder = PixelEncoder(**config.encoder_model, dropout=config.model.dropout)
    return LinearProbe(encoder, len(config.class_names), linear=config.model.linear)


def sample_config(config: ConfigDict, **changes: Any) -> SampleConfig:
    """How a generator's run samples."""
    options = {**config.sample, **changes}
    second = options.pop('second', None)  # of methods that draw two kinds of ids
    return SampleConfig(**options, second=None if second is None else SampleConfig(**second))


def _model(table: dict[str, Any], config: ConfigDict, **given: Any) -> Any:
    arguments = {key: _hashable(value) for key, value in config.model.items()}
    cls = _known(table, arguments.pop('name'), 'model.name')
    dtype = _known(DTYPES, arguments.pop('dtype', 'float32'), 'model.dtype')
    if 'cache_dtype' in arguments:
        arguments['cache_dtype'] = _known(CACHE_DTYPES, arguments['cache_dtype'], 'model.cache_dtype')
    fields = {name for name in cls.__dataclass_fields__ if name not in ('parent', 'name', *given)}
    unknown = sorted(set(arguments) - fields)
    if unknown:
        raise UserError(f'{config.model.name} has no argument {unknown[0]!r}; known: {", ".join(sorted(fields))}')
    return cls(**arguments, **given, dtype=dtype)


def defaults(name: str) -> dict[str, Any]:
    """The arguments that a model has where `config.model` does not name them; lists for tuples, as in `config.json`."""
    known: dict[str, Any] = {**TOKENIZERS, **GENERATORS}
    fields = known[name].__dataclass_fields__ if name in known else {}
    given = {key: field.default for key, field in fields.items() if field.default is not dataclasses.MISSING}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in given.items()}


def discriminator(config: ConfigDict) -> nn.Module | None:
    """The second player, or None."""
    settings = config.objective
    dtype = _known(DTYPES, config.model.get('dtype', 'float32'), 'model.dtype')
    if settings.discriminator == '':
        return None
    if settings.discriminator == 'patchgan':
        return PatchGAN(settings.discriminator_channels, settings.discriminator_layers, dtype=dtype)
    if settings.discriminator == 'stylegan':
        return StyleGANDiscriminator(image_size=config.data.image_size, dtype=dtype)
    raise UserError(f"unknown objective.discriminator {settings.discriminator!r}; known: patchgan, stylegan, ''")


def frozen_network(config: ConfigDict, kind: str) -> FrozenNetwork:
    """A frozen network, from the file that `config.judges` names for it."""
    options = {'sha256': config.judges.lpips_sha256 or None} if kind == 'lpips' else {}
    return load_frozen_network(kind, config.judges.get(kind) or None, **options)


def objective(
    config: ConfigDict, frozen_tokenizer: TrainedTokenizer | None = None
) -> TokenizerObjective | GeneratorObjective:
    """What `config` trains: a tokenizer, or a generator over the tokens of a frozen one.

    Raises:
      UserError: an unknown name or argument.
    """
    if is_generator(config):
        module = None if frozen_tokenizer is None else frozen_tokenizer.module
        return GeneratorObjective(generator(config, module), frozen_tokenizer)
    _known(TOKENIZERS | GENERATORS, config.model.name, 'model.name')
    return tokenizer_objective(config)


def tokenizer_objective(config: ConfigDict) -> TokenizerObjective:
    """Tokenizer, discriminator and judges, with their weights."""
    settings = config.objective
    model = tokenizer(config)
    second = discriminator(config)
    game = None
    if second is not None:
        game = AdversarialGame(
            second,
            loss=settings.adversarial_loss,
            weight=settings.adversarial_weight,
            discriminator_weight=settings.discriminator_weight,
            adaptive=settings.adaptive_weight,
            adaptive_maximum=settings.adaptive_maximum,
            start=settings.discriminator_start,
            ramp=settings.discriminator_ramp,
            lecam_weight=settings.lecam_weight,
        )
    teachers = model.teacher_kinds if settings.representation_weight else ()
    return TokenizerObjective(
        model,
        game,
        perceptual=frozen_network(config, settings.perceptual) if settings.perceptual else None,
        teachers={kind: frozen_network(config, kind) for kind in teachers},
        pixel_loss=settings.pixel_loss,
        pixel_weight=settings.pixel_weight,
        perceptual_weight=settings.perceptual_weight,
        representation_weight=settings.representation_weight,
        representation_temperature=settings.representation_temperature,
    )


def train_step(config: ConfigDict, objective: Objective) -> TrainStep:
    """The step, with one optimizer for each player."""
    settings = dict(config.optimizer)
    relative = dict.fromkeys(objective.players, 1.0) | {'discriminator': settings.pop('discriminator_rate', 1.0)}
    rate, clip = settings.pop('learning_rate'), settings.pop('clip_norm')
    optimizers = {
        player: make_optimizer(
            learning_rate=rate * relative[player], clip_norm=clip or None, total_steps=config.train.steps, **settings
        )
        for player in objective.players
    }
    return TrainStep(
        objective,
        optimizers,
        seed=config.train.seed,
        ema_decay=config.train.ema_decay or None,
        accumulate=config.train.accumulate,
    )


def runner(config: ConfigDict) -> Runner:
    """The devices."""
    return make_runner(config.train.runner, **config.train.mesh, devices=config.train.devices or None)


def train_batches(config: ConfigDict) -> TrainIterator:
    """This process's part of the training batches: images, or tokens for a generator."""
    folder = _token_folder(config)
    if folder is not None:
        return train_token_batches(
            TokenSource(folder, 'train'),
            batch_size=config.train.batch_size,
            seed=config.train.seed,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            threads=config.data.threads,
            text=captions(config),
        )
    source = open_source(config.data.source, 'train', data_dir=config.data.data_dir or None)
    return make_train_batches(
        source,
        image_size=config.data.image_size,
        batch_size=config.train.batch_size,
        seed=config.train.seed,
        augmentation=config.data.augmentation,
        flip=config.data.flip,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        threads=config.data.threads,
    )


def evaluation_image_size(config: ConfigDict) -> int:
    """Side of the images that a run is evaluated on, in pixels."""
    return config.evaluate.get('image_size') or config.data.image_size


def evaluation_batches(config: ConfigDict) -> EvaluationBatches | EvaluationTokenBatches:
    """This process's part of the validation images, or of their tokens."""
    folder = _token_folder(config)
    if folder is not None:
        return EvaluationTokenBatches(
            TokenSource(folder, 'validation'),
            batch_size=config.evaluate.batch_size,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            threads=config.data.threads,
            text=captions(config),
        )
    return make_evaluation_batches(
        open_source(config.data.source, 'validation', data_dir=config.data.data_dir or None),
        image_size=evaluation_image_size(config),
        batch_size=config.evaluate.batch_size,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        threads=config.data.threads,
    )


def captions(config: ConfigDict) -> TextFeatureSource | None:
    """Features of the captions that `config.data.text_features` names, if it does."""
    folder = config.data.get('text_features')
    return TextFeatureSource(pathlib.Path(folder).expanduser()) if folder else None


def example_batch(config: ConfigDict) -> dict[str, np.ndarray]:
    """A batch of one, for shapes."""
    size = config.data.image_size
    return {'image': np.zeros((1, size, size, 3), np.float32), 'label': np.zeros((1,), np.int32)}


def _token_folder(config: ConfigDict) -> pathlib.Path | None:
    folder = token_folder(config.data.source)
    if folder is not None and not is_generator(config):
        raise UserError(f'a tokenizer learns from images; data.source={config.data.source} holds tokens')
    return folder


def _known(table: dict[str, Any], name: str, key: str) -> Any:
    if name not in table:
        raise UserError(f'unknown {key} {name!r}; known: {", ".join(table)}')
    return table[name]


def _hashable(value: Any) -> Any:
    """Modules are compared by their arguments, so lists (as JSON gives them) become tuples."""
    return tuple(_hashable(v) for v in value) if isinstance(value, list | tuple) else value
