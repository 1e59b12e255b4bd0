"""Discrete diffusion of categorical variables: noise that redraws or masks tokens, and its exact posterior.

Hoogeboom et al., "Argmax Flows and Multinomial Diffusion" (2021): every step redraws a token uniformly with a small
probability.  Austin et al., "Structured Denoising Diffusion Models in Discrete State-Spaces" (2021): it may also put a
mask in the token's place, for good.  Gu et al., "Vector Quantized Diffusion Model" (2022) do both.  All of them are one
family: a step keeps a token, redraws it among the K tokens, or masks it.  Products of such steps are of the same kind:
no [K, K] matrix is ever needed.  Where there are masks, the mask is the state K, after the tokens 0 ... K - 1.

Everything is in log space, in float32; the schedule is computed in float64.
"""

import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from vistok.errors import UserError

SCHEDULES = ('cos', 'cos2', 'linear')
LOG_ZERO = float(np.log(1e-30))  # of what a one-hot distribution excludes, as in the official code
_NEVER = -1e4  # of transitions that do not exist: far below LOG_ZERO, and finite, so that 0 * log 0 is 0


@flax.struct.dataclass
class Transition:
    """Log-probabilities of a noise transition of a token; a mask stays a mask.

    Attributes:
      keep: it stays as it is.
      redraw: it is drawn again, uniformly; -inf where that never happens.
      mask: it is masked.
    """

    keep: Any
    redraw: Any
    mask: Any


@flax.struct.dataclass
class NoiseSteps:
    """Noise process of S steps, in arrays `[S]`; indexing gives other shapes.

    Attributes:
      time: number of the step on the finest schedule, divided by that schedule's length; an input of the network.
      step: transition of step i.
      before: transition of all steps before i together.
      after: transition of all steps up to and including i together.
    """

    time: Any
    step: Transition
    before: Transition
    after: Transition

    def at(self, index: Any) -> 'NoiseSteps':
        """Selects steps by their indices."""
        return jax.tree.map(lambda x: jnp.asarray(x)[index], self)


def log_kept(schedule: str, timesteps: int) -> Float[np.ndarray, ' T']:
    """Computes the log-probability (float64) that a token is still untouched after each step.

    Args:
      schedule: 'cos2', the squared cosine of Nichol and Dhariwal (2021), as in the paper of VQ-DDM; 'cos', its
        root, as in the code of VQ-DDM and of multinomial diffusion; 'linear', 1 - t/T, as Austin et al. mask.
      timesteps: T.

    Raises:
      UserError: an unknown schedule.
    """
    u = np.linspace(0, 1, timesteps + 1)
    if schedule in ('cos', 'cos2'):
        kept = np.cos((u + 0.008) / 1.008 * np.pi / 2) ** 2
    elif schedule == 'linear':
        kept = 1 - u
    else:
        raise UserError(f'unknown schedule {schedule!r}; known: {", ".join(SCHEDULES)}')
    steps = np.clip(kept[1:] / kept[:-1], 1e-3, 1)
    return np.cumsum(np.log(steps) / (2 if schedule == 'cos' else 1))


@functools.lru_cache(maxsize=32)
def noise_steps(schedule: str, timesteps: int, mask_share: float, count: int = 0) -> NoiseSteps:
    """Computes the steps of a schedule, or `count` jumps with the same total effect.

    Args:
      schedule: see `log_kept`.
      timesteps: T.
      mask_share: share of the replaced tokens that are masked rather than redrawn: 0: uniform noise; 1: masks only.
      count: number of jumps, at most T; 0 means T.

    Raises:
      UserError: a share outside [0, 1], or a count that is no number of steps.
    """
    if not 0 <= mask_share <= 1:
        raise UserError(f'mask_share must be in [0, 1], got {mask_share}')
    if not 0 <= count <= timesteps:
        raise UserError(f'the number of sampling steps must be in [1, {timesteps}], got {count}')
    count = count or timesteps
    number = np.round(np.arange(1, count + 1) * timesteps / count).astype(np.int64) - 1
    after = log_kept(schedule, timesteps)[number]
    before = np.concatenate([[0.0], after[:-1]])
    return NoiseSteps(
        (number / timesteps).astype(np.float32),
        _jump(before, after, mask_share),
        _jump(np.zeros(count), before, mask_share),
        _jump(np.zeros(count), after, mask_share),
    )


