"""One device, a mesh of eight in several shapes, and pmap: the same run."""

import jax
import numpy as np
import pytest
from toy_objective import ToyData, toy_step

from vistok.training.checkpoint import Checkpoints
from vistok.training.parallel import make_runner
from vistok.training.sharding import make_mesh

RUNNERS = {
    'one': {'devices': 1},
    'data': {},
    'fsdp': {'data': 1, 'fsdp': 8},
    'data_fsdp_model': {'data': 2, 'fsdp': 2, 'model': 2},
    'pmap': {'kind': 'pmap'},
}


def run(name, steps=4, state=None, **changes):
    runner, step, data = make_runner(**RUNNERS[name]), toy_step(**changes), ToyData()
    state = runner.init(step, 1, next(ToyData())) if state is None else state
    carried, frozen = runner.enter(state), runner.put_frozen(step.objective.frozen)
    function, reports = None, []
    for _ in range(steps):
        batch = runner.put_batch(next(data))
        if function is None:
            function, _ = runner.compile(step, carried, frozen, batch)
        carried, report = function(carried, frozen, batch)
        reports.append(jax.device_get(report))
    return runner.leave(carried), reports


@pytest.fixture(scope='module')
def reference():
    return run('one')


@pytest.mark.parametrize('name', [name for name in RUNNERS if name != 'one'])
def test_runs_agree_with_one_device(name, reference):
    assert_same_run(run(name), reference)


def assert_same_run(actual, expected):
    (state, reports), (reference_state, reference_reports) = actual, expected
    for ours, theirs in zip(reports, reference_reports, strict=True):
        for metric, value in theirs.metrics.items():
            np.testing.assert_allclose(ours.metrics[metric], value, rtol=1e-5, atol=1e-6, err_msg=metric)
        np.testing.assert_array_equal(ours.counts['code'], theirs.counts['code'])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=2e-5),
        state.params,
        reference_state.params,
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=1e-6),
        state.model_state,
        reference_state.model_state,
    )


def test_fresh_passes_agree_with_one_device_too(reference):
    fresh = run('one', fresh_passes=True, accumulate=2)
    assert abs(fresh[1][0].metrics['loss/critic'] - reference[1][0].metrics['loss/critic']) > 1e-4
    assert_same_run(run('data_fsdp_model', fresh_passes=True, accumulate=2), fresh)
    assert_same_run(run('pmap', fresh_passes=True), run('one', fresh_passes=True))


def test_parameters_and_moments_are_really_split():
    runner = make_runner(data=2, fsdp=2, model=2)
    state = runner.init(toy_step(), 1, next(ToyData()))
    kernel = state.params['model']['mlp_in']['kernel']
    assert kernel.addressable_shards[0].data.size == kernel.size // 4
    moment = jax.tree.leaves(state.opt_state['model'])
    largest = max(moment, key=lambda x: x.size)
    assert largest.addressable_shards[0].data.size == largest.size // 4


def test_a_checkpoint_moves_to_another_number_of_devices(tmp_path):
    saved, _ = run('data_fsdp_model')
    with Checkpoints(tmp_path / 'checkpoints') as checkpoints:
        checkpoints.save(4, saved, {'data': {'position': 4}})
    for name in ('one', 'fsdp', 'pmap'):
        runner = make_runner(**RUNNERS[name])
        abstract = runner.abstract_state(toy_step(), next(ToyData()))
        with Checkpoints(tmp_path / 'checkpoints', read_only=True) as reader:
            restored, meta = reader.restore(4, abstract)
        assert meta == {'data': {'position': 4}}
        jax.tree.map(lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b)), restored, saved)
        kernel = restored.params['model']['mlp_in']['kernel']
        assert kernel.sharding == abstract.params['model']['mlp_in']['kernel'].sharding
        run(name, steps=1, state=restored)


@pytest.mark.parametrize(
    ('arguments', 'sentence'),
    [
        ({'devices': 9}, '9 devices asked for, but this run has 8'),
        ({'data': 3}, 'does not cover the 8 devices'),
        ({'data': 16}, 'asks for 16 devices, but this run has 8'),
        ({'data': -1, 'fsdp': -1}, 'at most one may be -1'),
    ],
)
def test_impossible_meshes_are_refused_in_one_sentence(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        make_mesh(**arguments)


def test_pmap_refuses_split_parameters():
    with pytest.raises(ValueError, match='data parallel only'):
        make_runner('pmap', data=4, fsdp=2)


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match='batch size 12 is not divisible by 8'):
        make_runner().check_batch(12)
    with pytest.raises(ValueError, match='batch size 24 is not divisible by 16'):
        make_runner().check_batch(24, accumulate=2)
