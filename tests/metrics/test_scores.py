"""Inception score, precision and recall on cases that can be computed by hand."""

import numpy as np
import pytest

from vistok.metrics.inception_score import ScoreRule, inception_score
from vistok.metrics.precision_recall import precision_recall

WHOLE = ScoreRule()


def sure(labels, classes):
    return 1000.0 * np.eye(classes)[labels]


def test_uniform_predictions_score_1():
    assert inception_score(np.zeros((12, 5)), WHOLE).score == pytest.approx(1.0)


def test_sure_and_balanced_predictions_score_the_number_of_classes():
    assert inception_score(sure(np.arange(20) % 5, 5), WHOLE).score == pytest.approx(5.0)


def test_images_of_one_class_score_1():
    assert inception_score(sure(np.zeros(8, int), 5), WHOLE).score == pytest.approx(1.0)


def test_a_score_by_hand():
    p = np.array([[0.9, 0.1], [0.3, 0.7]])
    mean = p.mean(axis=0)
    expected = np.exp((p * np.log(p / mean)).sum(axis=1).mean())
    assert inception_score(np.log(p) + 3.0, WHOLE).score == pytest.approx(expected)


def test_parts_are_consecutive_and_the_last_may_be_smaller():
    parts = ScoreRule(split_size=4).parts(10)
    assert [part.tolist() for part in parts] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert [len(part) for part in ScoreRule(splits=3).parts(10)] == [3, 3, 4]
    assert [len(part) for part in ScoreRule(splits=10).parts(2)] == [1, 1]


def test_class_order_lowers_the_score_of_parts_and_shuffling_makes_it_irrelevant():
    in_order = sure(np.arange(100) // 20, 5)
    mixed = sure(np.arange(100) % 5, 5)
    assert inception_score(in_order, ScoreRule(split_size=20)).score == pytest.approx(1.0)
    assert inception_score(mixed, ScoreRule(split_size=20)).score == pytest.approx(5.0)
    shuffled = ScoreRule(splits=2, shuffle_seed=2020)
    assert sorted(np.concatenate(shuffled.parts(100))) == list(range(100))
    assert inception_score(in_order, shuffled).score > 4


def test_no_images_have_no_score():
    with pytest.raises(ValueError, match='got none'):
        inception_score(np.zeros((0, 5)), WHOLE)


def points(*values):
    return np.array(values, np.float32)[:, None]


@pytest.mark.parametrize('chunk', [1, 2, 100])
@pytest.mark.parametrize('half', [False, True])
def test_precision_and_recall_by_hand(chunk, half):
    # Nearest neighbours (k = 1): the reference reaches 1 around 0 and 1, and 9 around 10; the samples reach 1 around
    # 2 and 3, and 27 around 30.
    found = precision_recall(points(2, 3, 30), points(0, 1, 10), neighbours=1, half=half, chunk=chunk)
    assert found.precision == pytest.approx(2 / 3)  # 2 and 3; 30 is 20 away from 10
    assert found.recall == pytest.approx(2 / 3)  # 1 and 10; 0 is 2 away from 2 and 30 away from 30
    again = precision_recall(points(2.5, 40, 41), points(0, 1, 2), neighbours=1, half=half, chunk=chunk)
    assert again.precision == pytest.approx(1 / 3)
    assert again.recall == pytest.approx(1.0)  # the ball of 2.5 reaches 37.5


def test_the_kth_neighbour_is_not_the_point_itself():
    # k = 2: 0 reaches 2, 1 reaches 1, 2 reaches 2, 100 reaches 99.
    found = precision_recall(points(3.5, 4.5, 300, 301), points(0, 1, 2, 100), neighbours=2)
    assert found.precision == pytest.approx(0.5)  # 3.5 and 4.5 are inside of 100's ball alone; 300 is not


def test_distances_that_float16_cannot_hold_are_computed_in_float32():
    samples, reference = 1000 * points(2, 3, 30), 1000 * points(0, 1, 10)
    assert precision_recall(samples, reference, neighbours=1, half=True).precision == pytest.approx(2 / 3)


def test_too_few_images_for_the_neighbours_are_refused():
    with pytest.raises(ValueError, match='more than 3 reference, got 3'):
        precision_recall(points(1, 2, 3, 4), points(1, 2, 3))
