"""Run folders of an earlier version: training resumes from their checkpoints with the losses that it had."""

import json
import shutil
from pathlib import Path

import pytest
from legacy_files import DATA, EXPECTED, assert_close

from vistok.experiments import run_folder, training
from vistok.experiments.config_files import config

# Overrides with which the runs began.
COMMON = {
    'data.source': 'embedded:digits',
    'optimizer.schedule': 'constant',
    'train.checkpoint_every': 2,
    'train.devices': 1,
    'train.ema_decay': 0.0,
    'train.keep': 1,
    'train.log_every': 1,
    'train.steps': 4,
}
OVERRIDES = {
    'simvq': {
        'data.augmentation': 'resize_crop',
        'data.flip': False,
        'evaluate.pictures': 0,
        'model.channels': 4,
        'model.codebook_dim': 4,
        'model.codebook_size': 16,
        'objective.discriminator': '',
    },
    'llamagen': {
        'data.image_size': 8,
        'evaluate.per_class': 0,
        'tokenizer': str(DATA / 'runs/simvq'),
    },
}


def records(run, steps):
    lines = [json.loads(line) for line in (run / 'metrics.jsonl').read_text('utf-8').splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith('speed/')} for line in lines if line['step'] in steps]


def assert_same_records(actual, expected):
    assert [sorted(line) for line in actual] == [sorted(line) for line in expected]
    for line, recorded in zip(actual, expected, strict=True):
        for name, value in recorded.items():
            assert_close(line[name], value)


def todays_config(name):
    return config(f'configs/{name}.py:tiny', {**COMMON, **OVERRIDES[name]})


def own_config(name):
    settings = run_folder.read_config(DATA / 'runs' / name)
    settings.train.steps = 4
    return settings


@pytest.fixture(params=OVERRIDES)
def run(request, tmp_path):
    return Path(shutil.copytree(DATA / 'runs' / request.param, tmp_path / request.param))


CONFIGS = {'simvq': own_config, 'llamagen': todays_config}  # one each: a run takes seconds


def test_a_run_resumes_with_the_same_losses(run):
    result = training.run_training(CONFIGS[run.name](run.name), run, show_progress=False)
    assert int(result.state.step) == 4
    expected = EXPECTED['runs'][run.name]
    assert_same_records(records(run, (1, 2)), expected['steps 1 and 2, written'])
    assert_same_records(records(run, (3, 4)), expected['steps 3 and 4, resumed by the old version'])


def test_a_run_folder_takes_todays_config(run):
    """Blocks that enter the model are the same; a run whose model differs is refused."""
    settings = todays_config(run.name)
    if run.name == 'llamagen':  # these are resolved from the tokenizer when training begins
        settings.unlock()
        settings.tokens = run_folder.read_config(run).tokens
    run_folder.prepare(run, settings)
    assert run_folder.read_config(run).train.steps == 4
