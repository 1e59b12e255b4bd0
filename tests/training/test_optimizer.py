"""Optimizers and learning rate schedules: published updates, and rates that start, hold and end where they should."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from golden_packs import load_pack

from vistok.errors import UserError
from vistok.experiments.config_files import load_config
from vistok.training.optimizer import learning_rate_schedule, make_optimizer, scale_by_lars


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


def test_epsilon_is_added_to_the_root_of_the_second_moment():
    """The first update of Adam is rate * g / (|g| + eps)."""
    gradients = np.array([1e-6, -3e-7, 2e-8], np.float32)
    for eps in (1e-8, 1e-7):
        optimizer = make_optimizer(learning_rate=0.5, total_steps=10, eps=eps, clip_norm=None)
        updates, _ = optimizer.update(gradients, optimizer.init(np.zeros(3)), np.zeros(3))
        np.testing.assert_allclose(updates, -0.5 * gradients / (np.abs(gradients) + eps), rtol=1e-4)
    assert load_config('configs/vqgan.py').optimizer.eps == 1e-8
    assert load_config('configs/vqgan_lc.py:imagenet256').optimizer.eps == 1e-7


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


@pytest.mark.parametrize('decay', [0.0, 0.1])
def test_lars_makes_the_steps_of_the_official_code_also_while_the_rate_changes(decay):
    pack = load_pack('recognition')
    rates = jnp.asarray(pack['lars_rates'])
    decayed = optax.add_decayed_weights(decay, mask={'kernel': True, 'bias': False})
    optimizer = optax.chain(decayed, scale_by_lars(), optax.scale_by_learning_rate(lambda step: rates[step]))
    params = {'kernel': jnp.asarray(pack['lars_kernel']), 'bias': jnp.zeros(2)}
    state = optimizer.init(params)
    for step in range(4):
        grads = {name: pack[f'lars_{name}_gradients'][step] for name in params}
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        np.testing.assert_allclose(params['kernel'], pack[f'lars_kernels_{decay}'][step], atol=1e-6)
        np.testing.assert_allclose(params['bias'], pack[f'lars_biases_{decay}'][step], atol=1e-5)


def test_make_optimizer_builds_lars_with_decay_inside_the_trust_ratio():
    pack = load_pack('recognition')
    optimizer = make_optimizer(learning_rate=0.8, total_steps=10, method='lars', weight_decay=0.1, clip_norm=None)
    params = {'kernel': pack['lars_kernel'], 'bias': np.zeros(2, np.float32)}
    grads = {name: pack[f'lars_{name}_gradients'][0] for name in params}
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    # The trust ratio gives the update of a matrix the length of the matrix, up to the rate.
    length = np.linalg.norm(updates['kernel']) / np.linalg.norm(params['kernel'])
    assert length == pytest.approx(0.8 * 0.001, rel=1e-5)
    direction = grads['kernel'] + 0.1 * params['kernel']
    np.testing.assert_allclose(
        updates['kernel'] * np.linalg.norm(direction), -direction * np.linalg.norm(updates['kernel']), rtol=1e-4
    )
    np.testing.assert_allclose(updates['bias'], -0.8 * grads['bias'], rtol=1e-6)


def test_layer_decay_shortens_the_steps_of_lower_layers_stacked_ones_too():
    depths = {'embedding': np.asarray(0), 'blocks': np.arange(1, 4).reshape(3, 1), 'head': np.asarray(4)}
    optimizer = make_optimizer(
        learning_rate=1.0, total_steps=10, clip_norm=None, layer_decay=0.5, depths=lambda params: depths
    )
    params = {'embedding': np.ones((2, 2)), 'blocks': np.ones((3, 2)), 'head': np.ones(2)}
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    np.testing.assert_allclose(updates['embedding'], -np.full((2, 2), 1 / 16), rtol=1e-4)
    np.testing.assert_allclose(updates['blocks'], -np.repeat([[1 / 8], [1 / 4], [1 / 2]], 2, axis=1), rtol=1e-4)
    np.testing.assert_allclose(updates['head'], -np.ones(2), rtol=1e-4)


def test_weight_decay_is_scaled_with_the_layer():
    optimizer = make_optimizer(
        learning_rate=1.0,
        total_steps=10,
        weight_decay=0.5,
        decayed='kernels',
        clip_norm=None,
        layer_decay=0.5,
        depths=lambda params: {'positions': np.asarray(0), 'low': {'kernel': np.asarray(0)}, 'kernel': np.asarray(1)},
    )
    params = {'positions': np.ones((2, 2)), 'low': {'kernel': np.ones((2, 2))}, 'kernel': np.ones((2, 2))}
    updates, _ = optimizer.update(jax.tree.map(np.zeros_like, params), optimizer.init(params), params)
    found = jax.tree.map(lambda x: float(x[0, 0]), updates)
    assert found == {'positions': 0.0, 'low': {'kernel': -0.25}, 'kernel': -0.5}


@pytest.mark.parametrize(
    ('settings', 'answer'),
    [
        ({'method': 'sgd'}, "unknown optimizer.method 'sgd'; known: adam, lars"),
        ({'layer_decay': 1.5}, 'layer_decay must be above 0 and at most 1, got 1.5'),
        ({'layer_decay': 0.5}, 'layer_decay is 0.5, but the layers of this model have no order; set it to 1'),
    ],
)
def test_methods_that_make_no_sense_are_refused(settings, answer):
    with pytest.raises(UserError, match=answer):
        make_optimizer(learning_rate=1.0, total_steps=10, **settings)
