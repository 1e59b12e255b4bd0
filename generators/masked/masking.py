"""Masks over token grids: masking schedules, random masks for training, and unmasking by confidence.

Schedules give the masking ratio at a time from 0 (all tokens are masked) to 1 (none): cosine and linear (Chang et al.,
"MaskGIT: Masked Generative Image Transformer", 2022, section 3.3).
"""

import dataclasses
import functools
import math
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from vistok.errors import UserError

SCHEDULES = {'cosine': lambda u: math.cos(math.pi / 2.0 * u), 'linear': lambda u: 1.0 - u}


def schedule_share(schedule: str, time: float) -> float:
    """Returns the masking ratio at `time` in [0, 1].

    Raises:
      UserError: an unknown schedule.
    """
    if schedule not in SCHEDULES:
        raise UserError(f'unknown schedule {schedule!r}; known: {", ".join(SCHEDULES)}')
    return SCHEDULES[schedule](time)


def counts_rounded_up(cells: int, steps: int, schedule: str) -> tuple[int, ...]:
    """Returns how many of `cells` are masked after each of `steps` steps, rounded up and at least one (ADDP).

    The first step may reveal nothing, and one cell is still masked at the end.

    Raises:
      UserError: no steps, or an unknown schedule.
    """
    _check_steps(steps)
    shares = [schedule_share(schedule, (step + 1) / steps) for step in range(steps)]
    return tuple(min(max(math.ceil(cells * share), 1), cells) for share in shares)


def counts_falling(cells: int, steps: int, schedule: str) -> tuple[int, ...]:
    """Returns how many of `cells` are masked after each of `steps` steps; each reveals at least one (MaskGIT).

    Raises:
      UserError: no steps or more than cells, or an unknown schedule.
    """
    _check_steps(steps)
    if steps > cells:
        raise UserError(f'{steps} steps cannot each reveal one of {cells} tokens; take at most {cells}')
    counts, hidden = [], cells
    for step in range(steps - 1):
        wanted = math.floor(cells * schedule_share(schedule, (step + 1) / steps))
        left = steps - 1 - step  # each later step needs one
        hidden = max(min(wanted, hidden - 1), left)
        counts.append(hidden)
    return (*counts, 0)


def _check_steps(steps: int) -> None:
    if steps < 1:
        raise UserError(f'steps is {steps}; it must be at least 1')


def ranks(values: Float[Array, 'b n']) -> Int[Array, 'b n']:
    """Ranks the values of each row from the smallest; among equals the left one comes first."""
    return jnp.argsort(jnp.argsort(values, axis=-1, stable=True), axis=-1, stable=True)


def hide(noise: Float[Array, 'b n'], counts: Int[Array, ' b']) -> Bool[Array, 'b n']:
    """Masks exactly `counts` cells of each row, those with the smallest noise; masks of one noise are nested."""
    return ranks(noise) < counts[:, None]


def count_masked(shares: Float[Array, ' b'], cells: int) -> Int[Array, ' b']:
    """Returns the number of masked cells, `cells * shares` rounded up, at least one."""
    return jnp.clip(jnp.ceil(cells * shares), 1, cells).astype(jnp.int32)


@dataclasses.dataclass(frozen=True)
class ShareGrid:
    """Discrete distribution of masking ratios in training.

    Attributes:
      shares: masking ratios, ascending.
      probabilities: probability of each; they add up to one.
    """

    shares: np.ndarray
    probabilities: np.ndarray


@functools.cache
def share_grid(
    least: float = 0.5, most: float = 1.0, mean: float = 0.55, deviation: float = 0.25, points: int = 100
) -> ShareGrid:
    """Computes a truncated normal density over the ratios in [least, most) of a cosine schedule of `points` steps."""
    shares = np.cos(np.pi / 2 * np.arange(points + 1) / points).clip(0, 1)
    shares = np.sort(shares[(shares >= least) & (shares < most)])
    density = np.exp(-0.5 * ((shares - mean) / deviation) ** 2)
    return ShareGrid(shares.astype(np.float32), (density / density.sum()).astype(np.float32))


