"""Two processes are one run: the same losses, usage and parameters as one process."""

import json
import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest
from toy_objective import ToyData, toy_step

from vistok.training.checkpoint import Checkpoints
from vistok.training.parallel import make_runner

TESTS = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('two')
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = str(probe.getsockname()[1])
    command = [sys.executable, str(TESTS / 'two_processes.py'), port]
    processes = [
        subprocess.Popen([*command, str(i), str(folder)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for i in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=240)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()  # SIGTERM is swallowed by jax.distributed
    assert [process.returncode for process in processes] == [0, 0], '\n'.join(outputs)[-4000:]
    return folder


@pytest.fixture(scope='module')
def one_process():
    runner, step, data = make_runner(devices=1), toy_step(), ToyData()
    state = runner.init(step, 1, next(ToyData()))
    frozen, reports, function = runner.put_frozen(step.objective.frozen), [], None
    for _ in range(4):
        batch = runner.put_batch(next(data))
        if function is None:
            function, _ = runner.compile(step, state, frozen, batch)
        state, report = function(state, frozen, batch)
        reports.append(jax.device_get(report))
    return state, reports


@pytest.mark.parametrize('name', ['data', 'fsdp', 'pmap'])
def test_two_processes_are_one_run(folder, one_process, name):
    state, reports = one_process
    lines = [json.loads(line) for line in (folder / name / 'metrics.jsonl').read_text().splitlines()]
    logged = [line for line in lines if 'loss/model' in line]
    assert [line['step'] for line in logged] == [1, 2, 3, 4]
    for line, report in zip(logged, reports, strict=True):
        for metric in ('loss/model', 'loss/critic', 'gradient_norm/model'):
            np.testing.assert_allclose(line[metric], report.metrics[metric], rtol=1e-5)
        assert line['usage/code'] == np.mean(report.counts['code'] > 0)

    abstract = make_runner(devices=1).abstract_state(toy_step(), next(ToyData()))
    with Checkpoints(folder / name / 'checkpoints', read_only=True) as checkpoints:
        restored, _ = checkpoints.restore(4, abstract)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=2e-5), restored.params, state.params
    )
