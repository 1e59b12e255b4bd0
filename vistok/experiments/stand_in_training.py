"""Training of the stand-in network on the embedded images, by instance discrimination.

Two crops of one place in a photograph (or of one digit), each flipped, brightened and tinted on its own, should have
similar features, and features unlike those of the other places in the batch.  Crops are neither blurred nor made noisy:
a perceptual distance must not learn to overlook that.  The validation images are used only to measure how often a crop
finds its partner among 128.
"""

import dataclasses
import time
from pathlib import Path

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float
from PIL import Image

from vistok.data.images.embedded import Digits, Photographs
from vistok.data.images.source import Split
from vistok.experiments.model_inputs import PathLike
from vistok.losses.contrastive import info_nce
from vistok.pretrained.stand_in import WEIGHTS, StandInTeacher

_SIZE = 64
_TEMPERATURE = 0.1
_LEARNING_RATE = 2e-3
_DIGIT_SHARE = 0.15
_CANDIDATES = 128


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Source of pairs of crops.

    Attributes:
      photographs: RGB images.
      digits: RGB images, each used whole.
    """

    photographs: list[Image.Image]
    digits: list[Image.Image]

    def draw(self, rng: np.random.Generator, count: int) -> Float[np.ndarray, 'two b s s 3']:
        """Draws two views each of `count` places, in [-1, 1]."""
        views = [self._pair(rng) for _ in range(count)]
        return np.stack([np.stack([pair[i] for pair in views]) for i in (0, 1)])

    def _pair(self, rng: np.random.Generator) -> list[Float[np.ndarray, 's s 3']]:
        if self.digits and rng.random() < _DIGIT_SHARE:
            image = self.digits[rng.integers(len(self.digits))]
            left, top, side = 0.0, 0.0, float(image.width)
        else:
            image = self.photographs[rng.integers(len(self.photographs))]
            largest = min(image.size)
            side = float(np.exp(rng.uniform(np.log(min(72, largest)), np.log(largest))))
            left, top = (rng.uniform(0, extent - side) for extent in image.size)
        return [_view(rng, image, left, top, side) for _ in range(2)]


def _view(
    rng: np.random.Generator, image: Image.Image, left: float, top: float, side: float
) -> Float[np.ndarray, 's s 3']:
    """Draws a crop of at least 60 % of the place's side, with its own flip, brightness, contrast and tint."""
    part = side * rng.uniform(0.6, 1.0)
    x, y = left + rng.uniform(0, side - part), top + rng.uniform(0, side - part)
    crop = image.resize((_SIZE, _SIZE), Image.Resampling.BICUBIC, box=(x, y, x + part, y + part))
    pixels = np.asarray(crop, np.float32) / 255
    if rng.random() < 0.5:
        pixels = pixels[:, ::-1]
    if rng.random() < 0.2:
        pixels = np.broadcast_to(pixels.mean(-1, keepdims=True), pixels.shape)
    gain = rng.uniform(0.7, 1.3) * rng.uniform(0.85, 1.15, 3)
    pixels = (pixels - pixels.mean()) * rng.uniform(0.7, 1.3) + pixels.mean()
    return np.clip(pixels * gain, 0, 1).astype(np.float32) * 2 - 1


def _photographs(split: Split) -> list[Image.Image]:
    source = Photographs(split)
    unique = {record.name: record for record in (source[i] for i in range(len(source))) if ' crop ' not in record.name}
    return [Image.fromarray(record.image) for record in unique.values()]


def _digits(split: Split) -> list[Image.Image]:
    source = Digits(split)
    return [Image.fromarray(source[i].image) for i in range(len(source))]


