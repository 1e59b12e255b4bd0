"""Numbers of a config outside of their range are refused before anything is built."""

import contextlib
import inspect
import math
import re

import pytest
from ml_collections import ConfigDict

from vistok.errors import UserError
from vistok.experiments.config_files import config, load_config, packaged_configs
from vistok.experiments.ranges import RANGES, Range, check_numbers
from vistok.experiments.training import run_training


def all_configs():
    """Every config of the package, alone and with each variant that its docstring names."""
    for name, path in packaged_configs().items():
        variants = re.findall(r'^  (\w+)  +\S', inspect.cleandoc(path.read_text()), re.MULTILINE)
        for part in (name, *(f'{name}:{variant}' for variant in variants)):
            with contextlib.suppress(UserError):  # some variants go with another one only
                yield load_config(part)


def test_configs_of_the_package_are_in_range_and_every_range_is_used():
    keys = set()
    for loaded in all_configs():
        check_numbers(loaded)
        keys |= {f'{block}.{key}' for block, values in loaded.items() if hasattr(values, 'keys') for key in values}
    assert set(RANGES) <= keys


@pytest.mark.parametrize('key', RANGES)
def test_numbers_outside_of_a_range_are_refused(key):
    allowed = RANGES[key]
    outside = [allowed.least - 1, math.nan, *allowed.without]
    for value in [*outside, allowed.most + 1] if allowed.most < math.inf else outside:
        block, name = key.split('.')
        with pytest.raises(UserError, match=re.escape(f'config.{key} is {value}; allowed is {allowed}')):
            check_numbers(ConfigDict({block: {name: value}}))
        with pytest.raises(UserError, match='allowed is'):
            check_numbers(ConfigDict({block: {name: (allowed.most if allowed.most < math.inf else 1, value)}}))
    check_numbers(ConfigDict({block: {name: 1 if allowed.holds(1) else 0}}))


@pytest.mark.parametrize('value', [math.nan, math.inf, -math.inf])
def test_numbers_without_a_range_must_be_finite(value):
    with pytest.raises(UserError, match=r'config\.model\.beta is .*; allowed are finite numbers'):
        check_numbers(ConfigDict({'model': {'beta': value}}))


def test_what_is_no_number_is_refused():
    for value in ('a', None, True):
        with pytest.raises(UserError, match=r'config\.model\.channel_multipliers is .*; allowed is at least 1'):
            check_numbers(ConfigDict({'model': {'channel_multipliers': (1, value)}}))


def test_a_refused_run_leaves_no_folder(tmp_path):
    refused = config('vqgan:tiny', {'train.log_every': 0})
    with pytest.raises(UserError, match=r'train\.log_every is 0; allowed is at least 1'):
        run_training(refused, tmp_path / 'run')
    assert not (tmp_path / 'run').exists()


def test_a_range_says_what_it_allows():
    assert str(Range(0, without=(0, math.inf))) == 'above 0'
    assert str(Range(0, 1, without=(1,))) == 'at least 0 and below 1'
    assert str(Range(0, 2**32 - 1)) == 'at least 0 and at most 4294967295'
