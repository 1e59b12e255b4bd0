"""Files and run folders that an earlier version wrote (`legacy/data`), with the results that it got from them."""

import json
from pathlib import Path

import numpy as np

DATA = Path(__file__).parent / 'legacy' / 'data'
EXPECTED = json.loads((DATA / 'expected.json').read_text('utf-8'))


def waves(*shape):
    """Images that `expected.json` is about: a sine along all values, float32 in [-1, 1]."""
    return np.sin(np.linspace(0, 60, int(np.prod(shape)))).reshape(shape).astype(np.float32)


def assert_close(actual, expected):
    """Compares floats at the tolerance that `expected.json` states."""
    np.testing.assert_allclose(np.asarray(actual, np.float64), expected, rtol=1e-4, atol=1e-5)


def assert_summary(actual, expected):
    """Compares an array with its recorded shape, mean, standard deviation and first values."""
    actual = np.asarray(actual, np.float64)
    assert list(actual.shape) == expected['shape']
    assert_close([actual.mean(), actual.std()], [expected['mean'], expected['std']])
    assert_close(actual.ravel()[: len(expected['first'])], expected['first'])
