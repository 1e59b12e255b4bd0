"""Evaluation reports on generated images: metrics, the settings they depend on, and warnings."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Integer

from vistok.errors import UserError
from vistok.metrics.feature_set import FeatureSet
from vistok.metrics.frechet import frechet_distance, frechet_error
from vistok.metrics.inception_score import inception_score
from vistok.metrics.precision_recall import precision_recall
from vistok.metrics.protocols import Protocol, find_protocol

_STANDARD = 50_000
_RESAMPLES = 20
_MOST_FOR_ERRORS = 2048  # above, the error is far below what else moves the distance, and takes minutes


@dataclasses.dataclass(frozen=True)
class GenerationReport:
    """Metrics of generated images with protocol, data and settings.

    Metrics of two reports are comparable only if `check_comparable` raises nothing.

    Attributes:
      metrics: 'gfid' of samples or 'rfid' of reconstructions, or 'stand_in_frechet', which is not FID; 'sfid',
        'inception_score', 'precision', 'recall' where the protocol has them; standard errors as '<name>_error'.
      protocol: name of the protocol.
      network: name of the feature network; says so if it is not Inception.
      network_sha256: digest of the weights of the network.
      samples: source of the images.
      samples_sha256: digest of the pixels of the images.
      count: number of images.
      class_policy: number of images per class, in words.
      settings: known sampling settings: 'seed', 'guidance_scale', 'temperature', 'top_k', 'top_p'.
      reference: source of the real images.
      reference_sha256: digest of the pixels of the real images, or of the file of statistics.
      reference_count: number of real images; 0 if unknown.
      warnings: reasons for which the metrics may mislead.
    """

    metrics: dict[str, float]
    protocol: str
    network: str
    network_sha256: str
    samples: str
    samples_sha256: str
    count: int
    class_policy: str
    settings: dict[str, Any]
    reference: str
    reference_sha256: str
    reference_count: int
    warnings: tuple[str, ...]

    def table(self) -> str:
        """Formats the report as a text table."""
        numbers = [
            f'{name:24} {value:.4f}'
            + (f' +- {self.metrics[f"{name}_error"]:.4f}' if f'{name}_error' in self.metrics else '')
            for name, value in self.metrics.items()
            if not name.endswith('_error')
        ]
        settings = ', '.join(f'{name} {value}' for name, value in self.settings.items()) or 'not stated'
        circumstances = {
            'protocol': f'{self.protocol}, {self.network}',
            'samples': f'{self.count}, {self.class_policy}: {self.samples}',
            'sampling': settings,
            'reference': f'{self.reference_count or "unknown number"}, {self.reference} ({self.reference_sha256[:12]})',
        }
        lines = numbers + [f'{name:24} {value}' for name, value in circumstances.items()]
        return '\n'.join(lines + [f'warning: {warning}' for warning in self.warnings])


def report_on(
    samples: FeatureSet,
    reference: FeatureSet,
    *,
    distance: str = 'gfid',
    settings: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> GenerationReport:
    """Computes the metrics of generated images against a reference set.

    Args:
      samples: generated images, or reconstructions; with their features and logits.
      reference: real images.
      distance: metric key of FID: 'gfid' for samples, 'rfid' for reconstructions.
      settings: sampling settings, for the record.
      progress: shows progress bars.

    Raises:
      UserError: the two were not made by one protocol with one network.
    """
    check_combinable(samples, reference)
    protocol = find_protocol(samples.protocol)
    metrics: dict[str, float] = {}
    key = distance if protocol.is_fid else 'stand_in_frechet'
    metrics[key] = frechet_distance(samples.pool, reference.pool)
    few = samples.features is not None and len(samples.features) == samples.pool.count <= _MOST_FOR_ERRORS
    if few and samples.features is not None:
        rng = np.random.default_rng(0)
        metrics[f'{key}_error'] = frechet_error(samples.features, reference.pool, _RESAMPLES, rng)
    if samples.spatial is not None and reference.spatial is not None:
        metrics['sfid'] = frechet_distance(samples.spatial, reference.spatial)
    if protocol.score is not None and samples.logits is not None:
        found = inception_score(samples.logits, protocol.score)
        metrics['inception_score'] = found.score
        if len(protocol.score.parts(len(samples.logits))) > 1:
            metrics['inception_score_error'] = found.deviation
    made, real = (_with_neighbours(each, protocol) for each in (samples, reference))
    if made is not None and real is not None:
        both = precision_recall(
            made,
            real,
            neighbours=protocol.neighbours,
            half=protocol.half_distances,
            progress=progress,
        )
        prefix = '' if protocol.is_fid else 'stand_in_'
        metrics |= {f'{prefix}precision': both.precision, f'{prefix}recall': both.recall}
    return GenerationReport(
        metrics,
        protocol.name,
        'Inception 2015-12-05' if protocol.is_fid else 'a stand-in network: not FID',
        samples.network_sha256,
        samples.images,
        samples.images_sha256,
        samples.pool.count,
        class_policy(samples.labels),
        dict(settings or {}),
        reference.images,
        reference.images_sha256,
        reference.pool.count,
        tuple(_warnings(samples, reference, protocol)),
    )


def difference(ours: GenerationReport, theirs: GenerationReport) -> str:
    """Formats two reports side by side; raises UserError if they are not comparable."""
    check_comparable(ours, theirs)
    lines = [f'{"":24} {"this":>12} {"other":>12} {"change":>12}']
    for name, value in ours.metrics.items():
        if name in theirs.metrics and not name.endswith('_error'):
            other = theirs.metrics[name]
            lines.append(f'{name:24} {value:12.4f} {other:12.4f} {value - other:+12.4f}')
    return '\n'.join(lines)


def check_combinable(samples: FeatureSet, reference: FeatureSet) -> None:
    """Raises UserError unless both sets come from one protocol and one network."""
    if samples.protocol != reference.protocol:
        raise UserError(
            f'samples measured by protocol {samples.protocol!r} cannot be compared with the reference '
            f'{reference.images}, which was measured by {reference.protocol!r}'
        )
    ours, theirs = samples.network_sha256, reference.network_sha256
    if ours and theirs and ours != theirs:
        raise UserError(
            f'the network of the samples has the digest {ours[:12]}, that of the reference {reference.images} '
            f'{theirs[:12]}: make the reference anew'
        )


def check_comparable(a: GenerationReport, b: GenerationReport) -> None:
    """Raises UserError, in one sentence, unless the metrics of two reports are comparable."""
    for what in ('protocol', 'network_sha256', 'reference_sha256', 'count'):
        ours, theirs = getattr(a, what), getattr(b, what)
        if ours != theirs:
            raise UserError(f'reports with different {what} do not compare: {_brief(ours)} and {_brief(theirs)}')


def _brief(value: Any) -> str:
    return f'{value:.12}' if isinstance(value, str) else str(value)


def read_report(path: str | os.PathLike[str]) -> GenerationReport:
    """Reads a report from its JSON file; raises UserError if there is none in it."""
    try:
        found = json.loads(pathlib.Path(path).read_text())['distribution']
        return GenerationReport(**{**found, 'warnings': tuple(found['warnings'])})
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise UserError(f'{path} holds no report on generated images: {error}') from None


def class_policy(labels: Integer[np.ndarray, ' n'] | None) -> str:
    """Describes the number of images per class in words."""
    if labels is None or not len(labels):
        return 'classes not stated'
    counts = np.unique(labels, return_counts=True)[1]
    if len(counts) == 1:
        return 'one class'
    if counts.min() == counts.max():
        return f'{counts[0]} of each of {len(counts)} classes'
    return f'{counts.min()} to {counts.max()} of each of {len(counts)} classes'


def _with_neighbours(images: FeatureSet, protocol: Protocol) -> Float[np.ndarray, 'n d'] | None:
    """Returns the features for precision and recall; None if the protocol has neither, or there are too few."""
    features = images.features
    enough = protocol.neighbours and features is not None and len(features) > protocol.neighbours
    return features if enough else None


def _warnings(samples: FeatureSet, reference: FeatureSet, protocol: Protocol) -> Sequence[str]:
    """Collects the reasons for which the metrics may mislead."""
    found = []
    count, width = samples.pool.count, len(samples.pool.mean)
    if not protocol.is_fid:
        found.append('the stand-in network is not Inception: these numbers compare with nothing published')
    if count < _STANDARD:
        found.append(f'{count} images; published numbers take {_STANDARD}, and fewer make the distance larger')
    for name, each in {'samples': samples, 'reference': reference}.items():
        if 0 < each.pool.count <= width:
            found.append(f'the covariance of the {name} is singular: {each.pool.count} images, {width} features')
        if protocol.neighbours and _with_neighbours(each, protocol) is None:
            found.append(f'no precision and recall: {protocol.neighbours} neighbours need features of more {name}')
    rule = protocol.score
    if rule is not None:
        if rule.shuffle_seed is None and len(rule.parts(count)) > 1 and _in_class_order(samples.labels):
            found.append('the samples are in class order, which lowers the inception score of each part: shuffle them')
        if rule.split_size and count > rule.split_size and count % rule.split_size:
            found.append(f'the last part of the inception score has only {count % rule.split_size} images')
    return found


def _in_class_order(labels: Integer[np.ndarray, ' n'] | None) -> bool:
    """Tests whether neighbours share a class much more often than in a random order."""
    if labels is None or len(labels) < 2:
        return False
    shares = np.unique(labels, return_counts=True)[1] / len(labels)
    by_chance = float(np.sum(shares**2))
    return by_chance < 1 and bool(np.mean(labels[1:] == labels[:-1]) > (1 + by_chance) / 2)
