"""Measures a tokenizer on images it has not seen, or generated images against real ones.

    python launch/evaluate.py --run=runs/fqgan
    python launch/evaluate.py --run=runs/fqgan --source=/data/kodak --image_size=256 --lpips=/weights/lpips
    python launch/evaluate.py --run=runs/fqgan --inception=pt_inception-2015-12-05-6726825d.pth
    python launch/evaluate.py --samples=samples.npz --reference=VIRTUAL_imagenet256_labeled.npz --inception=...
    python launch/evaluate.py --samples=samples.npz --reference=embedded:digits --reference_split=validation

`--run` also takes a file that launch/convert.py wrote; then name a --source.  Writes `evaluation.json` and
`evaluation.png` into --out (default: the run folder).  `--samples` takes an .npz file or a folder of images; its
numbers go to `evaluation.json` in --out (default: the folder of the samples).  What they mean: docs/evaluation.md.
"""

import dataclasses
import json
import pathlib
from typing import TYPE_CHECKING, Any, cast

from absl import flags

from vistok import cli

if TYPE_CHECKING:
    from vistok.data.images.source import Split
    from vistok.metrics.feature_extractor import FeatureExtractor
    from vistok.metrics.report import GenerationReport

_RUN = flags.DEFINE_string('run', None, 'Run folder, checkpoint of a run, or converted weights.')
_WHICH = flags.DEFINE_string('checkpoint', 'latest', "'latest', 'best', or a step.")
_SOURCE = flags.DEFINE_string('source', None, "Images; default: the run's own validation images.")
_DATA_DIR = flags.DEFINE_string('data_dir', None, 'Where TFDS datasets lie.')
_SPLIT = flags.DEFINE_enum('split', 'validation', ['validation', 'train'], 'Which images of the source.')
_IMAGE_SIZE = flags.DEFINE_integer(
    'image_size', None, 'Side of the centre crops, in pixels; default: that of the run, or 256.'
)
_BATCH_SIZE = flags.DEFINE_integer('batch_size', 16, 'Images at a time.')
_LPIPS = flags.DEFINE_string('lpips', None, 'Official LPIPS weights (a folder, or one file with --lpips_sha256).')
_LPIPS_SHA256 = flags.DEFINE_string('lpips_sha256', None, 'Digest that a single LPIPS file should have.')
_IMAGES = flags.DEFINE_integer('pictures', 16, 'Images on the sheet; 0 leaves it out.')
_OUT = flags.DEFINE_string('out', None, 'Folder for the results; default: the run folder.')

_SAMPLES = flags.DEFINE_string('samples', None, 'Generated images: .npz file or folder.')
_REFERENCE = flags.DEFINE_string('reference', None, 'Real images: statistics (.npz), a folder, or any source.')
_REFERENCE_SPLIT = flags.DEFINE_enum(
    'reference_split', None, ['validation', 'train'],
    'Which images of the reference; default: all of a folder, the training images of other sources.',
)  # fmt: skip
_SETTINGS = flags.DEFINE_list('settings', [], 'How the samples were drawn, for the record: seed=0,guidance_scale=2')
_AGAINST = flags.DEFINE_string('against', None, 'An earlier evaluation.json to compare with.')
_PROTOCOL = flags.DEFINE_string(
    'protocol', None, 'adm, pytorch_fid, torch_fidelity, clean or stand_in; default: adm with --inception.'
)
_INCEPTION = flags.DEFINE_string('inception', None, 'Inception weights of pytorch-fid.')
_INCEPTION_SHA256 = flags.DEFINE_string('inception_sha256', None, 'Digest of these, if not the published file.')


def main() -> None:
    """Evaluates and prints a table."""
    from vistok.errors import UserError

    if _RUN.value is not None and _SAMPLES.value is None:
        _evaluate_run(pathlib.Path(_RUN.value))
    elif _SAMPLES.value is not None and _RUN.value is None:
        _evaluate_samples(pathlib.Path(_SAMPLES.value))
    else:
        raise UserError('name what to evaluate, either --run=runs/fqgan or --samples=samples.npz')


