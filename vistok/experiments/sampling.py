"""Sampling of images into files: a generator, then its tokenizer, in one program; interrupted work goes on."""

import dataclasses
import hashlib
import itertools
import json
import pathlib
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, UInt8
from tqdm import tqdm

from vistok.data.text.features import PaddedText
from vistok.errors import UserError
from vistok.experiments.outputs import split_outputs
from vistok.experiments.prompts import read_prompts
from vistok.files import keep_settings, write_arrays, write_atomically
from vistok.generators.class_labels import find_classes
from vistok.generators.generator import Generator, SampleConfig
from vistok.generators.objective import condition
from vistok.generators.trained import TrainedGenerator
from vistok.tokenizers.tokenizer import Tokenizer
from vistok.training.parallel import make_runner, place
from vistok.visualization import class_sheet, save_png, to_uint8
from vistok.weights.fingerprints import fingerprint_model

_SHEET_ROWS, _SHEET_COLUMNS = 20, 16
_LONGEST_NAME = 80  # of a prompt in the name of a file

Variables = Mapping[str, Any]
"""'generator' and 'tokenizer': the variables of each."""


def draw_images(
    generator: Generator, tokenizer: Tokenizer, config: SampleConfig, seed: int
) -> Callable[[Variables, Mapping[str, Array]], UInt8[Array, 'b H W 3']]:
    """Returns a function, to be compiled, from variables and a batch (see `sample_batch`) to images.

    What an image looks like follows from the seed, its class or text, and its number.
    """

    def draw(variables: Variables, batch: Mapping[str, Array]) -> UInt8[Array, 'b H W 3']:
        tokens = generator.sample(
            variables['generator'], condition(batch), jax.random.key(seed), batch['sample_id'], config
        )
        images: Any = tokenizer.apply(variables['tokenizer'], tokens, method='decode')
        return to_uint8(images.astype(jnp.float32))

    return draw


def sample_batch(
    labels: Int[np.ndarray, ' b'], sample_ids: Int[np.ndarray, ' b'], text: PaddedText | None = None
) -> dict[str, np.ndarray]:
    """Returns a batch of conditions: classes, or the texts with these numbers."""
    batch = {'label': labels, 'sample_id': sample_ids}
    return batch if text is None else batch | {'text': text.features[labels], 'text_mask': text.mask[labels]}


@dataclasses.dataclass(frozen=True)
class Plan:
    """Plan of a sampling run: conditions, numbers of samples and options.

    Attributes:
      classes: numbers of the classes, or of the prompts.
      per_class: samples of each.
      count: if given, so many samples instead, each of a class drawn at random (the protocol of ADM's evaluations).
      seed: of all randomness.
      config: how ids are drawn.
    """

    classes: tuple[int, ...]
    per_class: int
    count: int | None
    seed: int
    config: SampleConfig

    def __post_init__(self) -> None:
        if (self.per_class if self.count is None else self.count) < 1:
            raise UserError(f'at least one sample is drawn, got {self.per_class if self.count is None else self.count}')

    @property
    def labels(self) -> np.ndarray:
        """Class of each sample.  Classes take turns, so that a share of the samples has all of them."""
        classes = np.asarray(self.classes, np.int32)
        if self.count is None:
            return np.tile(classes, self.per_class)
        return np.random.default_rng(self.seed).choice(classes, self.count)