@flax.struct.dataclass
class NestedMasks:
    """Masks of two times, the first inside the second.

    Attributes:
      now: cells masked at some time of generation, `[b, n]`.
      before: cells masked a few steps earlier, `[b, n]`.
    """

    now: Any
    before: Any


def compute_nested_masks(
    grid: ShareGrid, place: Int[Array, ' b'], offset: Int[Array, ' b'], noise: Float[Array, 'b n']
) -> NestedMasks:
    """Computes the masks of one noise at index `place` of the ratios, and `offset` indices further (or at the end)."""
    shares = jnp.asarray(grid.shares)
    later = jnp.minimum(place + offset, len(grid.shares) - 1)
    now, before = (hide(noise, count_masked(shares[index], noise.shape[-1])) for index in (place, later))
    return NestedMasks(now, before)


def draw_nested_masks(rng: jax.Array, grid: ShareGrid, rows: int, cells: int) -> NestedMasks:
    """Samples masks with a ratio for each row; the second is one to five schedule steps earlier."""
    place_rng, offset_rng, noise_rng = jax.random.split(rng, 3)
    place = jax.random.categorical(place_rng, jnp.log(jnp.asarray(grid.probabilities)), shape=(rows,))
    offset = jax.random.randint(offset_rng, (rows,), 1, 6)
    return compute_nested_masks(grid, place, offset, jax.random.uniform(noise_rng, (rows, cells)))


def sample_normal_shares(
    rng: jax.Array, rows: int, least: float = 0.5, most: float = 1.0, mean: float = 0.55, deviation: float = 0.25
) -> Float[Array, ' b']:
    """Samples masking ratios from MAGE's truncated normal distribution, one for each row."""
    low, high = (least - mean) / deviation, (most - mean) / deviation
    return mean + deviation * jax.random.truncated_normal(rng, low, high, (rows,))


def sample_cosine_shares(rng: jax.Array, rows: int) -> Float[Array, ' b']:
    """Samples masking ratios of MaskGIT, the cosine schedule at uniform times, one for each row."""
    return jnp.cos(jnp.pi / 2 * jax.random.uniform(rng, (rows,)))


@flax.struct.dataclass
class MaskedGrid:
    """Token grid in raster order with a mask.

    Attributes:
      ids: codeword numbers, `[b, n]`; at masked cells the newest candidates.
      hidden: mask of the cells that may still change, `[b, n]`.
    """

    ids: Any
    hidden: Any


def fully_masked(rows: int, cells: int) -> MaskedGrid:
    """Returns grids in which every cell is masked."""
    return MaskedGrid(jnp.zeros((rows, cells), jnp.int32), jnp.ones((rows, cells), bool))


def reveal(
    guess: MaskedGrid,
    logits: Float[Array, 'b n K'],
    drawn: Int[Array, 'b n'],
    noise: Float[Array, 'b n'],
    count: Int[Array, ''] | Int[Array, 'b 1'] | int,
) -> MaskedGrid:
    """Replaces masked tokens by candidates, and keeps the least confident of these masked.

    Args:
      guess: grid before the step.
      logits: logits of the codewords.
      drawn: candidate id of every cell, sampled from the logits.
      noise: added to the log-probabilities of the candidates before they are ranked.
      count: number of cells that stay masked, for all rows or for each, at most as many as are; known cells stay known.
    """
    ids = jnp.where(guess.hidden, drawn, guess.ids)
    log_probability = jax.nn.log_softmax(logits.astype(jnp.float32))
    chosen = jnp.take_along_axis(log_probability, ids[..., None], axis=-1)[..., 0]
    confidence = jnp.where(guess.hidden, chosen + noise, jnp.inf)
    return MaskedGrid(ids, (ranks(confidence) < count) & guess.hidden)