def _evaluate_run(path: pathlib.Path) -> None:
    import numpy as np
    from tqdm import tqdm

    from vistok.data.images.pipeline import evaluation_batches, open_source
    from vistok.errors import UserError
    from vistok.experiments import assembly, run_folder
    from vistok.experiments.loading import load
    from vistok.files import write_text
    from vistok.metrics.feature_set import FeatureCollector
    from vistok.metrics.report import report_on
    from vistok.pretrained.frozen_network import load_frozen_network
    from vistok.tokenizers.evaluation import evaluate_tokenizer
    from vistok.tokenizers.tokenizer import Tokens
    from vistok.tokenizers.trained import TrainedTokenizer
    from vistok.training.writers import json_number
    from vistok.visualization import save_png, to_uint8

    model = load(path, _WHICH.value)
    if not isinstance(model, TrainedTokenizer):
        raise UserError(
            f'{path} holds no tokenizer but a {type(model).__name__}; draw from a generator with launch/sample.py '
            'and evaluate the --samples'
        )
    folder = next((p for p in (path, *path.parents[:2]) if (p / 'config.json').is_file()), None)
    source, data_dir, size = _SOURCE.value, _DATA_DIR.value, _IMAGE_SIZE.value
    if folder is not None:
        config = run_folder.read_config(folder)
        data, own_size = config.data, assembly.evaluation_image_size(config)
        source, data_dir, size = source or data.source, data_dir or data.data_dir or None, size or own_size
    if source is None:
        raise UserError(f'{path} is no run folder: name images to evaluate on by --source')
    out = pathlib.Path(_OUT.value) if _OUT.value else folder
    if out is None:
        raise UserError('name a folder for the results by --out')

    def reconstruct(images: np.ndarray) -> tuple[np.ndarray, Tokens]:
        output = model(images)
        return np.asarray(output.reconstruction), output.tokens

    perceptual = load_frozen_network('lpips', _LPIPS.value, sha256=_LPIPS_SHA256.value) if _LPIPS.value else None
    source_images = open_source(source, cast('Split', _SPLIT.value), data_dir=data_dir)
    batches = evaluation_batches(source_images, image_size=size or 256, batch_size=_BATCH_SIZE.value)
    collectors = []
    if _PROTOCOL.value or _INCEPTION.value:
        extractor, names = _extractor(), (source_images.name, f'{path}: reconstructions')
        collectors = [FeatureCollector(extractor, name, _BATCH_SIZE.value) for name in names]

    def observe(*both: np.ndarray) -> None:
        for collector, images in zip(collectors, both, strict=True):
            collector.add(to_uint8(images))

    evaluation = evaluate_tokenizer(
        reconstruct,
        tqdm(batches, desc='evaluating', unit='batch'),
        model.spec,
        perceptual=perceptual,
        shown=_IMAGES.value,
        observe=observe if collectors else None,
    )
    out.mkdir(parents=True, exist_ok=True)
    settings = {'weights': str(path), 'source': source, 'split': _SPLIT.value, 'image_size': size or 256}
    results: dict[str, Any] = {name: json_number(value) for name, value in evaluation.metrics.items()}
    report = None
    if collectors:
        real, made = (collector.finish() for collector in collectors)
        report = report_on(made, real, distance='rfid', progress=True)
        results |= report.metrics | {'distribution': dataclasses.asdict(report)}
    written = [out / 'evaluation.json']
    write_text(written[0], json.dumps(settings | results, indent=2, allow_nan=False) + '\n')
    if len(evaluation.originals):
        written.append(out / 'evaluation.png')
        save_png(written[1], evaluation.sheet())
    for name, value in evaluation.metrics.items():
        print(f'{name:24} {value:.4f}' if value % 1 else f'{name:24} {value:.0f}')
    if report is not None:
        _print(report)
    _print_skipped(batches.skipped)
    print(f'wrote {" and ".join(map(str, written))}')


def _evaluate_samples(path: pathlib.Path) -> None:
    from vistok.data.images.byte_batches import open_byte_batches
    from vistok.errors import UserError
    from vistok.files import write_text
    from vistok.metrics.feature_statistics import extract_features, open_reference
    from vistok.metrics.report import report_on

    if _REFERENCE.value is None:
        raise UserError('name the real images by --reference, for example --reference=embedded:digits')
    batches = open_byte_batches(str(path), image_size=_IMAGE_SIZE.value, batch_size=_BATCH_SIZE.value)
    extractor = _extractor()
    reference = open_reference(
        _REFERENCE.value,
        extractor,
        split=cast('Split | None', _REFERENCE_SPLIT.value),
        data_dir=_DATA_DIR.value,
        image_size=batches.image_size,
        batch_size=_BATCH_SIZE.value,
        progress=True,
    )
    samples = extract_features(batches, extractor, progress=True)
    report = report_on(samples, reference, settings=batches.settings | _settings(), progress=True)
    out = pathlib.Path(_OUT.value) if _OUT.value else (path if path.is_dir() else path.parent)
    out.mkdir(parents=True, exist_ok=True)
    results = report.metrics | {'distribution': dataclasses.asdict(report)}
    write_text(out / 'evaluation.json', json.dumps(results, indent=2, allow_nan=False) + '\n')
    _print(report)
    _print_skipped(batches.skipped)
    print(f'wrote {out / "evaluation.json"}')


def _extractor() -> 'FeatureExtractor':
    from vistok.metrics.feature_extractor import load_extractor
    from vistok.metrics.protocols import find_protocol

    protocol = find_protocol(_PROTOCOL.value or ('adm' if _INCEPTION.value else 'stand_in'))
    return load_extractor(protocol, _INCEPTION.value, sha256=_INCEPTION_SHA256.value)


def _settings() -> dict[str, Any]:
    """What --settings says, numbers as numbers."""
    from vistok.errors import UserError

    found: dict[str, Any] = {}
    for entry in _SETTINGS.value:
        name, sign, value = entry.partition('=')
        if not sign:
            raise UserError(f'settings are written name=value, got {entry!r}')
        try:
            found[name] = json.loads(value)
        except json.JSONDecodeError:
            found[name] = value
    return found


def _print(report: 'GenerationReport') -> None:
    from vistok.metrics.report import difference, read_report

    print(report.table())
    if _AGAINST.value:
        print(difference(report, read_report(_AGAINST.value)))


def _print_skipped(skipped: dict[str, str]) -> None:
    if skipped:
        name, reason = next(iter(skipped.items()))
        print(f'{len(skipped)} images could not be read and do not count; the first: {name}: {reason}')


if __name__ == '__main__':
    cli.run(main)
