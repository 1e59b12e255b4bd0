"""The benchmark of sampling runs, and its numbers fit together."""

import importlib.util
import re
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / 'benchmarks' / 'sample.py'


def test_every_batch_size_has_its_row(capsys):
    spec = importlib.util.spec_from_file_location('sample_benchmark', SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    sizes = ['--sizes', 'tiny', '--batch_sizes', '1,2', '--guidance', '2', '--tokens', '16']
    script.main([*sizes, '--repeats', '1', '--no_torch'])
    printed = capsys.readouterr().out
    rows = re.findall(r'^ *tiny +(\d+) +(\S+) +(\S+) +(\S+)%', printed, re.MULTILINE)
    assert [row[:2] for row in rows] == [('1', '2'), ('2', '2')]
    assert all(float(speed) > 0 and float(share) >= 0 for _, _, speed, share in rows)
    assert float(re.search(r': (\S+) GB/s', printed)[1]) == pytest.approx(script.memory_bandwidth() / 1e9, rel=0.9)
