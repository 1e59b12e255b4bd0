"""Optimizers: Adam(W) or LARS with a schedule and gradient clipping, one for each player."""

import functools
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vistok.errors import UserError

SCHEDULES = ('constant', 'cosine', 'linear', 'annealing')
METHODS = ('adam', 'lars')
DECAYED = ('matrices', 'kernels', 'all')

ParameterDepths: TypeAlias = Callable[[Any], Any]
"""Function from parameters to the depth of each in its network, see `scale_by_depth`."""


def learning_rate_schedule(
    learning_rate: float,
    schedule: str,
    warmup_steps: int,
    total_steps: int,
    final_fraction: float,
    initial_fraction: float = 0.0,
    hold_fraction: float = 0.3,
) -> optax.Schedule:
    """Builds a schedule: linear warm-up from `initial_fraction * learning_rate`, then the named decay.

    That is: constant, or cosine or linear decay to `final_fraction * learning_rate`, or 'annealing', which holds the
    full rate for `hold_fraction` of the steps after warm-up before it decays linearly (Chang et al., "Scalable Training
    for Vector-Quantized Networks with 100% Codebook Utilization", 2025: 0.005, 0.3, 0.01).

    Raises:
      UserError: an unknown schedule, a warm-up that is not shorter than the run, or nothing left to decay in.
    """
    if schedule not in SCHEDULES:
        raise UserError(f'unknown schedule {schedule!r}; known: {", ".join(SCHEDULES)}')
    if not 0 <= warmup_steps < total_steps:
        raise UserError(f'warmup_steps is {warmup_steps}; it must be at least 0 and below the {total_steps} steps')
    if not 0 <= hold_fraction < 1:
        raise UserError(f'hold_fraction is {hold_fraction}; it must be at least 0 and below 1')
    decay_steps = total_steps - warmup_steps
    if schedule == 'cosine':
        main = optax.cosine_decay_schedule(learning_rate, decay_steps, alpha=final_fraction)
    elif schedule == 'linear':
        main = optax.linear_schedule(learning_rate, learning_rate * final_fraction, decay_steps)
    elif schedule == 'annealing':

        def main(count: Any) -> jax.Array:
            left = jnp.clip((1 - count / decay_steps) / (1 - hold_fraction), 0, 1)
            return learning_rate * (final_fraction + (1 - final_fraction) * left)
    else:
        main = optax.constant_schedule(learning_rate)
    if warmup_steps == 0:
        return main
    warmup = optax.linear_schedule(initial_fraction * learning_rate, learning_rate, warmup_steps)
    return optax.join_schedules([warmup, main], [warmup_steps])


def make_optimizer(
    *,
    learning_rate: float,
    total_steps: int,
    schedule: str = 'constant',
    warmup_steps: int = 0,
    final_fraction: float = 0.0,
    initial_fraction: float = 0.0,
    hold_fraction: float = 0.3,
    method: str = 'adam',
    b1: float = 0.9,
    b2: float = 0.95,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    decayed: str = 'matrices',
    clip_norm: float | None = 1.0,
    layer_decay: float = 1.0,
    depths: ParameterDepths | None = None,
) -> optax.GradientTransformation:
    """Builds Adam, AdamW (when `weight_decay` > 0) or LARS, after clipping the gradient's global norm to `clip_norm`.

    Args:
      learning_rate, total_steps, schedule, warmup_steps, final_fraction, initial_fraction, hold_fraction: see
        `learning_rate_schedule`.
      method: 'adam' or 'lars', see `scale_by_lars`.
      b1, b2: decays of Adam's running moments; the first is also the momentum of LARS.
      eps: added to the root of Adam's second moment.
      weight_decay: decay of the weights, times the learning rate.
      decayed: which weights decay.  'matrices': all but vectors and scalars: biases and norm scales, also those of
        stacked layers, which are matrices; 'kernels': those of them that multiply features, not embeddings; 'all'.
      clip_norm: largest norm of the gradient; None: any.
      layer_decay: factor of the learning rate from a layer to the one below it, in (0, 1].
      depths: depths of the parameters, which `layer_decay` counts; needed where that is not 1.

    Raises:
      UserError: an unknown method, schedule or choice of weights, a schedule that makes no sense, or a `layer_decay`
        that is out of range or has no depths.
    """
    if method not in METHODS:
        raise UserError(f'unknown optimizer.method {method!r}; known: {", ".join(METHODS)}')
    if decayed not in DECAYED:
        raise UserError(f'unknown choice of decayed weights {decayed!r}; known: {", ".join(DECAYED)}')
    rate = learning_rate_schedule(
        learning_rate, schedule, warmup_steps, total_steps, final_fraction, initial_fraction, hold_fraction
    )
    parts = [] if clip_norm is None else [optax.clip_by_global_norm(clip_norm)]
    if method == 'adam':
        parts.append(optax.scale_by_adam(b1=b1, b2=b2, eps=eps))
    if weight_decay:
        parts.append(optax.add_decayed_weights(weight_decay, mask=functools.partial(_decays, decayed)))
    if method == 'lars':  # it scales gradient and decay together
        parts.append(scale_by_lars(b1))
    if layer_decay != 1:
        parts.append(scale_by_depth(layer_decay, depths))
    parts.append(optax.scale_by_learning_rate(rate))
    return optax.chain(*parts)


def scale_by_lars(momentum: float = 0.9, trust: float = 0.001) -> optax.GradientTransformation:
    """Builds LARS's update before the learning rate: gradients, scaled to parameters, with momentum.

    The gradient of a matrix is scaled to `trust` times the norm of the matrix; those of vectors stay as they are.  The
    learning rate multiplies the momentum, as in the code of MoCo v3 and its heirs; `optax.lars` puts it before, which
    is another method while the rate changes.  You et al., "Large Batch Training of Convolutional Networks", 2017.
    """
    scale = optax.masked(optax.scale_by_trust_ratio(trust_coefficient=trust), functools.partial(_decays, 'matrices'))
    return optax.chain(scale, optax.trace(momentum))


def scale_by_depth(decay: float, depths: ParameterDepths | None) -> optax.GradientTransformation:
    """Builds the layer-wise decay of the learning rate: a factor of decay^(D - d) at depth d, where D is the largest.

    Bao et al., "BEiT: BERT Pre-Training of Image Transformers", 2021.

    Args:
      decay: factor from a layer to the one below it, in (0, 1].
      depths: function from parameters to a tree like them of whole numbers from 0, or of arrays of such that can be
        broadcast to the parameter (for stacked layers).

    Raises:
      UserError: the decay is out of range, or there are no depths.
    """
    if not 0 < decay <= 1:
        raise UserError(f'optimizer.layer_decay must be above 0 and at most 1, got {decay}')
    if depths is None:
        raise UserError(f'optimizer.layer_decay is {decay}, but the layers of this model have no order; set it to 1')

    def scale(updates: optax.Updates, params: optax.Params | None) -> optax.Updates:
        of_each = depths(params)
        deepest = max(np.max(depth) for depth in jax.tree.leaves(of_each))
        return jax.tree.map(lambda u, d: u * np.asarray(decay ** (deepest - d), u.dtype), updates, of_each)

    return optax.stateless(scale)


def _decays(decayed: str, params: optax.Params) -> optax.Params:
    def decays(path: tuple[Any, ...], p: Any) -> bool:
        name = getattr(path[-1], 'key', '') if path else ''
        if decayed == 'all':
            return True
        return name == 'kernel' if decayed == 'kernels' else p.ndim > 1 and name not in ('scale', 'bias')

    return jax.tree_util.tree_map_with_path(decays, params)
