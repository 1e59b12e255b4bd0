"""The loop: stopping, resuming, refusing to go on with numbers that are not finite."""

import json
import os
import signal

import jax
import numpy as np
import pytest
from toy_objective import ToyData, toy_step

from vistok.errors import UserError
from vistok.training.checkpoint import Checkpoints
from vistok.training.loop import LoopOptions, train
from vistok.training.parallel import make_runner
from vistok.training.writers import create_writer


class SignallingData(ToyData):
    """Sends a signal to this process before the batch of one position."""

    at, number = -1, signal.SIGTERM

    def __next__(self):
        if self.position == self.at:
            os.kill(os.getpid(), self.number)
        return super().__next__()


class PoisonedData(ToyData):
    """Has a NaN in the batch of one position."""

    at = -1

    def __next__(self):
        position = self.position
        batch = super().__next__()
        if position == self.at:
            batch['image'][0, 0] = np.nan
        return batch


def run(folder, data=None, steps=7, evaluate=lambda state, step: {'psnr': float(step)}, **options):
    step, runner = toy_step(), make_runner(devices=1)
    data = ToyData() if data is None else data
    folder.mkdir(exist_ok=True)
    checkpoints = Checkpoints(folder / 'checkpoints', best='psnr')
    newest = checkpoints.latest_step
    if newest is None:
        state = runner.init(step, 1, next(ToyData()))
    else:
        state, meta = checkpoints.restore(newest, runner.abstract_state(step, next(ToyData())))
        data.restore(meta['data'])
    writer = create_writer(folder, resume_step=newest)
    try:
        return train(
            train_step=step,
            runner=runner,
            state=state,
            data=data,
            evaluate=evaluate,
            checkpoints=checkpoints,
            writer=writer,
            options=LoopOptions(
                **({'steps': steps, 'log_every': 1, 'evaluate_every': 4, 'checkpoint_every': 2} | options)
            ),
            show_progress=False,
        )
    finally:
        checkpoints.close()
        writer.close()


def logged(folder, name):
    lines = [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]
    return {line['step']: line[name] for line in lines if name in line}


def assert_same_state(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(np.asarray(x), np.asarray(y)), a, b)


@pytest.fixture(scope='module')
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp('whole') / 'run'
    return run(folder), folder


@pytest.mark.parametrize('stop_at', [1, 2, 3, 5])
def test_a_run_stopped_by_sigterm_and_resumed_equals_the_uninterrupted_one(tmp_path, uninterrupted, stop_at):
    data = SignallingData()
    data.at = stop_at
    stopped = run(tmp_path / 'run', data)
    assert stopped.stopped
    assert int(stopped.state.step) == stop_at + 1
    finished = run(tmp_path / 'run')
    assert not finished.stopped
    assert_same_state(finished.state, uninterrupted[0].state)
    assert logged(tmp_path / 'run', 'loss/model') == logged(uninterrupted[1], 'loss/model')


def test_ctrl_c_stops_like_sigterm(tmp_path):
    data = SignallingData()
    data.at, data.number = 2, signal.SIGINT
    assert run(tmp_path / 'run', data).stopped


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path):
    data = PoisonedData()
    data.at = 4
    with pytest.raises(UserError, match=r'not finite at step 5: .*loss/model.*checkpoints/4'):
        run(tmp_path / 'run', data)
    with Checkpoints(tmp_path / 'run' / 'checkpoints', read_only=True) as checkpoints:
        assert checkpoints.latest_step == 4
    run(tmp_path / 'run')


def test_the_newest_and_the_best_checkpoints_stay(tmp_path):
    best_at_4 = lambda state, step: {'psnr': 30.0 if step == 4 else 10.0}  # noqa: E731
    run(tmp_path / 'run', steps=12, evaluate=best_at_4)
    with Checkpoints(tmp_path / 'run' / 'checkpoints', best='psnr', read_only=True) as checkpoints:
        assert checkpoints.steps == [4, 10, 12]
        assert checkpoints.best_step() == 4


def test_a_checkpoint_of_another_model_is_refused_in_one_sentence(tmp_path):
    run(tmp_path / 'run', steps=2)
    other = make_runner(devices=1).abstract_state(toy_step(), next(ToyData(width=64)))
    without_average = make_runner(devices=1).abstract_state(toy_step(ema_decay=None), next(ToyData()))
    with Checkpoints(tmp_path / 'run' / 'checkpoints', read_only=True) as checkpoints:
        for abstract in (other, without_average):
            with pytest.raises(UserError, match='cannot be read into this model'):
                checkpoints.restore(2, abstract)


def test_an_evaluated_step_is_logged_under_evaluation(uninterrupted):
    assert logged(uninterrupted[1], 'evaluation/psnr') == {4: 4.0, 7: 7.0}
