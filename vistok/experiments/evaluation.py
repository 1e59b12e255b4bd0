"""Evaluation of tokenizers on images they have not seen, and of generated images against real ones."""

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from vistok.data.images.pipeline import evaluation_batches
from vistok.data.images.source import Split
from vistok.errors import UserError
from vistok.experiments.model_inputs import (
    Images,
    Model,
    PathLike,
    choose_data,
    describe_skipped,
    name_of_images,
    name_of_model,
    open_images,
    resolve_tokenizer,
    run_folder_of,
)
from vistok.experiments.reference_statistics import open_batches, open_extractor
from vistok.files import write_text
from vistok.metrics.feature_set import FeatureCollector
from vistok.metrics.feature_statistics import extract_features, open_reference
from vistok.metrics.report import GenerationReport, difference, read_report, report_on
from vistok.pretrained.frozen_network import load_frozen_network
from vistok.tokenizers.evaluation import evaluate_tokenizer
from vistok.tokenizers.tokenizer import Tokens
from vistok.training.writers import json_number
from vistok.visualization import save_png, to_uint8


@dataclasses.dataclass(frozen=True)
class EvaluationReport:
    """Metrics of a tokenizer, or of generated images.

    Attributes:
      metrics: numbers by name; of a tokenizer those of `evaluate_tokenizer`.
      distribution: comparison of the distributions of made and real images; None where none was asked for.
      comparison: differences to an earlier evaluation, for people; '' without one.
      skipped: images that could not be read, and why.
      sheet: uint8 `[h, w, 3]` of originals above reconstructions; None without any.
      paths: files that hold the results.
    """

    metrics: dict[str, float]
    distribution: GenerationReport | None = None
    comparison: str = ''
    skipped: dict[str, str] = dataclasses.field(default_factory=dict)
    sheet: np.ndarray | None = None
    paths: tuple[Path, ...] = ()

    def __str__(self) -> str:
        own = self.metrics if self.distribution is None else self.metrics.keys() - self.distribution.metrics.keys()
        lines = [_line(name, value) for name, value in self.metrics.items() if name in own]
        if self.distribution is not None:
            lines.append(self.distribution.table())
        written = f'wrote {" and ".join(map(str, self.paths))}' if self.paths else ''
        return '\n'.join(filter(None, [*lines, self.comparison, describe_skipped(self.skipped), written]))


def evaluate(
    model: Model,
    data: Images | None = None,
    *,
    checkpoint: int | str = 'latest',
    split: Split = 'validation',
    data_dir: str | None = None,
    image_size: int | None = None,
    batch_size: int = 16,
    lpips: PathLike | None = None,
    lpips_sha256: str | None = None,
    protocol: str | None = None,
    inception: PathLike | None = None,
    inception_sha256: str | None = None,
    against: PathLike | None = None,
    images: int = 16,
    out: PathLike | None = None,
    progress: bool = False,
) -> EvaluationReport:
    """Measures how well a tokenizer reconstructs images, and how it uses its codebooks.

    Args:
      model: tokenizer, or its path.
      data: images; None: the validation images of the run.
      checkpoint: of a run folder: 'latest', 'best', or a step.
      split: of the source.
      data_dir: folder of TFDS datasets.
      image_size: side of the centre crops in pixels; None: that of the run, or 256.
      batch_size: images that are reconstructed at a time.
      lpips: official LPIPS weights: a folder, or one file; None leaves LPIPS out.
      lpips_sha256: digest that a single LPIPS file should have.
      protocol: of the distance of reconstructions to images (rFID): 'adm', 'pytorch_fid', 'torch_fidelity', 'clean' or
        'stand_in'; None: 'adm' with `inception`, else none.
      inception: Inception weights of pytorch-fid.
      inception_sha256: digest of these, if they are not the published file.
      against: an earlier `evaluation.json` to compare the distance with.
      images: images on the sheet; 0: no sheet.
      out: folder for `evaluation.json` and `evaluation.png`; None: the run folder, where the model is one.
      progress: shows progress bars.

    Raises:
      UserError: there is no such tokenizer, or there are no such images or weights.
    """
    tokenizer = resolve_tokenizer(model, checkpoint)
    chosen = choose_data(model, data, data_dir, image_size, for_evaluation=True)
    folder = _results_folder(out, run_folder_of(model))
    perceptual = load_frozen_network('lpips', lpips, sha256=lpips_sha256) if lpips else None
    source = open_images(chosen.source, split, data_dir=chosen.data_dir)
    batches = evaluation_batches(source, image_size=chosen.image_size, batch_size=batch_size)
    collectors = []
    if protocol or inception:
        extractor = open_extractor(protocol, inception, inception_sha256)
        names = (source.name, f'{name_of_model(model)}: reconstructions')
        collectors = [FeatureCollector(extractor, name, batch_size) for name in names]

    def reconstruct(images: np.ndarray) -> tuple[np.ndarray, Tokens]:
        output = tokenizer(images)
        return np.asarray(output.reconstruction), output.tokens

    def observe(*both: np.ndarray) -> None:
        for collector, images in zip(collectors, both, strict=True):
            collector.add(to_uint8(images))

    evaluation = evaluate_tokenizer(
        reconstruct,
        tqdm(batches, desc='evaluating', unit='batch', disable=not progress),
        tokenizer.spec,
        perceptual=perceptual,
        shown=images,
        observe=observe if collectors else None,
    )
    report = None
    if collectors:
        real, made = (collector.finish() for collector in collectors)
        report = report_on(made, real, distance='rfid', progress=progress)
    settings = {
        'weights': name_of_model(model),
        'source': name_of_images(chosen.source),
        'split': split,
        'image_size': chosen.image_size,
    }
    sheet = evaluation.sheet() if len(evaluation.originals) else None
    return EvaluationReport(
        evaluation.metrics | ({} if report is None else report.metrics),
        report,
        _compare(report, against),
        dict(batches.skipped),
        sheet,
        _write(folder, settings, evaluation.metrics, report, sheet),
    )


