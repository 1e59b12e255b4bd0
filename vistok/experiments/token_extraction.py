"""Extraction of tokens to disk, in parts that survive a kill and can be shared among processes."""

import concurrent.futures
import dataclasses
import fcntl
import functools
import pathlib
from collections.abc import Sequence
from typing import Any, get_args

import jax
import numpy as np
from tqdm import tqdm

from vistok.data.images.pipeline import open_source, to_model_range
from vistok.data.images.source import BadImage, ImageSource, Split
from vistok.data.tokens.dataset import PREFIX, TokenRecord, TokenSource, has_tokens, write_tokens
from vistok.data.tokens.parts import ImageRange, TokenParts
from vistok.data.tokens.views import Views, cut_views, view_count
from vistok.errors import UserError
from vistok.experiments.loading import TOKENIZER_FILE
from vistok.experiments.model_inputs import (
    Model,
    PathLike,
    choose_data,
    name_of_images,
    resolve_tokenizer,
    run_folder_of,
)
from vistok.experiments.saved_models import save_model
from vistok.experiments.text_encoding import check_processes
from vistok.files import check_settings
from vistok.tokenizers.tokenizer import Tokens
from vistok.tokenizers.trained import TrainedTokenizer
from vistok.training.parallel import make_runner, place


class Extraction:
    """Extraction of the tokens of a source into a folder.

    Args:
      tokenizer: that makes them.
      source: images, as `open_source` takes them.
      out: folder for the tokens; the tokenizer is put beside them.
      image_size: side of the views in pixels.
      views: of the training images; of validation images it is the centre crop.
      zooms: see `cut_views`.
      data_dir: where TFDS datasets lie.
      batch_size: views that are encoded at a time.
      part_size: images of a part.
      threads: that decode.

    Raises:
      UserError: there are no such images, their size does not fit, or `out` holds other tokens.
    """

    def __init__(
        self,
        tokenizer: TrainedTokenizer,
        source: str,
        out: pathlib.Path,
        *,
        image_size: int,
        views: Views,
        zooms: Sequence[float] = (1.1,),
        data_dir: str | None = None,
        batch_size: int = 128,
        part_size: int = 512,
        threads: int = 4,
    ) -> None:
        spec = tokenizer.spec
        if image_size % spec.cell:
            raise UserError(
                f'the side of the views is {image_size}, but this tokenizer needs a multiple of {spec.cell}'
            )
        if batch_size < 1 or part_size < 1:
            raise UserError(f'batch and part have at least one image, got {batch_size} and {part_size}')
        self._tokenizer, self._out, self._size, self._threads = tokenizer, out, image_size, threads
        self._views: dict[Split, tuple[Views, tuple[float, ...]]] = {
            'train': (views, tuple(zooms)),
            'validation': ('centre', (1.0,)),
        }
        self._sources: dict[Split, ImageSource] = {
            split: open_source(source, split, data_dir=data_dir) for split in get_args(Split)
        }
        self._side = image_size // spec.downsample_factor
        self._settings: dict[str, Any] = {
            'fingerprint': tokenizer.fingerprint,
            'spec': dataclasses.asdict(spec),
            'source': source,
            'image_size': image_size,
            'grid': [self._side] * 2,
            'views': views,
            'views_per_picture': view_count(views, zooms),
            'zooms': [] if views == 'centre' else list(zooms),
        }
        if has_tokens(out):
            about = TokenSource(out, 'train').about
            check_settings({key: about.get(key) for key in self._settings}, self._settings, f'the dataset in {out}')
        counts: dict[Split, int] = {split: len(images) for split, images in self._sources.items()}
        self._parts = TokenParts(out / 'parts', self._settings, counts, part_size)
        runner = make_runner('jit')
        self._batch = -(-batch_size // runner.batch_shards) * runner.batch_shards
        self._variables = jax.tree.map(lambda x: place(x, runner.replicated), tokenizer.variables)
        module: Any = tokenizer.module
        self._encode = runner.compile_evaluation(
            lambda variables, batch: module.apply(variables, batch['image'], method='encode')
        )

    def describe(self) -> str:
        """Returns sizes of the dataset and its tokenizer in a sentence."""
        counts = ', '.join(f'{len(TokenSource(self._out, split))} {split}' for split in get_args(Split))
        return (
            f'{counts} images, {self._settings["views_per_picture"]} views of each training image, '
            f'{self._side}x{self._side} tokens, tokenizer {self._tokenizer.fingerprint[:16]}'
        )

    def run(self, process_id: int = 0, process_count: int = 1, *, progress: bool = False) -> dict[str, str] | None:
        """Extracts the missing parts of this process, and writes the dataset if none is missing any more.

        Returns:
          Names of the images that could not be used, and why; None if others have to finish.
        """
        if has_tokens(self._out):
            self._parts.remove()  # left by a kill between the last two acts
            return {}
        missing = self._parts.missing(process_id, process_count)
        total = sum(part.stop - part.start for part in missing)
        with (
            tqdm(total=total, desc='extracting', unit='image', disable=not progress) as bar,
            concurrent.futures.ThreadPoolExecutor(max(1, self._threads)) as pool,
        ):
            for part in missing:
                self._extract(part, pool, bar)
        return None if self._parts.missing() else self._finish(progress)

    def _extract(self, part: ImageRange, pool: concurrent.futures.Executor, bar: tqdm) -> None:
        views, zooms = self._views[part.split]
        source = self._sources[part.split]

        def read(index: int) -> tuple[np.ndarray, int, str] | BadImage:
            try:
                record = source[index]
            except BadImage as bad:
                return bad
            return cut_views(record.image, self._size, views, zooms), record.label, record.name

        records: list[TokenRecord] = []
        skipped: dict[str, str] = {}
        step = max(1, self._batch // view_count(views, zooms))
        for start in range(part.start, part.stop, step):
            indices = range(start, min(start + step, part.stop))
            usable = []
            for found in pool.map(read, indices):
                if isinstance(found, BadImage):
                    skipped[found.name] = found.reason
                else:
                    usable.append(found)
            if usable:
                records += self._encode_records(usable)
            bar.update(len(indices))
        self._parts.write(part, records, skipped)

    def _encode_records(self, usable: list[tuple[np.ndarray, int, str]]) -> list[TokenRecord]:
        images = np.concatenate([views for views, _, _ in usable])
        batches = []
        for start in range(0, len(images), self._batch):
            rows = images[start : start + self._batch]
            padded = np.concatenate([rows, np.zeros((self._batch - len(rows), *rows.shape[1:]), np.uint8)])
            tokens: Tokens = self._encode(self._variables, {'image': to_model_range(padded)})
            batches.append((tokens.ids[: len(rows)], None if tokens.grain is None else tokens.grain[: len(rows)]))
        ids = np.concatenate([ids for ids, _ in batches])
        grains = None if batches[0][1] is None else np.concatenate([np.asarray(grain) for _, grain in batches])
        records, start = [], 0
        for views, label, name in usable:
            stop = start + len(views)
            grain = None if grains is None else grains[start:stop]
            records.append(TokenRecord(np.asarray(ids[start:stop]), grain, label, name))
            start = stop
        return records

    def _finish(self, progress: bool) -> dict[str, str] | None:
        with open(self._out / '.lock', 'w') as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the system releases it, even after a kill
            except OSError:
                return None
            if not self._parts.folder.is_dir():  # another process came first
                return {}
            skipped = self._parts.read_skipped()
            for split, source in self._sources.items():
                if next(self._parts.records(split), None) is None:
                    reason = next(iter(skipped.items()), ('there', 'is none'))
                    raise UserError(f'none of the images of {source.name} can be used; {": ".join(reason)}')
            save_model(self._tokenizer, self._out / TOKENIZER_FILE)
            with tqdm(desc='writing', unit='image', disable=not progress) as bar:
                write_tokens(
                    self._out,
                    {split: functools.partial(self._parts.records, split) for split in self._sources},
                    about=self._settings | {'skipped': len(skipped)},
                    class_names=self._sources['train'].class_names,
                    largest_id=max(self._tokenizer.spec.codebook_sizes) - 1,
                    progress=bar,
                )
            self._parts.remove()
        return skipped


@dataclasses.dataclass(frozen=True)
class ExtractionReport:
    """Dataset of tokens that was extracted.

    Attributes:
      path: folder of the tokens.
      complete: False while other processes still work on their parts.
      skipped: images that could not be used, and why.
      description: sizes of the dataset, and its tokenizer; '' while it is not complete.
    """

    path: pathlib.Path
    complete: bool
    skipped: dict[str, str]
    description: str

    @property
    def source(self) -> str:
        """Value of `config.data.source` that names the dataset."""
        return f'{PREFIX}{self.path}'

    def __str__(self) -> str:
        if not self.complete:
            return f'done; other processes still work on their parts, or write {self.path}'
        lines = []
        if self.skipped:
            name, reason = next(iter(self.skipped.items()))
            lines.append(f'{len(self.skipped)} images could not be used and were left out; the first: {name}: {reason}')
        lines.append(f'{self.path}: {self.description}; use it as --config.data.source={self.source}')
        return '\n'.join(lines)


def extract_tokens(
    model: Model,
    data: PathLike | None = None,
    out: PathLike | None = None,
    *,
    checkpoint: int | str = 'latest',
    image_size: int | None = None,
    views: Views | None = None,
    zooms: Sequence[float] = (1.1,),
    data_dir: str | None = None,
    batch_size: int = 128,
    part_size: int = 512,
    threads: int = 4,
    process_id: int = 0,
    process_count: int = 1,
    progress: bool = False,
) -> ExtractionReport:
    """Encodes images into a dataset of tokens; killed at any moment, the same call goes on.

    The training images are stored in several views each, the validation images in their centre crop.

    Args:
      model: tokenizer, or its path.
      data: source of images; None: that of the run.
      out: folder for the tokens; None: `tokens/` in the run folder.
      checkpoint: of a run folder: 'latest', 'best', or a step.
      image_size: side of the views in pixels; None: that of the run, or 256.
      views: of each training image: 'centre', 'five_crop', or 'ten_crop'; None: 'ten_crop' (corners, centre, and their
        mirrors), or 'five_crop' if the tokenizer was trained without mirroring.
      zooms: sizes of the images that views are cut from, relative to that of the views.
      data_dir: folder of TFDS datasets.
      batch_size: views that are encoded at a time.
      part_size: images after which the work done is safe.
      threads: threads that decode images.
      process_id: number of this process, from 0.
      process_count: number of processes that share the work; the one that finishes last writes the dataset.
      progress: shows progress bars.

    Raises:
      UserError: there are no such images, their size does not fit, or `out` holds other tokens.
    """
    check_processes(process_id, process_count)
    tokenizer = resolve_tokenizer(model, checkpoint)
    chosen = choose_data(model, data, data_dir, image_size)
    run = run_folder_of(model)
    folder = pathlib.Path(out) if out is not None else run and run / 'tokens'
    if folder is None:
        raise UserError('name a folder for the tokens (--out)')
    extraction = Extraction(
        tokenizer,
        name_of_images(chosen.source),
        folder,
        image_size=chosen.image_size,
        views=views or ('ten_crop' if chosen.flip else 'five_crop'),
        zooms=zooms,
        data_dir=chosen.data_dir,
        batch_size=batch_size,
        part_size=part_size,
        threads=threads,
    )
    skipped = extraction.run(process_id, process_count, progress=progress)
    complete = skipped is not None
    return ExtractionReport(folder, complete, skipped or {}, extraction.describe() if complete else '')
