"""Learning rate schedules: where they start, what they hold, where they end."""

import jax
import numpy as np
import optax
import pytest

from vistok.errors import UserError
from vistok.training.optimizer import learning_rate_schedule, make_optimizer


def rates(steps: int = 1000, **kwargs) -> np.ndarray:
    settings = {'learning_rate': 2.0, 'warmup_steps': 100, 'total_steps': steps, 'final_fraction': 0.01} | kwargs
    schedule = learning_rate_schedule(**settings)
    return np.array([schedule(i) for i in range(steps + 1)])


def test_annealing_is_the_published_function_of_the_step():
    factors = rates(schedule='annealing', initial_fraction=0.005) / 2
    steps = np.arange(1001)
    u = (steps - 100) / 900
    held = np.where(u < 0.3, 1, 0.01 + 0.99 * (1 - u) / 0.7)
    np.testing.assert_allclose(factors, np.where(steps < 100, 0.005 + 0.995 * steps / 100, held), rtol=1e-5)


def test_annealing_without_holding_is_linear_decay():
    kwargs = {'warmup_steps': 0, 'final_fraction': 0.2}
    linear = rates(schedule='linear', **kwargs)
    np.testing.assert_allclose(rates(schedule='annealing', hold_fraction=0.0, **kwargs), linear, rtol=1e-5)


@pytest.mark.parametrize('schedule', ['constant', 'cosine', 'linear', 'annealing'])
def test_warm_up_ends_at_the_full_rate_and_the_run_at_its_fraction(schedule):
    r = rates(schedule=schedule)
    assert r[0] == 0
    assert r[100] == r.max() == 2
    np.testing.assert_allclose(r[1000], 2 if schedule == 'constant' else 0.02, rtol=1e-5)


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        ({'schedule': 'step'}, "unknown schedule 'step'; known: constant, cosine, linear, annealing"),
        ({'schedule': 'cosine', 'warmup_steps': 1000}, 'warmup_steps is 1000'),
        ({'schedule': 'annealing', 'hold_fraction': 1.0}, 'hold_fraction is 1.0'),
    ],
)
def test_schedules_that_make_no_sense_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        rates(**kwargs)


def test_the_optimizer_follows_the_schedule():
    optimizer = make_optimizer(
        learning_rate=1.0, total_steps=10, schedule='annealing', warmup_steps=5, initial_fraction=0.5, clip_norm=None
    )
    params = np.zeros(3)
    state, sizes = optimizer.init(params), []
    for _ in range(10):
        updates, state = optimizer.update(np.ones(3), state, params)
        sizes.append(-float(updates[0]))
    # Adam's steps on a constant gradient are as long as the learning rate.
    np.testing.assert_allclose(sizes[:6], [0.5, 0.6, 0.7, 0.8, 0.9, 1.0], rtol=1e-4)
    assert sizes[6] == pytest.approx(1.0, rel=1e-4)  # held for 30 % of 5 steps
    assert sizes[9] < sizes[8] < sizes[7] < 1
    assert isinstance(optimizer, optax.GradientTransformation)


@pytest.mark.parametrize(
    ('decayed', 'layers', 'norm'),
    [
        ('matrices', {'kernel': True, 'embedding': True, 'scale': False, 'bias': False}, False),
        ('kernels', {'kernel': True, 'embedding': False, 'scale': False, 'bias': False}, False),
        ('all', {'kernel': True, 'embedding': True, 'scale': True, 'bias': True}, True),
    ],
)
def test_weight_decay_spares_norms_and_biases_also_of_stacked_layers(decayed, layers, norm):
    optimizer = make_optimizer(learning_rate=1.0, total_steps=10, weight_decay=0.5, decayed=decayed, clip_norm=None)
    ones = {
        'kernel': np.ones((3, 2, 2)),
        'embedding': np.ones((4, 2)),
        'scale': np.ones((3, 2)),
        'bias': np.ones((3, 2)),
    }
    params = {'layers': ones, 'norm': {'scale': np.ones(2)}}
    zeros = jax.tree.map(np.zeros_like, params)
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    decayed = jax.tree.map(lambda x: bool(np.any(x)), updates)
    assert decayed == {'layers': layers, 'norm': {'scale': norm}}


def test_an_unknown_choice_of_decayed_weights_is_refused():
    with pytest.raises(UserError, match="unknown choice of decayed weights 'biases'; known: matrices, kernels, all"):
        make_optimizer(learning_rate=1.0, total_steps=10, decayed='biases')
