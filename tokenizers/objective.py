"""Training objective of tokenizers: pixels, perception, realism, and the tokenizer's own terms.

Composition: any `Tokenizer`, an optional discriminator as second player, optional frozen networks.  The defaults are
LlamaGen's weights (Sun et al. 2024, section 2.1 and its training code); FQGAN adds its teachers.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vistok.errors import UserError
from vistok.losses.adversarial import ADVERSARIAL_LOSSES, LeCam, adaptive_weight, adversarial_weight
from vistok.losses.contrastive import info_nce
from vistok.pretrained.frozen_network import FrozenNetwork
from vistok.tokenizers.tokenizer import Tokenizer, TokenizerOutput
from vistok.training.codebook_usage import codeword_counts
from vistok.training.state import Batch, StepReport

PIXEL_LOSSES = {
    'l1': lambda x, y: jnp.mean(jnp.abs(x - y)),
    'l2': lambda x, y: jnp.mean(jnp.square(x - y)),
}


@dataclasses.dataclass(frozen=True)
class AdversarialGame:
    """Discriminator and schedule of adversarial training.

    Attributes:
      discriminator: module with `__call__(images, train) -> logits`.
      loss: one of `ADVERSARIAL_LOSSES`.
      weight: weight of the generator loss.
      discriminator_weight: weight of the discriminator's loss.
      adaptive: whether `weight` is multiplied by the ratio of gradient norms at the last layer (taming).
      adaptive_maximum: the largest such ratio (DQ-VAE has 0.75).
      start: first step of the game; before it, both weights are 0.
      ramp: steps over which the weights then rise to their full size.
      lecam_weight: weight of the LeCam regulariser in the discriminator's loss; 0 leaves it out.
    """

    discriminator: nn.Module
    loss: str = 'hinge'
    weight: float = 0.5
    discriminator_weight: float = 0.5
    adaptive: bool = False
    adaptive_maximum: float = 1e4
    start: int = 20_000
    ramp: int = 0
    lecam_weight: float = 0.0


@dataclasses.dataclass(frozen=True, eq=False)
class TokenizerObjective:
    """An `Objective` with the players 'tokenizer' and, with a game, 'discriminator'.

    Attributes:
      tokenizer: the model.
      game: the adversarial part, or None.
      perceptual: frozen network that measures the distance of images, `(a, b) -> [b]`, or None.
      teachers: frozen networks whose features the tokenizer predicts, by the name it uses in `predictions`.
      pixel_loss: 'l2' or 'l1'.
      pixel_weight: weight of the pixel loss.
      perceptual_weight: weight of the mean perceptual distance.
      representation_weight: weight of the sum of the teachers' InfoNCE losses (FQGAN).
      representation_temperature: divides the cosines in it; FQGAN's code has 1, usual elsewhere is 0.07.
      representation_group: number of successive images that are compared in it; 0: the whole batch.
    """

    tokenizer: Tokenizer
    game: AdversarialGame | None = None
    perceptual: FrozenNetwork | None = None
    teachers: Mapping[str, FrozenNetwork] = dataclasses.field(default_factory=dict)
    pixel_loss: str = 'l2'
    pixel_weight: float = 1.0
    perceptual_weight: float = 1.0
    representation_weight: float = 0.5
    representation_temperature: float = 1.0
    representation_group: int = 0

    def __post_init__(self) -> None:
        if self.pixel_loss not in PIXEL_LOSSES:
            raise UserError(f'unknown pixel_loss {self.pixel_loss!r}; known: {", ".join(PIXEL_LOSSES)}')
        if self.game is not None and self.game.loss not in ADVERSARIAL_LOSSES:
            raise UserError(f'unknown adversarial loss {self.game.loss!r}; known: {", ".join(ADVERSARIAL_LOSSES)}')

    @property
    def players(self) -> tuple[str, ...]:
        """Names of the players."""
        return ('tokenizer',) if self.game is None else ('tokenizer', 'discriminator')

    @property
    def frozen(self) -> dict[str, Any]:
        """Variables of the frozen networks."""
        return {
            'perceptual': None if self.perceptual is None else self.perceptual.variables,
            'teachers': {name: teacher.variables for name, teacher in self.teachers.items()},
        }

    def init(self, rng: jax.Array, batch: Batch) -> tuple[dict[str, Any], dict[str, Any]]:
        """Initializes parameters and model state of both players, without running the networks."""
        images = jax.ShapeDtypeStruct(batch['image'].shape, jnp.float32)
        rng_tokenizer, rng_discriminator = jax.random.split(rng)
        variables = dict(self.tokenizer.lazy_init(rng_tokenizer, images, train=True))
        params: dict[str, Any] = {'tokenizer': variables.pop('params')}
        model_state: dict[str, Any] = {'tokenizer': variables}
        if self.game is not None:
            variables = dict(self.game.discriminator.lazy_init(rng_discriminator, images, train=True))
            params['discriminator'] = variables.pop('params')
            model_state['discriminator'] = variables
            if self.game.lecam_weight:
                model_state['lecam'] = LeCam.zeros()
        return params, model_state

    def losses(
        self,
        params: dict[str, Any],
        model_state: dict[str, Any],
        frozen: dict[str, Any],
        batch: Batch,
        rng: jax.Array,
        step: jax.Array,
    ) -> tuple[dict[str, Float[Array, '']], tuple[dict[str, Any], StepReport]]:
        """Computes the losses of both players; metrics `terms/*` carry their weights and add up to `loss/tokenizer`."""
        images = batch['image']
        path = self.tokenizer.last_layer
        flat = flax.traverse_util.flatten_dict(params['tokenizer'])

        def forward(last_kernel: jax.Array) -> tuple[jax.Array, tuple[TokenizerOutput, dict[str, Any]]]:
            tree = flax.traverse_util.unflatten_dict(flat | {path: last_kernel})
            output, changed = self.tokenizer.apply(
                {'params': tree, **model_state['tokenizer']},
                images,
                train=True,
                mutable=list(model_state['tokenizer']),
                rngs={'sampling': rng},
            )
            return output.reconstruction, (output, dict(changed))

        reconstruction, pull_back, (output, changed) = jax.vjp(forward, flat[path], has_aux=True)
        new_model_state = model_state | {'tokenizer': changed}

        def fidelity(reconstruction: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
            terms = {'pixel': self.pixel_weight * PIXEL_LOSSES[self.pixel_loss](reconstruction, images)}
            if self.perceptual is not None:
                distance: Any = self.perceptual.module.apply(frozen['perceptual'], reconstruction, images)
                terms['perceptual'] = self.perceptual_weight * distance.mean()
            return sum(terms.values(), jnp.zeros(())), terms

        _, terms = fidelity(reconstruction)
        terms |= output.losses
        for name, teacher in self.teachers.items():
            if name not in output.predictions:
                raise UserError(
                    f'the tokenizer predicts no features for teacher {name!r}; it has {sorted(output.predictions)}'
                )
            target: Any = jax.lax.stop_gradient(teacher.module.apply(frozen['teachers'][name], images))
            terms[f'representation/{name}'] = self.representation_weight * info_nce(
                output.predictions[name], target, self.representation_temperature, self.representation_group
            )

        losses, metrics = {}, dict(output.metrics)
        if self.game is not None:
            factor = adversarial_weight(step, self.game.start, self.game.ramp)
            loss = ADVERSARIAL_LOSSES[self.game.loss]
            real, state = self._discriminate(params, new_model_state['discriminator'], images)
            fake, state = self._discriminate(params, state, reconstruction)
            new_model_state |= {'discriminator': state}
            generator_weight = jnp.asarray(self.game.weight)
            if self.game.adaptive:
                ratio = self._adaptive_weight(params, model_state, fidelity, reconstruction, pull_back)
                generator_weight *= ratio
                metrics['adaptive_weight'] = ratio
            terms['adversarial'] = factor * generator_weight * loss.generator(fake)
            losses['discriminator'] = factor * self.game.discriminator_weight * loss.discriminator(real, fake)
            if self.game.lecam_weight:
                lecam = model_state['lecam'].update(real, fake)
                losses['discriminator'] += factor * self.game.lecam_weight * lecam.penalty(real, fake)
                new_model_state |= {'lecam': lecam}
            metrics |= {'logits/real': real.mean(), 'logits/fake': fake.mean(), 'adversarial_factor': factor}
        losses['tokenizer'] = sum(terms.values(), jnp.zeros(()))
        metrics |= {f'terms/{name}': value for name, value in terms.items()}
        metrics['psnr'] = _psnr(reconstruction, images)
        return losses, (new_model_state, StepReport(metrics, self._counts(output)))

    def _discriminate(self, params: dict[str, Any], state: dict[str, Any], images: jax.Array) -> tuple[jax.Array, Any]:
        assert self.game is not None
        logits, changed = self.game.discriminator.apply(
            {'params': params['discriminator'], **state}, images, train=True, mutable=list(state)
        )
        return logits.astype(jnp.float32), dict(changed)

    def _adaptive_weight(
        self,
        params: dict[str, Any],
        model_state: dict[str, Any],
        fidelity: Any,
        reconstruction: jax.Array,
        pull_back: Any,
    ) -> jax.Array:
        """Computes the ratio of gradient norms at the last layer; differentiates only from the pixels to that layer."""
        assert self.game is not None
        generator_loss = ADVERSARIAL_LOSSES[self.game.loss].generator
        fixed = jax.lax.stop_gradient(reconstruction)
        (fidelity_grad,) = pull_back(jax.grad(lambda x: fidelity(x)[0])(fixed))
        (generator_grad,) = pull_back(
            jax.grad(lambda x: generator_loss(self._discriminate(params, model_state['discriminator'], x)[0]))(fixed)
        )
        return adaptive_weight(fidelity_grad, generator_grad, self.game.adaptive_maximum)

    def _counts(self, output: TokenizerOutput) -> dict[str, jax.Array]:
        spec = self.tokenizer.spec
        return {
            name: codeword_counts(jnp.asarray(output.tokens.ids[..., i]), spec.codebook_sizes[i])
            for i, name in enumerate(spec.codebook_names)
        }


def _psnr(reconstruction: jax.Array, images: jax.Array) -> jax.Array:
    """Averages over images 10 log10(1 / MSE) on [0, 1], without the 8-bit rounding that evaluation applies."""
    error = jnp.mean(jnp.square(jnp.clip(reconstruction, -1, 1) - images), axis=(1, 2, 3)) / 4
    return jnp.mean(-10 / math.log(10) * jnp.log(jax.lax.stop_gradient(jnp.maximum(error, 1e-10))))
