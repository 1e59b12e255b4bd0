"""Clusters of codewords: k-means, equal sizes, files."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_packs import random_variables

from vistok.errors import UserError
from vistok.generators.autoregressive.codeword_clusters import (
    SharedOutputVectors,
    cluster_codewords,
    codeword_vectors,
    read_clusters,
    write_clusters,
)
from vistok.generators.autoregressive.llamagen import LlamaGen
from vistok.tokenizers.fqgan import FQGAN
from vistok.tokenizers.trained import TrainedTokenizer
from vistok.tokenizers.vqgan import VQGAN
from vistok.training.initialization import InitialData


def heaps(sizes, seed=0):
    rng = np.random.default_rng(seed)
    centres = 10 * np.eye(len(sizes))
    return np.concatenate([c + 0.1 * rng.standard_normal((n, len(sizes))) for c, n in zip(centres, sizes, strict=True)])


@pytest.fixture(scope='module')
def tokenizer():
    module = VQGAN(channels=8, channel_multipliers=(1, 1), latent_channels=8, codebook_size=24, codebook_dim=4)
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros((1, 4, 4, 3))))
    return TrainedTokenizer(module, random_variables(shapes))


def test_similar_codewords_share_a_cluster_and_unseen_ones_join_it():
    vectors = heaps((5, 20, 8)).astype(np.float32)
    found = cluster_codewords(vectors, 3, used=np.asarray([0, 1, 5, 6, 7, 30]), restarts=3)
    of = found.cluster_of
    assert len({of[0], of[5], of[30]}) == 3
    assert (of == np.repeat([of[0], of[5], of[30]], (5, 20, 8))).all()
    assert found.about['seen_by_k_means'] == '6'


def test_balanced_clusters_have_equal_sizes_and_are_closer_than_chance():
    vectors = np.random.default_rng(1).standard_normal((60, 2)).astype(np.float32)
    found = cluster_codewords(vectors, 7, balanced=True, restarts=2)
    assert found.sizes.max() - found.sizes.min() <= 1
    means = np.stack([vectors[found.cluster_of == i].mean(0) for i in range(7)])
    assert np.square(vectors - means[found.cluster_of]).sum(1).mean() < 0.4 * vectors.var(0).sum()  # by chance: 53 / 60


def test_more_clusters_than_different_codewords_are_refused():
    with pytest.raises(UserError, match='2 different codewords cannot make 3 clusters'):
        cluster_codewords(np.asarray([[0.0], [1.0], [1.0]], np.float32), 3)


def test_files_keep_clusters_and_the_tokenizer_they_are_of(tmp_path, tokenizer):
    vectors = codeword_vectors(tokenizer)
    assert vectors.shape == (24, 4)
    clusters = cluster_codewords(vectors, 5, restarts=1)
    path = tmp_path / 'clusters.safetensors'
    write_clusters(path, clusters, tokenizer)
    back = read_clusters(path)
    np.testing.assert_array_equal(back.cluster_of, clusters.cluster_of)
    assert back.about['tokenizer'] == tokenizer.fingerprint
    assert back.about['clusters'] == '5'
    with pytest.raises(UserError, match='there are no clusters'):
        read_clusters(tmp_path / 'none.safetensors')


def test_ids_of_similar_codewords_share_an_output_vector(tokenizer):
    initializer = SharedOutputVectors('frozen/output_0/vector_of')
    generator = LlamaGen(tokenizer.spec, (2, 2), 3, layers=1, heads=1, width=8, output_vectors=5)
    data = InitialData(3, 8, lambda size: iter(()), tokenizer)
    found = initializer.arrays(generator, None, data)
    expected = cluster_codewords(codeword_vectors(tokenizer), 5, restarts=1, seed=3).cluster_of
    np.testing.assert_array_equal(found['frozen/output_0/vector_of'], expected)
    assert not initializer.arrays(dataclasses.replace(generator, output_vectors=0), None, data)


def test_several_codebooks_are_refused():
    module = FQGAN(teachers=('', ''))
    with pytest.raises(UserError, match='clusters are made of one codebook'):
        codeword_vectors(TrainedTokenizer(module, {}))