def sample_files(
    model: TrainedGenerator,
    out: Sequence[str | pathlib.Path],
    *,
    classes: Sequence[str] = ('all',),
    per_class: int = 8,
    count: int | None = None,
    prompts: str | pathlib.Path | None = None,
    seed: int = 0,
    batch_size: int = 64,
    progress: bool = False,
    second: Mapping[str, Any] | None = None,
    **options: Any,
) -> str:
    """Draws images from a generator into files; interrupted, the same call goes on.

    Args:
      model: a generator with its tokenizer.
      out: files and folders to write: `*.png` is a sheet with a row for each class or prompt, `*.npz` holds all samples
        and their classes, anything else is a folder of single PNG files.
      classes: numbers or names of classes, or 'all'.
      per_class: samples of each class or prompt.
      count: if given, so many samples instead, each of a class drawn at random.
      prompts: for generators on text: a text file, one prompt a line, or a folder of features of one.
      seed: seed of the random number generator.
      batch_size: samples at a time; has no influence on them.
      progress: shows a progress bar.
      second: fields of `SampleConfig` for the second kind of ids, of methods that have two.
      **options: fields of `SampleConfig` that replace the model's defaults.

    Returns:
      One line that says what was written.

    Raises:
      UserError: there is no such class, prompt or option, or unfinished work of other settings is in the way.
    """
    outputs = split_outputs([str(path) for path in out])
    if second:
        earlier = model.sample_config.second or SampleConfig()
        options['second'] = dataclasses.replace(earlier, **second)
    on_text = model.text_encoder
    if on_text and not prompts:
        raise UserError('this generator draws from text: name --prompts=FILE')
    if prompts and not on_text:
        raise UserError('this generator draws by class: --prompts are for those on text')
    found = read_prompts(pathlib.Path(prompts), on_text) if prompts and on_text else None
    names = found.texts if found else model.class_names or tuple(map(str, range(max(1, model.generator.num_classes))))
    plan = Plan(
        classes=tuple(range(len(names))) if found else find_classes(classes, names),
        per_class=per_class,
        count=count,
        seed=seed,
        config=model.change_sample_config(**options),
    )
    first = outputs.sheet or outputs.folder or outputs.npz
    assert first is not None  # `split_outputs` refuses an empty list
    written = write_samples(
        model,
        plan,
        names,
        first.with_name(first.name + '.parts'),
        sheet=outputs.sheet,
        folder=outputs.folder,
        npz=outputs.npz,
        batch_size=batch_size,
        progress=progress,
        text=found.text if found else None,
    )
    return f'wrote {", ".join(map(str, written))}: {len(plan.labels)} samples'


