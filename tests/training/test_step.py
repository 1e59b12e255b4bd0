"""Properties of one training step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toy_objective import ToyData, ToyObjective, toy_step

from vistok.training.step import player_gradients


def initial(step):
    batch = next(ToyData())
    return step.init(jax.random.key(1), batch), batch


def test_one_vjp_gives_each_player_the_gradient_of_its_own_loss():
    state, batch = initial(toy_step())
    objective = ToyObjective()
    arguments = (state.model_state, objective.frozen, batch, jax.random.key(0), state.step)
    grads, _, _ = player_gradients(objective, state.params, *arguments)
    for player in objective.players:
        own = jax.grad(lambda p, player=player: objective.losses(p, *arguments)[0][player])(state.params)[player]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), grads[player], own)


def test_players_cost_no_second_forward_pass():
    state, batch = initial(toy_step())
    objective = ToyObjective()
    arguments = (state.model_state, objective.frozen, batch, jax.random.key(0), state.step)

    def flops(function):
        return jax.jit(function).lower(state.params).compile().cost_analysis()['flops']

    together = flops(lambda p: player_gradients(objective, p, *arguments)[0])
    model_alone = flops(lambda p: jax.grad(lambda q: objective.losses(q, *arguments)[0]['model'])(p)['model'])
    assert together < 1.1 * model_alone


def test_accumulated_gradients_are_the_mean_over_parts():
    """With a loss that is a mean over samples, parts and whole agree; the toy's batch statistic is per part."""

    class PerSample(ToyObjective):
        def losses(self, params, model_state, frozen, batch, rng, step):
            losses, (model_state, report) = super().losses(params, model_state, frozen, batch, rng, step)
            x = batch['image']
            y = jnp.tanh(x @ params['model']['mlp_in']['kernel']) @ params['model']['mlp_out']['kernel']
            return losses | {'model': jnp.mean((x - y) ** 2)}, (model_state, report)

    whole, parts = toy_step(objective=PerSample()), toy_step(objective=PerSample(), accumulate=4)
    state, batch = initial(whole)
    after_whole, report_whole = jax.jit(whole)(state, whole.objective.frozen, batch)
    after_parts, report_parts = jax.jit(parts)(state, parts.objective.frozen, batch)
    np.testing.assert_allclose(report_whole.metrics['loss/model'], report_parts.metrics['loss/model'], rtol=1e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5),
        after_whole.params['model'],
        after_parts.params['model'],
    )
    np.testing.assert_array_equal(report_whole.counts['code'], report_parts.counts['code'])


def test_moving_average_follows_the_first_player():
    step = toy_step()
    state, batch = initial(step)
    after, _ = step(state, step.objective.frozen, batch)
    expected = optax.incremental_update(after.params['model'], state.params['model'], 0.1)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), after.ema, expected)


@pytest.mark.parametrize('bad', [np.nan, np.inf])
def test_a_value_that_is_not_finite_is_reported(bad):
    step = toy_step()
    state, batch = initial(step)
    _, good_report = step(state, step.objective.frozen, batch)
    batch['image'][3, 5] = bad
    _, bad_report = step(state, step.objective.frozen, batch)
    assert good_report.metrics['finite'] == 1
    assert bad_report.metrics['finite'] == 0
