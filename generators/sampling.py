"""From logits to ids: guidance, temperature, top-k, top-p and the draw, as pure functions."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from vistok.errors import UserError
from vistok.generators.generator import SampleConfig


def guidance_scales(config: SampleConfig, positions: int) -> Float[np.ndarray, ' n']:
    """The guidance scale of each position.

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
    """`null + scale (conditional - null)`, in float32; the conditional rows come first."""
    conditional, null = jnp.split(logits.astype(jnp.float32), 2)
    return null + scale * (conditional - null)


def filter_logits(logits: Float[Array, 'b K'], config: SampleConfig) -> Float[Array, 'b K']:
    """Logits over the temperature, with minus infinity where top-k or top-p take an id away.

    Args:
      logits: float32.
      config: with a temperature above 0.
    """
    logits = logits / config.temperature
    if 0 < config.top_k < logits.shape[-1]:
        least = jax.lax.top_k(logits, config.top_k)[0][:, -1:]
        logits = jnp.where(logits >= least, logits, -jnp.inf)
    if config.top_p < 1:
        logits = jnp.where(_likely(logits, config.top_p), logits, -jnp.inf)
    return logits


def _likely(logits: Float[Array, 'b K'], top_p: float) -> Bool[Array, 'b K']:
    """The most likely ids, up to the one that crosses `top_p`; among equals the lower number comes first."""
    order = jnp.argsort(-logits, axis=-1, stable=True)
    probabilities = jnp.take_along_axis(jax.nn.softmax(logits), order, axis=-1)
    kept = jnp.cumsum(probabilities, axis=-1) - probabilities <= top_p
    kept = kept.at[:, 0].set(True)
    return jax.vmap(lambda keep, where: jnp.zeros_like(keep).at[where].set(keep))(kept, order)


def draw(logits: Float[Array, 'b K'], keys: Array, config: SampleConfig) -> Int[Array, ' b']:
    """One id for each row: the largest filtered logit plus Gumbel noise of the row's key.

    Args:
      logits: after guidance.
      keys: one for each row.
      config: temperature 0 takes the largest logit, whatever the filters and keys.
    """
    logits = logits.astype(jnp.float32)
    if config.temperature > 0:
        noise = jax.vmap(lambda key: jax.random.gumbel(key, logits.shape[1:], jnp.float32))(keys)
        logits = filter_logits(logits, config) + noise
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)


def row_keys(rng: Array, sample_ids: Int[Array, ' b']) -> Array:
    """The key of each sample of a run."""
    return jax.vmap(lambda number: jax.random.fold_in(rng, number))(sample_ids)


def at_position(keys: Array, number: Int[Array, ''] | int) -> Array:
    """The keys of the rows for one draw."""
    return jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)
