"""The Fréchet distance against closed forms and against recorded values of pytorch-fid."""

import numpy as np
import pytest
from golden_packs import load_pack

from vistok.metrics.frechet import Gaussian, Moments, frechet_distance, frechet_error


def fitted(features, batch=64):
    moments = Moments()
    for start in range(0, len(features), batch):
        moments.add(features[start : start + batch])
    return moments.gaussian()


@pytest.fixture(scope='module')
def pack():
    return load_pack('inception_fid')


def test_streamed_moments_are_those_of_all_features_at_once(pack):
    features = pack['features_a']
    for batch in (1, 7, 64, 1000):
        found = fitted(features, batch)
        np.testing.assert_allclose(found.mean, pack['mu_a'], atol=1e-12)
        np.testing.assert_allclose(found.covariance[:6, :6], pack['sigma_a'], atol=1e-12)
        np.testing.assert_allclose(found.covariance, np.cov(features.astype(np.float64), rowvar=False), atol=1e-12)
        assert found.count == 200


def test_a_large_mean_costs_no_accuracy():
    features = np.random.default_rng(0).standard_normal((500, 3))
    np.testing.assert_allclose(fitted(features + 1e6).covariance, fitted(features).covariance, rtol=1e-8)


def test_distances_are_the_recorded_ones(pack):
    a, b = pack['features_a'], pack['features_b']
    np.testing.assert_allclose(frechet_distance(fitted(a), fitted(b)), pack['fid_ab'], rtol=1e-6)
    np.testing.assert_allclose(frechet_distance(fitted(a), fitted(a)), pack['fid_aa'], atol=1e-3)
    singular = frechet_distance(fitted(a[:20]), fitted(b[:25]))
    np.testing.assert_allclose(singular, pack['fid_singular'], rtol=1e-6)


def test_diagonal_gaussians_have_a_closed_form(pack):
    a = Gaussian(np.array([0.0, 1.0, 2.0, 3.0]), np.diag([1.0, 2.0, 3.0, 4.0]))
    b = Gaussian(np.zeros(4), np.diag([4.0, 3.0, 2.0, 1.0]))
    expected = 14 + ((np.sqrt([1, 2, 3, 4]) - np.sqrt([4, 3, 2, 1])) ** 2).sum()
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-12)
    assert frechet_distance(a, b) == pytest.approx(float(pack['fid_diag']), rel=1e-9)


def test_the_error_is_the_spread_of_distances_of_fresh_samples():
    rng = np.random.default_rng(0)
    reference = Gaussian(np.full(2, 1.0), np.eye(2))
    # Far from the reference the distance is nearly linear in the sample: its spread is known from repetition.
    fresh = [frechet_distance(fitted(rng.standard_normal((100, 2))), reference) for _ in range(400)]
    for few in (rng.standard_normal((100, 2)), rng.standard_normal((100, 2))):
        assert frechet_error(few, reference, 200, rng) == pytest.approx(np.std(fresh), rel=0.35)


def test_the_error_is_the_same_whether_features_or_images_are_more():
    rng = np.random.default_rng(0)
    narrow = rng.standard_normal((6, 5))
    wide = np.concatenate([narrow, np.zeros((6, 4))], axis=1)  # more features than images, and nothing else changed
    few = Gaussian(np.zeros(5), np.eye(5))
    same = Gaussian(np.zeros(9), np.diag([1.0] * 5 + [0.0] * 4))
    errors = [frechet_error(x, g, 10, np.random.default_rng(1)) for x, g in ((narrow, few), (wide, same))]
    assert errors[0] == pytest.approx(errors[1], rel=1e-6)


def test_what_cannot_be_compared_is_refused():
    moments = Moments()
    moments.add(np.zeros((1, 3)))
    with pytest.raises(ValueError, match='at least 2 images, got 1'):
        moments.gaussian()
    with pytest.raises(ValueError, match='width 3, got 4'):
        moments.add(np.zeros((1, 4)))
    with pytest.raises(ValueError, match='2 and 3'):
        frechet_distance(Gaussian(np.zeros(2), np.eye(2)), Gaussian(np.zeros(3), np.eye(3)))