def _jump(start: np.ndarray, end: np.ndarray, mask_share: float) -> Transition:
    """Computes the transitions between times with exp(start) and exp(end) of the tokens untouched.

    With a untouched tokens and the share s, 1 - s + s a are unmasked.  A jump from a to b then keeps b/a, and of the
    unmasked tokens it leaves (1 - s + s b) / (1 - s + s a) unmasked.
    """
    keep = end - start
    lost = -np.expm1(keep)
    unmasked = 1 - mask_share + mask_share * np.exp(start)
    with np.errstate(divide='ignore'):
        redraw = np.log((1 - mask_share) * lost / unmasked)
        mask = np.log(mask_share * np.exp(start) * lost / unmasked)
    return Transition(keep.astype(np.float32), redraw.astype(np.float32), np.maximum(mask, _NEVER).astype(np.float32))


def log_one_hot(ids: Int[Array, '*b'], size: int) -> Float[Array, '*b K']:
    """Returns one-hot distributions in log space."""
    return jnp.where(ids[..., None] == jnp.arange(size), 0.0, LOG_ZERO)


def transition_distribution(
    log_x: Float[Array, 'b *n K'], what: Transition, *, masks: bool
) -> Float[Array, 'b *n states']:
    """Computes the distribution after a transition, of unmasked tokens with the distribution `log_x`.

    Args:
      log_x: normalized.
      what: transition of scalars, or of one value for each row, `[b]`.
      masks: whether the result has a mask state.
    """
    keep, redraw, mask = (_broadcast_rows(x, log_x) for x in (what.keep, what.redraw, what.mask))
    tokens = jnp.logaddexp(log_x + keep, redraw - np.log(log_x.shape[-1]))
    if not masks:
        return tokens
    return jnp.concatenate([tokens, jnp.broadcast_to(mask, (*tokens.shape[:-1], 1))], axis=-1)


def likelihood(x_t: Int[Array, 'b *n'], what: Transition, size: int, *, masks: bool) -> Float[Array, 'b *n states']:
    """Computes the log-probability that a transition results in `x_t`, for each state before it.

    Args:
      x_t: states after the transition.
      what: transition of scalars, or of one value for each row, `[b]`.
      size: number of codewords, K.
      masks: whether there is a mask state.
    """
    x_t = x_t[..., None]
    keep, redraw, mask = (_broadcast_rows(x, x_t) for x in (what.keep, what.redraw, what.mask))
    other = jnp.maximum(redraw - np.log(size), _NEVER)
    tokens = jnp.where(x_t == jnp.arange(size), jnp.logaddexp(keep, other), other)
    if not masks:
        return tokens
    masked = x_t == size
    return jnp.concatenate([jnp.where(masked, mask, tokens), jnp.where(masked, 0.0, _NEVER)], axis=-1)


def posterior(
    log_x0: Float[Array, 'b *n K'], x_t: Int[Array, 'b *n'], at: NoiseSteps, *, masks: bool
) -> Float[Array, 'b *n states']:
    """Computes the distribution of the state before a step, given the state after it and a distribution of x_0.

    With a one-hot `log_x0` this is q(x_{t-1} | x_t, x_0).  With a prediction it is the parametrisation of multinomial
    diffusion: the prediction replaces x_0 in the formula.

    Args:
      log_x0: normalized distribution of x_0.
      x_t: state after the step.
      at: a step, or one for each row.
      masks: whether there is a mask state.
    """
    joint = transition_distribution(log_x0, at.before, masks=masks) + likelihood(
        x_t, at.step, log_x0.shape[-1], masks=masks
    )
    return joint - jax.nn.logsumexp(joint, axis=-1, keepdims=True)


