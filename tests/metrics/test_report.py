"""Reports say what their numbers depend on, warn where they mislead, and refuse what cannot be compared."""

import dataclasses
import json

import numpy as np
import pytest

from vistok.errors import UserError
from vistok.metrics.feature_set import FeatureSet
from vistok.metrics.frechet import Gaussian
from vistok.metrics.report import check_comparable, class_policy, difference, read_report, report_on


def images(count=40, seed=0, protocol='adm', shift=0.0, labels=None, claimed=None):
    rng = np.random.default_rng(seed)
    features = (rng.standard_normal((count, 6)) + shift).astype(np.float32)
    gaussian = Gaussian(features.mean(0).astype(float), np.cov(features.astype(float), rowvar=False), claimed or count)
    return FeatureSet(
        protocol,
        'network',
        f'set {seed}',
        f'digest {seed}',
        gaussian,
        gaussian if protocol == 'adm' else None,
        features,
        3 * features,
        labels,
    )


@pytest.fixture(scope='module')
def report():
    return report_on(images(shift=1.0), images(seed=1), settings={'seed': 3, 'guidance_scale': 2.0})


def test_a_report_of_adm_has_its_five_numbers_and_their_circumstances(report):
    assert set(report.metrics) == {'gfid', 'gfid_error', 'sfid', 'inception_score', 'precision', 'recall'}
    assert report.metrics['gfid'] == pytest.approx(6, abs=2.5)
    assert 0 < report.metrics['gfid_error'] < 3
    table = report.table()
    for part in ('adm', 'Inception', '40', 'seed 3', 'guidance_scale 2.0', 'set 1', 'digest 1', 'classes not stated'):
        assert part in table
    assert json.loads(json.dumps(dataclasses.asdict(report)))['reference_sha256'] == 'digest 1'


def test_the_stand_in_never_says_fid():
    found = report_on(images(protocol='stand_in'), images(seed=1, protocol='stand_in'), distance='rfid')
    assert set(found.metrics) == {
        'stand_in_frechet', 'stand_in_frechet_error', 'stand_in_precision', 'stand_in_recall'
    }  # fmt: skip
    assert 'not FID' in found.network
    assert any('compare with nothing published' in warning for warning in found.warnings)


def test_protocols_without_a_metric_do_not_report_it():
    found = report_on(images(protocol='pytorch_fid'), images(seed=1, protocol='pytorch_fid'), distance='rfid')
    assert set(found.metrics) == {'rfid', 'rfid_error'}


def test_few_images_are_warned_of(report):
    assert any('40 images; published numbers take 50000' in warning for warning in report.warnings)
    assert not any('singular' in warning for warning in report.warnings)
    few = report_on(images(6), images(5, seed=1))
    assert sum('singular' in warning for warning in few.warnings) == 2
    tiny = report_on(images(3), images(seed=1))
    assert 'precision' not in tiny.metrics
    assert any('3 neighbours' in warning for warning in tiny.warnings)
    assert report_on(images(claimed=50_000), images(seed=1)).warnings == ()


@pytest.mark.parametrize(
    ('labels', 'warned'),
    [
        (np.arange(6000) // 60, True),
        (np.random.default_rng(0).permutation(6000) % 100, False),
        (np.arange(6000) % 100, False),
        (np.zeros(6000, int), False),
        (None, False),
    ],
)
def test_class_order_is_warned_of_where_the_score_depends_on_it(labels, warned):
    many = dataclasses.replace(images(6000, labels=labels), features=None)  # precision would take its time
    found = report_on(many, images(seed=1))
    assert any('class order' in warning for warning in found.warnings) == warned
    assert any('last part of the inception score has only 1000' in warning for warning in found.warnings)
    few = report_on(images(60, labels=np.arange(60) // 6), images(seed=1))
    assert not any('class order' in warning for warning in few.warnings)


def test_class_policies_are_told_from_labels():
    assert class_policy(np.array([1, 0, 1, 0])) == '2 of each of 2 classes'
    assert class_policy(np.array([1, 0, 1])) == '1 to 2 of each of 2 classes'
    assert class_policy(np.array([7, 7])) == 'one class'
    assert class_policy(None) == 'classes not stated'


def test_sets_of_different_protocols_or_networks_are_not_combined():
    with pytest.raises(UserError, match=r"'adm' cannot be compared with the reference set 1, .* 'clean'"):
        report_on(images(), images(seed=1, protocol='clean'))
    with pytest.raises(UserError, match='digest network, that of the reference set 1 another'):
        report_on(images(), dataclasses.replace(images(seed=1), network_sha256='another'))
    report_on(images(), dataclasses.replace(images(seed=1), network_sha256=''))  # of another evaluator


@pytest.mark.parametrize(
    ('changes', 'complaint'),
    [
        ({'protocol': 'clean'}, 'different protocol do not compare: adm and clean'),
        ({'reference_sha256': 'x'}, 'different reference_sha256'),
        ({'network_sha256': 'x'}, 'different network_sha256'),
        ({'count': 10}, 'different count do not compare: 40 and 10'),
    ],
)
def test_reports_of_different_circumstances_do_not_compare(report, changes, complaint):
    with pytest.raises(UserError, match=complaint):
        check_comparable(report, dataclasses.replace(report, **changes))


def test_a_report_comes_back_from_its_file_and_compares_with_itself(report, tmp_path):
    (tmp_path / 'e.json').write_text(json.dumps({'distribution': dataclasses.asdict(report)}))
    assert read_report(tmp_path / 'e.json') == report
    assert '+0.0000' in difference(report, read_report(tmp_path / 'e.json'))
    (tmp_path / 'other.json').write_text('{"psnr": 1}')
    with pytest.raises(UserError, match='holds no report'):
        read_report(tmp_path / 'other.json')
