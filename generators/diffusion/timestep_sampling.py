"""Importance sampling of diffusion timesteps, in proportion to the size of their terms of the variational bound."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vistok.collectives import replica_sum

Statistics = dict[str, Any]
"""'mean_square', running mean of each timestep's squared term, and 'visits', how often it was drawn; both `[T]`."""

_VISITS = 10  # of every timestep, before timesteps are drawn by importance
_DECAY = 0.9


@flax.struct.dataclass
class SampledTimesteps:
    """Timesteps `t`, and the probability with which each was drawn."""

    t: Int[Array, ' b']
    probability: Float[Array, ' b']


def empty_statistics(timesteps: int) -> Statistics:
    """Returns the statistics before training."""
    nothing = jnp.zeros(timesteps)
    return {'mean_square': nothing, 'visits': nothing}


def importance_probabilities(statistics: Statistics) -> Float[Array, ' T']:
    """Computes the probability of each timestep; uniform until all have been visited often enough."""
    timesteps = len(statistics['visits'])
    size = jnp.sqrt(statistics['mean_square'] + 1e-10) + 1e-4
    size = size.at[0].set(size[1])  # the term of step 0 is no divergence, and of another size
    return jnp.where((statistics['visits'] > _VISITS).all(), size / size.sum(), jnp.full(timesteps, 1 / timesteps))


def sample_timesteps(rng: jax.Array, probabilities: Float[Array, ' T'], count: int) -> SampledTimesteps:
    """Samples timesteps stratified: one from each of `count` equally likely strata, in random order."""
    place_rng, order_rng = jax.random.split(rng)
    quantiles = (jnp.arange(count) + jax.random.uniform(place_rng, (count,))) / count
    t = jnp.searchsorted(jnp.cumsum(probabilities), jax.random.permutation(order_rng, quantiles), side='right')
    t = jnp.minimum(t, len(probabilities) - 1).astype(jnp.int32)
    return SampledTimesteps(t, probabilities[t])


def update_statistics(statistics: Statistics, t: Int[Array, ' b'], terms: Float[Array, ' b']) -> Statistics:
    """Updates the running means with the terms of a batch, over all replicas together."""
    nothing = jnp.zeros(len(statistics['visits']))
    visits = replica_sum(nothing.at[t].add(1.0))
    mean = replica_sum(nothing.at[t].add(terms**2)) / jnp.maximum(visits, 1)
    moved = _DECAY * statistics['mean_square'] + (1 - _DECAY) * mean
    mean_square = jnp.where(visits > 0, moved, statistics['mean_square'])
    return {'mean_square': mean_square, 'visits': statistics['visits'] + visits}