def mixture(
    log_x0: Float[Array, 'b *n K'], x_t: Int[Array, 'b *n'], at: NoiseSteps, *, masks: bool
) -> Float[Array, 'b *n states']:
    """Sums q(x_{t-1} | x_t, x_0) over all x_0, weighted by their predicted probability (Austin et al., sec. 3.3).

    Each posterior is its joint over q(x_t | x_0), so that the sum is the posterior of the prediction divided by that.
    """
    seen = likelihood(x_t, at.after, log_x0.shape[-1], masks=masks)[..., : log_x0.shape[-1]]
    # Without redrawing, an unmasked token is x_0 itself, and of a masked one all x_0 are equally likely causes.
    possible = jnp.isfinite(_broadcast_rows(at.after.redraw, log_x0))
    return posterior(jax.nn.log_softmax(jnp.where(possible, log_x0 - seen, log_x0)), x_t, at, masks=masks)


def variational_term(
    log_q: Float[Array, 'b *n states'], log_p: Float[Array, 'b *n states'], x_0: Int[Array, 'b *n'], t: Int[Array, ' b']
) -> Float[Array, 'b *n']:
    """Computes term t of the bound in nats: KL(q || p) of the states before step t, or -log p(x_0) for step 0."""
    divergence = (jnp.exp(log_q) * (log_q - log_p)).sum(axis=-1)
    decoding = -jnp.take_along_axis(log_p, x_0[..., None], axis=-1)[..., 0]
    return jnp.where(t.reshape(-1, *[1] * (x_0.ndim - 1)) == 0, decoding, divergence)


def prior_divergence(steps: NoiseSteps, size: int) -> float:
    """Computes term T of the bound in nats per token: KL of the last state, given x_0, from the initial distribution.

    Sampling starts with uniformly drawn tokens of which as many are masked as after the last step.
    """
    keep, redraw = (np.exp(np.float64(x[-1])) for x in (steps.after.keep, steps.after.redraw))
    on, off, start = keep + redraw / size, redraw / size, (keep + redraw) / size
    return float(on * np.log(on / start) + ((size - 1) * off * np.log(off / start) if off else 0.0))


def add_noise(rng: jax.Array, ids: Int[Array, '*n'], what: Transition, size: int, *, masks: bool) -> Int[Array, '*n']:
    """Samples ids (or masks) after a transition of scalars."""
    which, fresh = jax.random.split(rng)
    u = jax.random.uniform(which, ids.shape)  # in [0, 1): what is kept with probability 1 is kept
    redrawn = jax.random.randint(fresh, ids.shape, 0, size, ids.dtype)
    if masks:
        redrawn = jnp.where(u < jnp.exp(what.keep) + jnp.exp(what.redraw), redrawn, size)
    noised = jnp.where(u < jnp.exp(what.keep), ids, redrawn)
    return jnp.where(ids == size, ids, noised)


def sample_first_state(
    rng: jax.Array, shape: tuple[int, ...], steps: NoiseSteps, size: int, *, masks: bool
) -> Int[Array, '...']:
    """Samples the initial state of generation (see `prior_divergence`)."""
    which, fresh = jax.random.split(rng)
    ids = jax.random.randint(fresh, shape, 0, size, jnp.int32)
    if not masks:
        return ids
    return jnp.where(jnp.log(jax.random.uniform(which, shape)) < steps.after.mask[-1], size, ids)


def _broadcast_rows(x: Any, array: jax.Array) -> jax.Array:
    """Reshapes values of rows to broadcast against the array; scalars are returned unchanged."""
    x = jnp.asarray(x)
    return x.reshape(x.shape + (1,) * (array.ndim - 1)) if x.ndim else x
