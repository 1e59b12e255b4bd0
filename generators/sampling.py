"""Sampling of ids from logits: guidance, temperature, top-k, top-p and Gumbel noise, as pure functions."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from vistok.errors import UserError
from vistok.generators.generator import SampleConfig


def guidance_scales(config: SampleConfig, positions: int) -> Float[np.ndarray, ' n']:
    """Computes the guidance scale of each position.

    'power_cosine' is `1 + (s - 1) (1 - cos(pi (t / n)^p)) / 2` (Yu et al., "Randomized Autoregressive Visual
    Generation", 2024).

    Raises:
      UserError: an unknown schedule.
    """
    t, scale = np.arange(positions), config.guidance_scale
    share: np.ndarray
    if config.guidance_schedule == 'constant':
        share = np.ones(positions)
    elif config.guidance_schedule == 'interval':
        share = t < config.guidance_interval
    elif config.guidance_schedule == 'power_cosine':
        share = (1 - np.cos(np.pi * (t / positions) ** config.guidance_power)) / 2
    else:
        raise UserError(
            f'unknown guidance_schedule {config.guidance_schedule!r}; known: constant, interval, power_cosine'
        )
    return (1 + (scale - 1) * share).astype(np.float32)


def guide(logits: Float[Array, 'two_b K'], scale: Float[Array, '*b_1']) -> Float[Array, 'b K']:
    """Applies classifier-free guidance, `null + scale (conditional - null)` in float32; conditional rows come first."""
    conditional, null = jnp.split(logits.astype(jnp.float32), 2)
    return null + scale * (conditional - null)


def filter_logits(logits: Float[Array, 'b K'], config: SampleConfig) -> Float[Array, 'b K']:
    """Divides logits by the temperature, and sets those that top-k or top-p exclude to minus infinity.

    Args:
      logits: logits in float32.
      config: sampling options with a temperature above 0.
    """
    logits = logits / config.temperature
    if 0 < config.top_k < logits.shape[-1]:
        least = jax.lax.top_k(logits, config.top_k)[0][:, -1:]
        logits = jnp.where(logits >= least, logits, -jnp.inf)
    if config.top_p < 1:
        logits = jnp.where(_nucleus(logits, config.top_p), logits, -jnp.inf)
    return logits


def _nucleus(logits: Float[Array, 'b K'], top_p: float) -> Bool[Array, 'b K']:
    """Selects the most likely ids up to the one that crosses `top_p`; among equals the lower number comes first."""
    order = jnp.argsort(-logits, axis=-1, stable=True)
    probabilities = jnp.take_along_axis(jax.nn.softmax(logits), order, axis=-1)
    kept = jnp.cumsum(probabilities, axis=-1) - probabilities <= top_p
    kept = kept.at[:, 0].set(True)
    return jax.vmap(lambda keep, where: jnp.zeros_like(keep).at[where].set(keep))(kept, order)


def draw(logits: Float[Array, 'b K'], keys: Array, config: SampleConfig) -> Int[Array, ' b']:
    """Samples one id for each row: the largest filtered logit plus Gumbel noise of the row's key.

    Args:
      logits: logits after guidance.
      keys: random key of each row.
      config: sampling options; temperature 0 takes the largest logit, whatever the filters and keys.
    """
    logits = logits.astype(jnp.float32)
    if config.temperature > 0:
        noise = jax.vmap(lambda key: jax.random.gumbel(key, logits.shape[1:], jnp.float32))(keys)
        logits = filter_logits(logits, config) + noise
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)


def row_keys(rng: Array, sample_ids: Int[Array, ' b']) -> Array:
    """Returns the random key of each sample of a run."""
    return jax.vmap(lambda number: jax.random.fold_in(rng, number))(sample_ids)


def fold_in_rows(keys: Array, number: Int[Array, ''] | int) -> Array:
    """Folds a number into the key of each row, for one draw."""
    return jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)
