"""Optimizers: Adam(W) with a schedule and gradient clipping, one for each player."""

import jax
import optax

SCHEDULES = ('constant', 'cosine', 'linear')


def learning_rate_schedule(
    learning_rate: float, schedule: str, warmup_steps: int, total_steps: int, final_fraction: float
) -> optax.Schedule:
    """Linear warm-up from 0, then constant, or cosine or linear decay to `final_fraction * learning_rate`.

    Raises:
      ValueError: an unknown schedule, or a warm-up that is not shorter than the run.
    """
    if schedule not in SCHEDULES:
        raise ValueError(f'unknown schedule {schedule!r}; known: {", ".join(SCHEDULES)}')
    if not 0 <= warmup_steps < total_steps:
        raise ValueError(f'warmup_steps is {warmup_steps}; it must be at least 0 and below the {total_steps} steps')
    decay_steps = total_steps - warmup_steps
    if schedule == 'cosine':
        main = optax.cosine_decay_schedule(learning_rate, decay_steps, alpha=final_fraction)
    elif schedule == 'linear':
        main = optax.linear_schedule(learning_rate, learning_rate * final_fraction, decay_steps)
    else:
        main = optax.constant_schedule(learning_rate)
    if warmup_steps == 0:
        return main
    return optax.join_schedules([optax.linear_schedule(0.0, learning_rate, warmup_steps), main], [warmup_steps])


def make_optimizer(
    *,
    learning_rate: float,
    total_steps: int,
    schedule: str = 'constant',
    warmup_steps: int = 0,
    final_fraction: float = 0.0,
    b1: float = 0.9,
    b2: float = 0.95,
    weight_decay: float = 0.0,
    clip_norm: float | None = 1.0,
) -> optax.GradientTransformation:
    """Adam, or AdamW when `weight_decay` > 0, after clipping the gradient's global norm to `clip_norm`.

    Weight decay spares vectors and scalars (biases, norm scales).
    """
    rate = learning_rate_schedule(learning_rate, schedule, warmup_steps, total_steps, final_fraction)
    parts = [] if clip_norm is None else [optax.clip_by_global_norm(clip_norm)]
    parts.append(optax.scale_by_adam(b1=b1, b2=b2))
    if weight_decay:
        parts.append(optax.add_decayed_weights(weight_decay, mask=_is_matrix))
    parts.append(optax.scale_by_learning_rate(rate))
    return optax.chain(*parts)


def _is_matrix(params: optax.Params) -> optax.Params:
    return jax.tree.map(lambda p: p.ndim > 1, params)
