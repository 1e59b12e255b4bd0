"""Other files of an earlier version: extracted tokens, clusters of codewords, statistics of images."""

import dataclasses

import numpy as np
import pytest
from legacy_files import DATA, EXPECTED, assert_summary

from vistok.data.tokens.dataset import TokenSource
from vistok.generators.autoregressive.codeword_clusters import read_clusters
from vistok.metrics.feature_set import load_statistics

TABLES = EXPECTED['tables']


@pytest.mark.parametrize('split', EXPECTED['tokens'])
def test_extracted_tokens_are_as_they_were(split):
    source, expected = TokenSource(DATA / 'tokens', split), EXPECTED['tokens'][split]
    assert len(source) == expected['count']
    first = source[0]
    assert {'ids': first.ids.ravel().tolist(), 'label': first.label, 'name': first.name} == expected['first']
    assert sum(int(source[i].ids.sum()) for i in range(len(source))) == expected['sum']
    assert dict(source.about) == expected['about']


def test_clusters_of_codewords_are_as_they_were():
    clusters, expected = read_clusters(DATA / 'clusters.safetensors'), TABLES['clusters.safetensors']
    assert np.asarray(clusters.cluster_of).tolist() == expected['cluster_of']
    assert clusters.describe() == expected['describe']


def test_statistics_of_images_are_as_they_were():
    found, expected = load_statistics(DATA / 'statistics.npz'), TABLES['statistics.npz']
    assert (found.protocol, found.network_sha256) == (expected['protocol'], expected['network_sha256'])
    values = [getattr(found, field.name) for field in dataclasses.fields(found)]
    for name in ('pictures', 'pictures_sha256'):
        assert expected[name] in [value for value in values if isinstance(value, str)]
    assert found.pool.count == expected['count']
    assert_summary(found.pool.mean, expected['mean'])
    assert_summary(found.pool.covariance, expected['covariance'])
    assert list(found.features.shape) == expected['features']