def write_samples(
    model: TrainedGenerator,
    plan: Plan,
    names: Sequence[str],
    work: pathlib.Path,
    *,
    sheet: pathlib.Path | None = None,
    folder: pathlib.Path | None = None,
    npz: pathlib.Path | None = None,
    batch_size: int = 64,
    progress: bool = False,
    text: PaddedText | None = None,
) -> list[pathlib.Path]:
    """Draws the samples of a plan and writes them.

    Batches that are drawn are kept in the folder `work` until all files are written; what an interrupted call left
    there is not drawn again.

    Args:
      model: generator and tokenizer.
      plan: which samples.
      names: of all classes, or all prompts.
      work: folder for work in progress, removed in the end.
      sheet: PNG file with a row for each of the first classes.
      folder: for single PNG files, `000012-cat.png`.
      npz: file with 'arr_0', uint8 `[n, H, W, 3]`, 'labels', and 'settings', how they were drawn, as JSON.
      batch_size: samples at a time; has no influence on them.
      progress: shows a progress bar.
      text: prompts, for generators on text.

    Returns:
      What was written.

    Raises:
      UserError: `work` holds samples of another model or plan.
    """
    tokenizer = model.tokenizer
    assert tokenizer is not None
    settings = {
        'generator': fingerprint_model(model.generator, model.variables),
        'tokenizer': tokenizer.fingerprint,
        'classes': list(plan.classes),
        'per_class': plan.per_class,
        'count': plan.count,
        'seed': plan.seed,
        **dataclasses.asdict(plan.config),
    }
    if text is not None:
        settings['text'] = hashlib.sha256(text.features.tobytes() + text.mask.tobytes()).hexdigest()
    keep_settings(work / 'sampling.json', settings, f'the unfinished work in {work}')
    runner = make_runner('jit')
    batch_size = -(-max(1, batch_size) // runner.batch_shards) * runner.batch_shards
    draw = runner.compile_evaluation(draw_images(model.generator, tokenizer.module, plan.config, plan.seed))
    variables = {'generator': model.sampling_variables, 'tokenizer': tokenizer.variables}
    variables = jax.tree.map(lambda x: place(x, runner.replicated), variables)
    labels = plan.labels
    with tqdm(total=len(labels), desc='sampling', unit='image', disable=not progress) as bar:
        start = 0
        for done in [*_ranges(work), range(len(labels), len(labels))]:
            while start < done.start:
                rows = np.arange(start, start + batch_size, dtype=np.int32)  # whole batches: one program
                batch = sample_batch(labels[np.minimum(rows, len(labels) - 1)], rows, text)
                stop = min(start + batch_size, done.start)
                images = np.asarray(draw(variables, batch))[: stop - start]
                write_arrays(work / f'{start:010d}-{stop:010d}.npz', pictures=images)
                bar.update(stop - start)
                start = stop
            start = done.stop
            bar.update(len(done))
    written = []
    if sheet is not None:
        save_png(sheet, _sheet(plan, names, _images(work)))
        written.append(sheet)
    if folder is not None:
        for i, image in enumerate(_images(work)):
            label = re.sub(r'[^\w.-]+', '_', names[labels[i]])[:_LONGEST_NAME]
            save_png(folder / f'{i:06d}-{label}.png', image)
        written.append(folder)
    if npz is not None:
        _write_npz(npz, _images(work), labels, _record(settings, len(names)))
        written.append(npz)
    shutil.rmtree(work, ignore_errors=True)
    return written


def _ranges(work: pathlib.Path) -> list[range]:
    """Returns the ranges of samples that are done, in order."""
    return [range(*map(int, path.stem.split('-'))) for path in sorted(work.glob('*-*.npz'))]


def _images(work: pathlib.Path) -> Iterator[np.ndarray]:
    for path in sorted(work.glob('*-*.npz')):
        with np.load(path) as stored:
            yield from stored['pictures']


def _sheet(plan: Plan, names: Sequence[str], images: Iterator[np.ndarray]) -> np.ndarray:
    """Makes a sheet of the first samples of the first classes."""
    rows: dict[int, list[np.ndarray]] = {label: [] for label in sorted({*plan.classes})[:_SHEET_ROWS]}
    columns = min(_SHEET_COLUMNS, plan.per_class)
    for label, image in zip(plan.labels.tolist(), images, strict=True):
        if label in rows and len(rows[label]) < columns:
            rows[label].append(image)
        if all(len(row) == columns for row in rows.values()):
            break
    blank = np.full_like(image, 255)
    filled = [row + [blank] * (columns - len(row)) for row in rows.values()]
    return class_sheet(np.asarray(filled), [names[label] for label in rows])


def _record(settings: Mapping[str, Any], count: int) -> dict[str, Any]:
    """Returns what a file of samples says about them: beginnings of fingerprints, and the settings."""
    short = {name: settings[name][:16] for name in ('generator', 'tokenizer', 'text') if name in settings}
    classes = {'classes': 'all'} if settings['classes'] == list(range(count)) else {}
    return {name: value for name, value in {**settings, **short, **classes}.items() if value is not None}


def _write_npz(path: pathlib.Path, images: Iterator[np.ndarray], labels: np.ndarray, record: Mapping[str, Any]) -> None:
    """Writes one image after the other: all of them may be more than memory holds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: _fill_npz(file, images, labels, record))


def _fill_npz(npz: BinaryIO, images: Iterator[np.ndarray], labels: np.ndarray, record: Mapping[str, Any]) -> None:
    first = next(images)
    with zipfile.ZipFile(npz, 'w', zipfile.ZIP_STORED) as archive:
        with archive.open('arr_0.npy', 'w', force_zip64=True) as file:
            shape = (len(labels), *first.shape)
            header = {'descr': np.lib.format.dtype_to_descr(first.dtype), 'fortran_order': False, 'shape': shape}
            np.lib.format.write_array_header_1_0(file, header)
            for image in itertools.chain([first], images):
                file.write(np.ascontiguousarray(image).tobytes())
        for name, array in (('labels', labels), ('settings', np.asarray(json.dumps(record)))):
            with archive.open(f'{name}.npy', 'w') as file:
                np.lib.format.write_array(file, array)
