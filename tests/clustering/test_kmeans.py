"""k-means: clusters that are there are found, none stays empty, and the vectors are read in pieces."""

import numpy as np
import pytest
from sklearn.cluster import KMeans

from vistok.clustering import kmeans as module
from vistok.clustering.kmeans import kmeans


def blobs(count=12, each=40, dim=5, seed=0):
    rng = np.random.default_rng(seed)
    centres = 20 * rng.standard_normal((count, dim))
    vectors = (centres[:, None] + rng.standard_normal((count, each, dim))).reshape(-1, dim).astype(np.float32)
    return rng.permutation(vectors), centres


def nearest_distance(a, b):
    return np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1)).min(1)


def test_well_separated_clusters_are_all_found():
    vectors, centres = blobs()
    clusters = kmeans(vectors, 12)
    assert nearest_distance(centres, clusters.centroids).max() < 1
    np.testing.assert_array_equal(clusters.counts, 40)


def test_centroids_are_the_means_of_what_is_nearest_to_them():
    vectors = np.random.default_rng(1).standard_normal((300, 4)).astype(np.float32)
    clusters = kmeans(vectors, 7, tolerance=0.0)
    ids = ((vectors[:, None] - clusters.centroids) ** 2).sum(-1).argmin(1)
    means = np.stack([vectors[ids == i].mean(0) for i in range(7)])
    np.testing.assert_allclose(clusters.centroids, means, atol=1e-5)
    np.testing.assert_array_equal(clusters.counts, np.bincount(ids, minlength=7))
    np.testing.assert_allclose(clusters.distance, ((vectors - means[ids]) ** 2).sum(-1).mean(), rtol=1e-5)


def test_it_is_as_good_as_scikit_learns():
    vectors = np.random.default_rng(2).standard_normal((1000, 6)).astype(np.float32)
    reference = KMeans(20, n_init=1, random_state=0).fit(vectors).inertia_ / len(vectors)
    assert kmeans(vectors, 20).distance < 1.05 * reference


def test_a_weight_counts_as_so_many_copies():
    vectors, _ = blobs(count=5)
    weights = np.random.default_rng(4).integers(1, 4, len(vectors))
    clusters = kmeans(vectors, 5, weights=weights.astype(np.float64))
    copies = kmeans(np.repeat(vectors, weights, axis=0), 5)
    order, other = (np.lexsort(x.centroids.T) for x in (clusters, copies))
    np.testing.assert_allclose(clusters.centroids[order], copies.centroids[other], rtol=1e-4)
    np.testing.assert_allclose(clusters.distance, copies.distance, rtol=1e-4)
    np.testing.assert_array_equal(clusters.counts[order], 40)


def test_vectors_are_assigned_to_their_nearest_centroid():
    vectors = np.random.default_rng(1).standard_normal((300, 4)).astype(np.float32)
    clusters = kmeans(vectors, 7, iterations=3)
    nearest = ((vectors[:, None] - clusters.centroids) ** 2).sum(-1).argmin(1)
    np.testing.assert_array_equal(clusters.cluster_of, nearest)


def test_the_best_of_several_restarts_is_returned():
    vectors = np.random.default_rng(5).standard_normal((200, 3)).astype(np.float32)
    runs = [kmeans(vectors, 9, seed=seed) for seed in range(3, 7)]
    best = kmeans(vectors, 9, seed=3, restarts=4)
    assert best.distance == min(run.distance for run in runs) < max(run.distance for run in runs)


def test_the_same_seed_gives_the_same_centroids_and_another_one_others():
    vectors = np.random.default_rng(3).standard_normal((200, 4)).astype(np.float32)
    a, b, c = (kmeans(vectors, 9, seed=seed, iterations=3).centroids for seed in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)


def test_pieces_change_nothing(monkeypatch):
    vectors, _ = blobs()
    whole = kmeans(vectors, 12)
    monkeypatch.setattr(module, '_ROWS_AT_ONCE', 64)
    pieces = kmeans(vectors, 12)
    np.testing.assert_allclose(pieces.centroids, whole.centroids, atol=1e-4)
    np.testing.assert_array_equal(pieces.counts, whole.counts)


def test_seeds_drawn_several_at_a_time_are_different_vectors(monkeypatch):
    vectors, centres = blobs()
    monkeypatch.setattr(module, '_ROUNDS', 4)
    seeds = module._seeds(vectors, 30, np.random.default_rng(0))
    assert len(np.unique(seeds, axis=0)) == 30
    clusters = kmeans(vectors, 30)
    assert clusters.counts.min() > 0
    assert nearest_distance(centres, clusters.centroids).max() < 2


def test_an_empty_cluster_starts_again_at_the_farthest_vector(monkeypatch):
    vectors, centres = blobs(count=4)
    bad = np.concatenate([centres[:3], np.full((1, 5), 1e3)])  # a centroid that nothing is near to
    monkeypatch.setattr(module, '_seeds', lambda *_: bad.astype(np.float32))
    clusters = kmeans(vectors, 4)
    np.testing.assert_array_equal(clusters.counts, 40)
    assert nearest_distance(centres, clusters.centroids).max() < 1


def test_clusters_that_become_empty_together_start_at_different_vectors(monkeypatch):
    vectors, _ = blobs(count=4)
    bad = np.concatenate([vectors[:1], 1e3 + vectors[:3]])
    monkeypatch.setattr(module, '_seeds', lambda *_: bad)
    assert kmeans(vectors, 4).counts.min() > 0


def test_copies_of_one_vector_end():
    vectors = np.ones((10, 3), np.float32)
    vectors[:2] = 0
    clusters = kmeans(vectors, 4)
    assert clusters.distance == 0
    assert sorted(clusters.counts) == [0, 0, 2, 8]


def test_vectors_in_half_precision_on_disk_are_read(tmp_path):
    vectors, _ = blobs()
    np.save(tmp_path / 'vectors.npy', vectors.astype(np.float16))
    mapped = np.load(tmp_path / 'vectors.npy', mmap_mode='r')
    np.testing.assert_allclose(kmeans(mapped, 12).distance, kmeans(vectors, 12).distance, rtol=1e-2)


def test_too_few_or_infinite_vectors_are_refused():
    with pytest.raises(ValueError, match='3 vectors cannot make 4 clusters'):
        kmeans(np.zeros((3, 2), np.float32), 4)
    with pytest.raises(ValueError, match='finite'):
        kmeans(np.full((3, 2), np.inf, np.float32), 2)
