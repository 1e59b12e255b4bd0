"""The benchmark of the training step runs, and what it calls parts are the parts of the step."""

import importlib.util
import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).resolve().parents[2] / 'benchmarks' / 'train_step.py'
ROWS = ('full step', 'encoder', 'quantizer', 'decoder', 'stand-in', 'discriminator', 'optimizers', 'sum of the parts')


@pytest.fixture(scope='module')
def printed():
    spec = importlib.util.spec_from_file_location('train_step_benchmark', SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    with pytest.MonkeyPatch.context() as patch:
        lines = []
        patch.setattr('builtins.print', lambda *words: lines.append(' '.join(words)))
        patch.setattr(importlib.util, 'find_spec', lambda name: None)  # no comparison, whatever is installed
        script.main(['--preset', 'tiny', '--image_size', '8', '--batch_size', '2', '--steps', '1'])
    return '\n'.join(lines)


@pytest.mark.parametrize('name', ROWS)
def test_each_part_is_reported_with_its_time(printed, name):
    row = re.search(rf'^{name} +(\S+) +(\S+)% ', printed, re.MULTILINE)
    assert row, f'no row {name!r} in\n{printed}'
    assert float(row[1]) > 0
    assert float(row[2]) > 0


def test_the_speed_is_the_batch_over_the_time_of_the_step(printed):
    speed = float(re.search(r'^(\S+) images/s', printed, re.MULTILINE)[1])
    seconds = float(re.search(r'^full step +(\S+)', printed, re.MULTILINE)[1])
    assert speed == pytest.approx(2 / seconds, rel=0.05)


def test_the_parts_do_the_arithmetic_of_the_step(printed):
    """A gradient left out of a part, or one too many, is several percent."""
    step, parts = (
        float(re.search(rf'^{name} +\S+ +\S+ +(\S+)', printed, re.MULTILINE)[1])
        for name in ('full step', 'sum of the parts')
    )
    assert parts == pytest.approx(step, rel=0.02)
