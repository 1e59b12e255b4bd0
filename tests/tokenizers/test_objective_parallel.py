"""FQGAN with all its losses, on one device, on meshes of eight, and under pmap: one run."""

import jax
import numpy as np
import pytest

from vistok.experiments import assembly
from vistok.experiments.config_files import load_config
from vistok.training.parallel import make_runner

RUNNERS = {
    'data': {},
    'fsdp': {'data': 1, 'fsdp': 8},
    'data_fsdp_model': {'data': 2, 'fsdp': 2, 'model': 2},
    'pmap': {'kind': 'pmap'},
}
STEPS = 3


@pytest.fixture(scope='module')
def experiment():
    config = load_config('configs/fqgan.py:tiny')
    config.objective.adaptive_weight = True
    config.objective.lecam_weight = 0.1
    config.optimizer.learning_rate = 1e-4
    data = assembly.train_batches(config)
    step = assembly.build_train_step(config, assembly.build_tokenizer_objective(config))
    return config, step, [next(data) for _ in range(STEPS)]


def run(experiment, **arguments):
    config, step, batches = experiment
    runner = make_runner(**arguments)
    state = runner.init(step, 0, assembly.example_batch(config))
    carried, frozen = runner.enter(state), runner.put_frozen(step.objective.frozen)
    function, reports = None, []
    for batch in batches:
        placed = runner.put_batch(batch)
        if function is None:
            function, _ = runner.compile(step, carried, frozen, placed)
        carried, report = function(carried, frozen, placed)
        reports.append(jax.device_get(report))
    return reports


@pytest.fixture(scope='module')
def one_device(experiment):
    return run(experiment, devices=1)


# The mesh of three axes includes what the meshes of one axis do; pmap takes minutes to compile here, and smaller
# objectives are compared under it elsewhere.
@pytest.mark.parametrize(
    'name', ['data_fsdp_model', *(pytest.param(name, marks=pytest.mark.slow) for name in ('data', 'fsdp', 'pmap'))]
)
def test_losses_agree_to_1e5_and_usage_exactly(name, experiment, one_device):
    reports = run(experiment, **RUNNERS[name])
    for step, (ours, reference) in enumerate(zip(reports, one_device, strict=True)):
        for metric, value in reference.metrics.items():
            if metric.startswith(('loss/', 'terms/')):
                np.testing.assert_allclose(
                    ours.metrics[metric], value, rtol=1e-5, atol=1e-6, err_msg=f'{metric} at step {step}'
                )
        for codebook, counts in reference.counts.items():
            np.testing.assert_array_equal(ours.counts[codebook], counts, err_msg=f'{codebook} at step {step}')
