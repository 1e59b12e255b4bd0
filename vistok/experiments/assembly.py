"""Construction of what every run consists of, from its config: networks beside the model, step, devices, data."""

import pathlib
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from ml_collections import ConfigDict

from vistok.data.images.augment import Distortions
from vistok.data.images.mixing import Mixing
from vistok.data.images.pipeline import (
    EvaluationBatches,
    TrainIterator,
    open_source,
)
from vistok.data.images.pipeline import evaluation_batches as make_evaluation_batches
from vistok.data.images.pipeline import train_batches as make_train_batches
from vistok.data.images.source import ImageSource, Split
from vistok.data.text.features import TextFeatureSource
from vistok.data.tokens.batches import EvaluationTokenBatches, train_token_batches
from vistok.data.tokens.dataset import TokenSource, token_folder
from vistok.errors import UserError
from vistok.experiments.registry import DTYPES, build_tokenizer, known_entry
from vistok.pretrained.frozen_network import FrozenNetwork, load_frozen_network
from vistok.tokenizers.networks.patchgan import PatchGAN
from vistok.tokenizers.networks.stylegan_discriminator import StyleGANDiscriminator
from vistok.tokenizers.objective import AdversarialGame, TokenizerObjective
from vistok.training.initialization import InitialData
from vistok.training.optimizer import make_optimizer
from vistok.training.parallel import Runner, make_runner
from vistok.training.state import Batch, Objective
from vistok.training.step import TrainStep


def build_discriminator(config: ConfigDict) -> nn.Module | None:
    """Builds the discriminator of `config.objective`; None if it has none.

    Raises:
      UserError: an unknown name.
    """
    settings = config.objective
    dtype = known_entry(DTYPES, config.model.get('dtype', 'float32'), 'model.dtype')
    if settings.discriminator == '':
        return None
    if settings.discriminator == 'patchgan':
        return PatchGAN(settings.discriminator_channels, settings.discriminator_layers, dtype=dtype)
    if settings.discriminator == 'stylegan':
        return StyleGANDiscriminator(image_size=config.data.image_size, dtype=dtype)
    raise UserError(f"unknown objective.discriminator {settings.discriminator!r}; known: patchgan, stylegan, ''")


def load_frozen(config: ConfigDict, kind: str) -> FrozenNetwork:
    """Loads a frozen network from the file that `config.judges` names for it."""
    options = {'sha256': config.judges.lpips_sha256 or None} if kind == 'lpips' else {}
    return load_frozen_network(kind, config.judges.get(kind) or None, **options)


def build_tokenizer_objective(config: ConfigDict) -> TokenizerObjective:
    """Builds the objective of a tokenizer: the model, its discriminator and frozen networks with their weights.

    Raises:
      UserError: an unknown name or argument.
    """
    settings = config.objective
    model = build_tokenizer(config.model)
    discriminator = build_discriminator(config)
    game = None
    if discriminator is not None:
        game = AdversarialGame(
            discriminator,
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
        perceptual=load_frozen(config, settings.perceptual) if settings.perceptual else None,
        teachers={kind: load_frozen(config, kind) for kind in teachers},
        pixel_loss=settings.pixel_loss,
        pixel_weight=settings.pixel_weight,
        perceptual_weight=settings.perceptual_weight,
        representation_weight=settings.representation_weight,
        representation_temperature=settings.representation_temperature,
        representation_group=settings.get('representation_group', 0),
    )


DISCRIMINATOR_PASSES = {'shared': False, 'fresh': True}
"""Values of `objective.discriminator_pass`: whether the discriminator learns from a forward pass of its own."""


def build_train_step(config: ConfigDict, objective: Objective) -> TrainStep:
    """Builds the training step, with one optimizer for each player.

    Raises:
      UserError: an unknown value.
    """
    settings = dict(config.optimizer)
    relative = dict.fromkeys(objective.players, 1.0) | {'discriminator': settings.pop('discriminator_rate', 1.0)}
    rate, clip = settings.pop('learning_rate'), settings.pop('clip_norm')
    optimizers = {
        player: make_optimizer(
            learning_rate=rate * relative[player],
            clip_norm=clip or None,
            total_steps=config.train.steps,
            depths=getattr(objective, 'parameter_depths', None),
            **settings,
        )
        for player in objective.players
    }
    # Generators have no such block, and runs may be older than the key.
    discriminator_pass = config.get('objective', {}).get('discriminator_pass', 'shared')
    return TrainStep(
        objective,
        optimizers,
        seed=config.train.seed,
        ema_decay=config.train.ema_decay or None,
        accumulate=config.train.accumulate,
        fresh_passes=known_entry(DISCRIMINATOR_PASSES, discriminator_pass, 'objective.discriminator_pass'),
    )