def evaluate_samples(
    samples: Images,
    reference: PathLike,
    *,
    protocol: str | None = None,
    inception: PathLike | None = None,
    inception_sha256: str | None = None,
    reference_split: Split | None = None,
    data_dir: str | None = None,
    image_size: int | None = None,
    batch_size: int = 16,
    settings: Mapping[str, Any] | None = None,
    against: PathLike | None = None,
    out: PathLike | None = None,
    progress: bool = False,
) -> EvaluationReport:
    """Measures generated images against real ones.

    Args:
      samples: generated images: an `.npz` file, a folder, or arrays.
      reference: real images: a file of statistics, a folder, or any source.
      protocol: 'adm', 'pytorch_fid', 'torch_fidelity', 'clean' or 'stand_in'; None: 'adm' with `inception`, else
        'stand_in'.
      inception: Inception weights of pytorch-fid.
      inception_sha256: digest of these, if they are not the published file.
      reference_split: of the reference; None: all of a folder, the training images of other sources.
      data_dir: folder of TFDS datasets.
      image_size: side of the centre crops in pixels; None: that of the first image.
      batch_size: images that pass through the network at a time.
      settings: how the samples were drawn, for the record; added to what the file of samples says.
      against: an earlier `evaluation.json` to compare with.
      out: folder for `evaluation.json`; None: that of the samples, where they are files.
      progress: shows progress bars.

    Raises:
      UserError: there are no such images or weights, or two evaluations do not compare.
    """
    batches = open_batches(samples, image_size=image_size, batch_size=batch_size)
    extractor = open_extractor(protocol, inception, inception_sha256)
    place = Path(samples) if isinstance(samples, str | os.PathLike) else None
    folder = _results_folder(out, place if place is None or place.is_dir() else place.parent)
    real = open_reference(
        os.fspath(reference),
        extractor,
        split=reference_split,
        data_dir=data_dir,
        image_size=batches.image_size,
        batch_size=batch_size,
        progress=progress,
    )
    made = extract_features(batches, extractor, progress=progress)
    report = report_on(made, real, settings=batches.settings | dict(settings or {}), progress=progress)
    paths = _write(folder, {}, {}, report, None)
    return EvaluationReport(report.metrics, report, _compare(report, against), dict(batches.skipped), None, paths)


def _results_folder(out: PathLike | None, default: Path | None) -> Path | None:
    """Returns the folder of the results, made if it is missing; checked before the work, not after it."""
    folder = default if out is None else Path(out)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise UserError(f'the folder {folder} cannot be written: name another one (--out)')
    return folder


def _write(
    folder: Path | None,
    settings: Mapping[str, Any],
    metrics: Mapping[str, float],
    report: GenerationReport | None,
    sheet: np.ndarray | None,
) -> tuple[Path, ...]:
    if folder is None:
        return ()
    results: dict[str, Any] = {**settings, **{name: json_number(value) for name, value in metrics.items()}}
    if report is not None:
        results |= report.metrics | {'distribution': dataclasses.asdict(report)}
    paths = [folder / 'evaluation.json']
    write_text(paths[0], json.dumps(results, indent=2, allow_nan=False) + '\n')
    if sheet is not None:
        paths.append(folder / 'evaluation.png')
        save_png(paths[1], sheet)
    return tuple(paths)


def _compare(report: GenerationReport | None, against: PathLike | None) -> str:
    return '' if report is None or against is None else difference(report, read_report(against))


def _line(name: str, value: float) -> str:
    return f'{name:24} {value:.4f}' if value % 1 else f'{name:24} {value:.0f}'
