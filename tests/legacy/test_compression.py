"""Bitstreams and coding tables of an earlier version: they open, decode to the same images, and are written alike."""

import functools

import numpy as np
import pytest
from legacy_files import DATA, EXPECTED
from PIL import Image

from vistok.compression.format.description import describe
from vistok.compression.nested.codebooks import NestedCodebooks
from vistok.compression.priors.prior import StaticPrior
from vistok.experiments.codecs import open_codec

TABLES = EXPECTED['tables']


@functools.cache
def codec_of(name):
    return open_codec(None if name == 'shipped' else str(DATA / 'models/simvq.safetensors'))


def read(path):
    return np.asarray(Image.open(DATA / path))


@pytest.mark.parametrize('name', EXPECTED['bitstreams'])
def test_a_bitstream_decodes_as_it_did(name):
    data, expected = (DATA / f'compressed/{name}.bin').read_bytes(), EXPECTED['bitstreams'][name]
    found = describe(data)
    assert found.size == len(data) == expected['bytes']
    assert [value for _, value in found.lines()] == list(expected['lines'].values())
    tokens = codec_of(name).unpack(data).tokens
    ids = np.asarray(tokens.ids)
    assert list(ids.shape) == expected['ids_shape']
    recorded = expected['ids']
    recorded = [int(digit, 16) for digit in recorded] if isinstance(recorded, str) else recorded
    np.testing.assert_array_equal(ids.ravel(), recorded)
    if 'grain' in expected:
        np.testing.assert_array_equal(np.asarray(tokens.grain)[0], expected['grain'])
    image = codec_of(name).decompress(data)
    assert np.abs(image.astype(int) - read(expected['picture'])).max() <= 1


@pytest.mark.parametrize(('name', 'source'), [('prior', 'wave'), ('shipped', 'gradient')])
def test_a_bitstream_is_written_as_it_was(name, source):
    data = codec_of(name).compress(read(f'pictures/{source}.png'))
    assert data == (DATA / f'compressed/{name}.bin').read_bytes()


def test_the_tables_of_a_prior_are_as_they_were():
    path = 'models/simvq.prior.safetensors'
    assert StaticPrior.load(DATA / path).fingerprint.hex() == TABLES[path]['fingerprint']


def test_nested_codebooks_are_as_they_were():
    path = 'models/simvq.nested.safetensors'
    nested, expected = NestedCodebooks.load(DATA / path), TABLES[path]
    assert nested.fingerprint.hex() == expected['fingerprint']
    assert nested.weights_fingerprint.hex() == expected['weights']
    assert [list(nested.sizes(i + 1)) for i in range(len(nested.levels))] == expected['sizes']
    assert [level[0].cluster_of.tolist() for level in nested.levels] == expected['cluster_of']