def _retrieval(model: StandInTeacher, params: dict, pairs: Pairs, trials: int, candidates: int) -> float:
    """Returns how often a crop's partner is the most similar one of the candidates."""
    rng = np.random.default_rng(12345)
    features = jax.jit(lambda images: model.apply({'params': params}, images))
    hits = []
    for _ in range(trials):
        a, b = (np.asarray(features(jnp.asarray(views))) for views in pairs.draw(rng, candidates))
        a, b = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (a, b))
        hits.append(((a @ b.T).argmax(-1) == np.arange(candidates)).mean())
    return float(np.mean(hits))


@dataclasses.dataclass(frozen=True)
class StandInReport:
    """Stand-in network with its training.

    Attributes:
      params: its parameters, rounded to float16.
      losses: of every step.
      untrained: share of held-out crops that find their partner before training.
      training: the same after training, for training photographs.
      held_out: the same, for validation photographs.
      path: file that holds the parameters; None if none was written.
    """

    params: dict
    losses: tuple[float, ...]
    untrained: float
    training: float
    held_out: float
    path: Path | None

    def __str__(self) -> str:
        lines = [f'untrained: a held-out crop finds its partner in {self.untrained:.1%} of cases']
        for name, share in (('training', self.training), ('held-out', self.held_out)):
            lines.append(f'trained: a {name} crop finds its partner in {share:.1%} of cases')
        return '\n'.join([*lines, *([] if self.path is None else [f'wrote {self.path}'])])


def train_stand_in(
    out: PathLike | None = WEIGHTS,
    *,
    steps: int = 500,
    batch_size: int = 48,
    seed: int = 0,
    candidates: int = _CANDIDATES,
    progress: bool = False,
) -> StandInReport:
    """Trains the stand-in network on the embedded training images.

    Args:
      out: `.npz` file for the parameters; by default that of the package; None: none is written.
      steps: training steps.
      batch_size: places per step, each seen twice.
      seed: of weights and crops.
      candidates: number of crops among which a crop is to find its partner.
      progress: prints the loss after every 100 steps.
    """
    train = Pairs(_photographs('train'), _digits('train'))
    held_out = Pairs(_photographs('validation'), [])
    model = StandInTeacher()
    params = model.init(jax.random.key(seed), jnp.zeros((1, _SIZE, _SIZE, 3)))['params']
    schedule = optax.warmup_cosine_decay_schedule(0, _LEARNING_RATE, steps // 20, steps)
    optimizer = optax.adamw(schedule, weight_decay=1e-4)
    opt_state = optimizer.init(params)
    untrained = _retrieval(model, params, held_out, 4, candidates)

    def loss(params: dict, views: Float[Array, 'two b s s 3']) -> Float[Array, '']:
        a, b = (jnp.asarray(model.apply({'params': params}, x)) for x in views)
        return 0.5 * (info_nce(a, b, _TEMPERATURE) + info_nce(b, a, _TEMPERATURE))

    @jax.jit
    def step(params: dict, opt_state: optax.OptState, views: Float[Array, 'two b s s 3']) -> tuple:
        value, grads = jax.value_and_grad(loss)(params, views)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, value

    rng = np.random.default_rng(seed)
    started, losses = time.time(), []
    for i in range(1, steps + 1):
        params, opt_state, value = step(params, opt_state, jnp.asarray(train.draw(rng, batch_size)))
        losses.append(float(value))
        if progress and i % 100 == 0:
            print(f'step {i}: loss {np.mean(losses[-100:]):.3f}, {time.time() - started:.0f} s', flush=True)

    stored = {path: np.asarray(x, np.float16) for path, x in flax.traverse_util.flatten_dict(params, sep='/').items()}
    if out is not None:
        np.savez_compressed(out, allow_pickle=False, **stored)
    rounded = flax.traverse_util.unflatten_dict({k: x.astype(np.float32) for k, x in stored.items()}, sep='/')
    training, unseen = (
        _retrieval(model, rounded, each, 16, candidates) for each in (Pairs(train.photographs, []), held_out)
    )
    path = None if out is None else Path(out)
    return StandInReport(rounded, tuple(losses), untrained, training, unseen, path)