def build_runner(config: ConfigDict) -> Runner:
    """Builds the runner over the devices of `config.train`, and checks that batches can be split among them.

    Raises:
      UserError: a batch size that the devices cannot share.
    """
    runner = make_runner(config.train.runner, **config.train.mesh, devices=config.train.devices or None)
    runner.check_batch(config.train.batch_size, config.train.accumulate)
    runner.check_batch(config.evaluate.batch_size)
    return runner


def open_images(config: ConfigDict, split: Split) -> ImageSource:
    """Opens one split of the images of `config.data`."""
    return open_source(config.data.source, split, data_dir=config.data.data_dir or None)


def train_batches(config: ConfigDict) -> Any:
    """Returns this process's part of the training batches: images or, where `config.data` names tokens, tokens."""
    folder = token_folder(config.data.source)
    if folder is None:
        return _train_image_batches(config, config.train.batch_size)
    return train_token_batches(
        TokenSource(folder, 'train'),
        batch_size=config.train.batch_size,
        seed=config.train.seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        threads=config.data.threads,
        text=open_captions(config),
    )


def _train_image_batches(config: ConfigDict, batch_size: int, *, all_processes: bool = False) -> TrainIterator:
    """Returns augmented training images: this process's part of each batch or, with `all_processes`, all of it."""
    given = config.data.to_dict()
    distortions = {name: given[name] for name in ('least_area', 'rand_augment', 'erasing') if name in given}
    return make_train_batches(
        open_images(config, 'train'),
        image_size=config.data.image_size,
        batch_size=batch_size,
        seed=config.train.seed,
        augmentation=config.data.augmentation,
        flip=config.data.flip,
        distortions=Distortions(**distortions),
        mixing=Mixing(**given.get('mixing', {})),
        process_index=0 if all_processes else jax.process_index(),
        process_count=1 if all_processes else jax.process_count(),
        threads=config.data.threads,
    )


def evaluation_image_size(config: ConfigDict) -> int:
    """Returns the side in pixels of the images that a run is evaluated on."""
    return config.evaluate.get('image_size') or config.data.image_size


def evaluation_batches(config: ConfigDict) -> EvaluationBatches | EvaluationTokenBatches:
    """Returns this process's part of the validation images, or of their tokens."""
    folder = token_folder(config.data.source)
    shared: dict[str, Any] = {
        'batch_size': config.evaluate.batch_size,
        'process_index': jax.process_index(),
        'process_count': jax.process_count(),
        'threads': config.data.threads,
    }
    if folder is not None:
        return EvaluationTokenBatches(TokenSource(folder, 'validation'), text=open_captions(config), **shared)
    return make_evaluation_batches(
        open_images(config, 'validation'), image_size=evaluation_image_size(config), **shared
    )


def open_captions(config: ConfigDict) -> TextFeatureSource | None:
    """Opens the caption features that `config.data.text_features` names; None if it names none."""
    folder = config.data.get('text_features')
    return TextFeatureSource(pathlib.Path(folder).expanduser()) if folder else None


def example_batch(config: ConfigDict) -> Batch:
    """Returns a batch of one image of zeros, which tells shapes."""
    size = config.data.image_size
    return {'image': np.zeros((1, size, size, 3), np.float32), 'label': np.zeros((1,), np.int32)}


def initial_data(config: ConfigDict, **parts: Any) -> InitialData:
    """Returns the inputs of a run's initializers; `parts` are its tokenizer and components, if it has any."""

    def training_views(batch_size: int) -> Iterator[Batch]:
        return _train_image_batches(config, batch_size, all_processes=True)

    return InitialData(config.train.seed, config.data.image_size, training_views, **parts)
