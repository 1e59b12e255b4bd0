"""Masks over token grids: how many tokens are hidden, which ones, and which stay hidden after a guess.

Schedules give the share of hidden tokens at a time from 0 (all) to 1 (none): cosine and linear (Chang et al.,
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
    """Share of hidden tokens at `time` in [0, 1].

    Raises:
      UserError: an unknown schedule.
    """
    if schedule not in SCHEDULES:
        raise UserError(f'unknown schedule {schedule!r}; known: {", ".join(SCHEDULES)}')
    return SCHEDULES[schedule](time)


def counts_rounded_up(cells: int, steps: int, schedule: str) -> tuple[int, ...]:
    """How many of `cells` are hidden after each of `steps` steps, at least one (ADDP).

    A first step may reveal nothing, and one cell is left at the end.

    Raises:
      UserError: no steps, or an unknown schedule.
    """
    _check_steps(steps)
    shares = [schedule_share(schedule, (step + 1) / steps) for step in range(steps)]
    return tuple(min(max(math.ceil(cells * share), 1), cells) for share in shares)


def counts_falling(cells: int, steps: int, schedule: str) -> tuple[int, ...]:
    """How many of `cells` are hidden after each of `steps` steps: each reveals one or more, the last all (MaskGIT).

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
    """Place of each value in its row, counted from the smallest; among equals the left one comes first."""
    return jnp.argsort(jnp.argsort(values, axis=-1, stable=True), axis=-1, stable=True)


def hide(noise: Float[Array, 'b n'], counts: Int[Array, ' b']) -> Bool[Array, 'b n']:
    """Hides exactly so many cells of each row: those with the smallest noise.  Masks of one noise are nested."""
    return ranks(noise) < counts[:, None]


def count_of(shares: Float[Array, ' b'], cells: int) -> Int[Array, ' b']:
    """So many of `cells`, rounded up, at least one."""
    return jnp.clip(jnp.ceil(cells * shares), 1, cells).astype(jnp.int32)


@dataclasses.dataclass(frozen=True)
class ShareGrid:
    """Shares of hidden tokens that training may draw, ascending, and how likely each is.

    Attributes:
      shares: of all tokens.
      probabilities: they add up to one.
    """

    shares: np.ndarray
    probabilities: np.ndarray


@functools.cache
def share_grid(
    least: float = 0.5, most: float = 1.0, mean: float = 0.55, deviation: float = 0.25, points: int = 100
) -> ShareGrid:
    """Shares of a cosine schedule of `points` steps that lie in [least, most), drawn by a truncated normal density."""
    shares = np.cos(np.pi / 2 * np.arange(points + 1) / points).clip(0, 1)
    shares = np.sort(shares[(shares >= least) & (shares < most)])
    density = np.exp(-0.5 * ((shares - mean) / deviation) ** 2)
    return ShareGrid(shares.astype(np.float32), (density / density.sum()).astype(np.float32))


@flax.struct.dataclass
class NestedMasks:
    """Two masks, the first inside the second.

    Attributes:
      now: cells hidden at some time of generation, `[b, n]`.
      before: cells hidden a few steps earlier, `[b, n]`.
    """

    now: Any
    before: Any


def nested_masks(
    grid: ShareGrid, place: Int[Array, ' b'], offset: Int[Array, ' b'], noise: Float[Array, 'b n']
) -> NestedMasks:
    """The masks of one noise at a place of the grid, and at `offset` places further (or its end)."""
    shares = jnp.asarray(grid.shares)
    later = jnp.minimum(place + offset, len(grid.shares) - 1)
    now, before = (hide(noise, count_of(shares[index], noise.shape[-1])) for index in (place, later))
    return NestedMasks(now, before)


def draw_nested_masks(rng: jax.Array, grid: ShareGrid, rows: int, cells: int) -> NestedMasks:
    """Random masks, with another share in each row; the second is one to five places of the grid earlier."""
    place_rng, offset_rng, noise_rng = jax.random.split(rng, 3)
    place = jax.random.categorical(place_rng, jnp.log(jnp.asarray(grid.probabilities)), shape=(rows,))
    offset = jax.random.randint(offset_rng, (rows,), 1, 6)
    return nested_masks(grid, place, offset, jax.random.uniform(noise_rng, (rows, cells)))


def truncated_normal_shares(
    rng: jax.Array, rows: int, least: float = 0.5, most: float = 1.0, mean: float = 0.55, deviation: float = 0.25
) -> Float[Array, ' b']:
    """Shares of hidden tokens as MAGE draws them, one for each row."""
    low, high = (least - mean) / deviation, (most - mean) / deviation
    return mean + deviation * jax.random.truncated_normal(rng, low, high, (rows,))


def cosine_shares(rng: jax.Array, rows: int) -> Float[Array, ' b']:
    """Shares of hidden tokens as MaskGIT draws them: the cosine schedule at uniform times."""
    return jnp.cos(jnp.pi / 2 * jax.random.uniform(rng, (rows,)))


@flax.struct.dataclass
class MaskedGrid:
    """A token grid, row by row, some of it only guessed.

    Attributes:
      ids: codeword numbers, `[b, n]`; what is hidden holds the newest guess.
      hidden: which of them may still change, `[b, n]`.
    """

    ids: Any
    hidden: Any


def all_hidden(rows: int, cells: int) -> MaskedGrid:
    """Nothing is known."""
    return MaskedGrid(jnp.zeros((rows, cells), jnp.int32), jnp.ones((rows, cells), bool))


def reveal(
    guess: MaskedGrid,
    logits: Float[Array, 'b n K'],
    drawn: Int[Array, 'b n'],
    noise: Float[Array, 'b n'],
    count: Int[Array, ''] | Int[Array, 'b 1'] | int,
) -> MaskedGrid:
    """Takes the drawn ids where tokens are hidden, and keeps the least confident of these hidden.

    Args:
      guess: before the step.
      logits: of the codewords.
      drawn: ids drawn from them, at every cell.
      noise: added to the log-probability of the drawn ids before they are ranked.
      count: how many stay hidden, in all rows or in each, at most as many as are; cells that were known stay known.
    """
    ids = jnp.where(guess.hidden, drawn, guess.ids)
    log_probability = jax.nn.log_softmax(logits.astype(jnp.float32))
    chosen = jnp.take_along_axis(log_probability, ids[..., None], axis=-1)[..., 0]
    confidence = jnp.where(guess.hidden, chosen + noise, jnp.inf)
    return MaskedGrid(ids, (ranks(confidence) < count) & guess.hidden)
