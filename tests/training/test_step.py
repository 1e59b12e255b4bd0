"""Properties of one training step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toy_objective import ToyData, ToyObjective, toy_step

from vistok.training.state import StepReport
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


def test_a_fresh_pass_sees_what_the_first_player_left():
    """The critic's gradient is that at the new model and the new running mean, which the pass moves once more."""
    step = toy_step(fresh_passes=True)
    state, batch = initial(step)
    after, report = jax.jit(step)(state, step.objective.frozen, batch)
    alone, _ = jax.jit(toy_step())(state, step.objective.frozen, batch)  # its model is updated by the same gradient
    halfway = {'model': alone.params['model'], 'critic': state.params['critic']}
    rest = (step.objective.frozen, batch, jax.random.key(0), state.step)  # the toy draws nothing
    grads, model_state, expected = player_gradients(step.objective, halfway, alone.model_state, *rest, ('critic',))
    assert list(grads) == ['critic']
    updates, _ = step.optimizers['critic'].update(grads['critic'], state.opt_state['critic'], state.params['critic'])
    critic = optax.apply_updates(state.params['critic'], updates)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), after.params['critic'], critic)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), after.params['model'], halfway['model'])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), after.model_state, model_state)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), after.ema, alone.ema)
    np.testing.assert_allclose(report.metrics['loss/critic'], expected.metrics['loss/critic'], rtol=1e-6)
    assert abs(after.params['critic']['kernel'] - alone.params['critic']['kernel']).max() > 1e-3
    assert int(after.step) == 1


@pytest.mark.parametrize('accumulate', [1, 4])
def test_a_fresh_pass_draws_other_numbers_and_carries_the_state_through_all_parts(accumulate):
    class Noisy(ToyObjective):
        """Loss of each player: its own sum times a draw; the state adds up draws and counts passes."""

        def init(self, rng, batch):
            params, _ = super().init(rng, batch)
            return params, {'draws': jnp.zeros(()), 'passes': jnp.zeros((), jnp.int32)}

        def losses(self, params, model_state, frozen, batch, rng, step):
            draw = jax.random.normal(rng)
            losses = {player: draw * optax.tree.sum(params[player]) for player in self.players}
            state = {'draws': model_state['draws'] + draw, 'passes': model_state['passes'] + 1}
            return losses, (state, StepReport({'draw': draw}))

    sgd = dict.fromkeys(ToyObjective.players, optax.sgd(1.0))
    after = {}
    for fresh in (False, True):
        step = toy_step(objective=Noisy(), optimizers=sgd, accumulate=accumulate, fresh_passes=fresh)
        state, batch = initial(step)
        after[fresh], report = step(state, step.objective.frozen, batch)
        moved = jax.tree.map(lambda a, b: (b - a).mean(), state.params, after[fresh].params)
        model, critic = moved['model']['mlp_in']['kernel'], moved['critic']['kernel']
        assert after[fresh].model_state['passes'] == accumulate * (1 + fresh)
        assert (abs(model - critic) > 1e-3) == fresh
        drawn = (model + critic) if fresh else model
        np.testing.assert_allclose(after[fresh].model_state['draws'] / accumulate, -drawn, rtol=1e-4)
        np.testing.assert_allclose(report.metrics['draw'], -model, rtol=1e-4)  # of the first pass


@pytest.mark.parametrize('bad', [np.nan, np.inf])
def test_a_value_that_is_not_finite_is_reported(bad):
    step = toy_step()
    state, batch = initial(step)
    _, good_report = step(state, step.objective.frozen, batch)
    batch['image'][3, 5] = bad
    _, bad_report = step(state, step.objective.frozen, batch)
    assert good_report.metrics['finite'] == 1
    assert bad_report.metrics['finite'] == 0
