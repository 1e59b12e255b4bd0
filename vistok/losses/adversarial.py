"""Adversarial losses, their weight schedule, and LeCam regularisation, as pure functions of logits."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from vistok.collectives import replica_mean
from vistok.errors import UserError

Logits = Float[Array, '...']
Scalar = Float[Array, '']


def hinge_discriminator_loss(real: Logits, fake: Logits) -> Scalar:
    """Computes half of mean max(0, 1 - real) + mean max(0, 1 + fake) (Lim and Ye 2017; halved as in VQGAN)."""
    return 0.5 * (jax.nn.relu(1 - real).mean() + jax.nn.relu(1 + fake).mean())


def logistic_discriminator_loss(real: Logits, fake: Logits) -> Scalar:
    """Computes half of the cross-entropies of real against 1 and fake against 0 (Goodfellow et al. 2014)."""
    return 0.5 * (jax.nn.softplus(-real).mean() + jax.nn.softplus(fake).mean())


def linear_generator_loss(fake: Logits) -> Scalar:
    """Returns the negative mean logit."""
    return -fake.mean()


def non_saturating_generator_loss(fake: Logits) -> Scalar:
    """Computes the binary cross-entropy of fake against 1 (Goodfellow et al. 2014, section 3)."""
    return jax.nn.softplus(-fake).mean()


def image_non_saturating_generator_loss(fake: Logits) -> Scalar:
    """Computes the binary cross-entropy of each image's mean logit against 1, averaged over images.

    SimVQ's code has it (Zhu et al. 2024, after Open-MAGVIT2): the logits `[b, ...]` of an image's patches are averaged
    before the softplus, not after it, so that an image counts as one decision.
    """
    return jax.nn.softplus(-fake.reshape(fake.shape[0], -1).mean(axis=1)).mean()


@dataclasses.dataclass(frozen=True)
class AdversarialLoss:
    """Losses of the two players of a GAN."""

    discriminator: Callable[[Logits, Logits], Scalar]
    generator: Callable[[Logits], Scalar]


ADVERSARIAL_LOSSES = {
    'hinge': AdversarialLoss(hinge_discriminator_loss, linear_generator_loss),
    'vanilla': AdversarialLoss(logistic_discriminator_loss, linear_generator_loss),
    'non_saturating': AdversarialLoss(logistic_discriminator_loss, non_saturating_generator_loss),
    'hinge_non_saturating': AdversarialLoss(hinge_discriminator_loss, non_saturating_generator_loss),
    'hinge_image_non_saturating': AdversarialLoss(hinge_discriminator_loss, image_non_saturating_generator_loss),
}


def adversarial_weight(step: jax.Array | int, start: int, ramp: int = 0) -> Scalar:
    """Returns 0 before step `start`, then a linear rise to 1 within `ramp` steps (at once if 0)."""
    if ramp < 0:
        raise UserError(f'ramp must be 0 or more steps, got {ramp}')
    since = jnp.asarray(step, jnp.float32) - start
    return jnp.where(since < 0, 0.0, jnp.clip((since + 1) / (ramp + 1), 0.0, 1.0))


def adaptive_weight(reconstruction_grad: Any, generator_grad: Any, maximum: float = 1e4) -> Scalar:
    """Balances the two losses by their gradients at the decoder's last layer (Esser et al. 2021, equation 7).

    Args:
      reconstruction_grad: gradient of the pixel and perceptual losses with respect to the last kernel.
      generator_grad: gradient of the generator loss with respect to the same.
      maximum: the largest weight.

    Returns:
      The ratio of the norms of the gradients over the whole batch; a constant for differentiation.
    """
    reconstruction_norm = optax.tree.norm(replica_mean(reconstruction_grad))
    generator_norm = optax.tree.norm(replica_mean(generator_grad))
    return jax.lax.stop_gradient(jnp.clip(reconstruction_norm / (generator_norm + 1e-4), 0.0, maximum))


@flax.struct.dataclass
class LeCam:
    """Running means of the logits, for LeCam regularisation (Tseng et al. 2021); belongs in the model state.

    Attributes:
      real: running mean logit of real images, a scalar.
      fake: running mean logit of fake images, a scalar.
    """

    real: Any  # not annotated with a shape: runners put stacked arrays and shardings in its place
    fake: Any

    @classmethod
    def zeros(cls) -> 'LeCam':
        """Returns the state before the first step."""
        return cls(jnp.zeros(()), jnp.zeros(()))

    def update(self, real: Logits, fake: Logits, decay: float = 0.999) -> 'LeCam':
        """Updates the running means by a batch of logits (of all replicas)."""
        real_mean, fake_mean = jax.lax.stop_gradient(replica_mean((real.mean(), fake.mean())))
        return LeCam(decay * self.real + (1 - decay) * real_mean, decay * self.fake + (1 - decay) * fake_mean)

    def penalty(self, real: Logits, fake: Logits) -> Scalar:
        """Computes the squared excess of real logits over the mean fake one, and of the mean real one over fake logits.

        The paper's equation 4 squares the differences; its authors' code clips them at zero first, as done here:
        only a discriminator that separates real from fake pays.
        """
        return jnp.square(jax.nn.relu(real - self.fake)).mean() + jnp.square(jax.nn.relu(self.real - fake)).mean()
