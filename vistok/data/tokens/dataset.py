"""Token datasets: the token grids of several views of each image, as a TFDS dataset stored as `array_record`.

A folder of tokens holds the dataset in `tokens/1.0.0/`; who wrote it may put further files beside.  What the tokens are
of (tokenizer, images, views) is the dataset's metadata, `TokenSource.about`.
"""

import contextlib
import dataclasses
import io
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Int
from tqdm import tqdm

from vistok.data.images.source import Split
from vistok.errors import UserError

_NAME, _VERSION = 'tokens', '1.0.0'
PREFIX = 'tokens:'


@dataclasses.dataclass(frozen=True)
class TokenRecord:
    """Tokens of all views of one image, with its label and name.

    Attributes:
      ids: ids of v views.
      grain: grains of the same views, or None for tokenizers without grains.
      label: index into the source's `class_names`.
      name: name of the image.
    """

    ids: Int[np.ndarray, 'v h w k']
    grain: Int[np.ndarray, 'v h w'] | None
    label: int
    name: str


def token_folder(source: str) -> Path | None:
    """Returns the token folder that `config.data.source` names ('tokens:DIR', or DIR if it holds tokens), else None."""
    if source.startswith(PREFIX):
        return Path(source.removeprefix(PREFIX)).expanduser()
    return Path(source).expanduser() if has_tokens(Path(source).expanduser()) else None


def has_tokens(folder: Path) -> bool:
    """Returns whether `folder` holds a complete dataset of tokens."""
    return (folder / _NAME / _VERSION / 'dataset_info.json').is_file()


class TokenSource:
    """One split of a token dataset; random access, safe to use from several threads.

    Args:
      folder: folder that `write_tokens` wrote.
      split: 'train' or 'validation'.

    Attributes:
      name: name of the dataset, for messages.
      about: metadata that was given to `write_tokens`.
      class_names: names of the labels.

    Raises:
      UserError: there are no tokens, or they are damaged.
    """

    def __init__(self, folder: Path, split: Split) -> None:
        self.name = f'{folder} ({split})'
        if not has_tokens(folder):
            raise UserError(
                f'there are no extracted tokens in {folder}; make them with '
                f'python launch/extract_tokens.py --model=TOKENIZER_RUN --out={folder}'
            )
        try:
            builder = tfds.builder_from_directory(folder / _NAME / _VERSION)
            self._records: Sequence[Any] = builder.as_data_source(split=split)
            self.about: dict[str, Any] = dict(builder.info.metadata)
            self.class_names = tuple(builder.info.features['label'].names)
        except Exception as error:
            raise UserError(f'the tokens in {folder} cannot be read: {error}') from error
        for part in builder.info.splits[split].file_instructions:
            if not Path(part.filename).exists():
                raise UserError(f'the tokens in {folder} are incomplete: {Path(part.filename).name} is missing')

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> TokenRecord:
        try:
            record = self._records[index]
        except Exception as error:
            raise UserError(f'record {index} of the tokens in {self.name} cannot be read: {error}') from error
        grain = record['grain'].astype(np.int32) if 'grain' in record else None
        name = record['file_name'].decode(errors='replace')
        return TokenRecord(record['ids'].astype(np.int32), grain, int(record['label']), name)


def write_tokens(
    folder: Path,
    splits: Mapping[Split, Callable[[], Iterable[TokenRecord]]],
    *,
    about: Mapping[str, Any],
    class_names: Sequence[str],
    largest_id: int,
    progress: tqdm,
) -> None:
    """Writes a token dataset, which appears at its place only when it is complete.

    Args:
      folder: folder that will hold the dataset.
      splits: by split, a function that returns the records.
      about: metadata (JSON values).
      class_names: names of the labels.
      largest_id: largest possible id, which decides the stored integer type.
      progress: progress bar that counts records.

    Raises:
      UserError: it cannot be written.
    """
    first = next(iter(next(iter(splits.values()))()))
    dtype = np.uint16 if largest_id < 2**16 else np.int32

    def features() -> dict[str, Any]:
        stored: dict[str, Any] = {
            'ids': tfds.features.Tensor(shape=(None, *first.ids.shape[1:]), dtype=dtype, encoding='bytes'),
            'label': tfds.features.ClassLabel(names=list(class_names)),
            'file_name': tfds.features.Text(),
        }
        if first.grain is not None:
            stored['grain'] = tfds.features.Tensor(
                shape=(None, *first.grain.shape[1:]), dtype=np.uint8, encoding='bytes'
            )
        return stored

    class TokenBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
        name = _NAME
        VERSION = tfds.core.Version(_VERSION)

        def _info(self) -> tfds.core.DatasetInfo:
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(features()),
                metadata=tfds.core.MetadataDict(about),
            )

        def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
            return {split: self._generate_examples(records) for split, records in splits.items()}

        def _generate_examples(
            self, records: Callable[[], Iterable[TokenRecord]]
        ) -> Iterator[tuple[str, dict[str, Any]]]:
            for i, record in enumerate(records()):
                example = {'ids': record.ids.astype(dtype), 'label': record.label, 'file_name': record.name}
                if record.grain is not None:
                    example['grain'] = record.grain.astype(np.uint8)
                yield f'{i:010d}', example
                progress.update()

    tfds.disable_progress_bar()
    folder.mkdir(parents=True, exist_ok=True)
    for left_over in folder.glob(f'{_NAME}/*incomplete*'):
        shutil.rmtree(left_over, ignore_errors=True)
    try:
        # TFDS insists on a folder for downloads and would leave it behind.
        with tempfile.TemporaryDirectory() as downloads, contextlib.redirect_stdout(io.StringIO()):
            builder = TokenBuilder(data_dir=os.fspath(folder), file_format='array_record')
            builder.download_and_prepare(download_dir=downloads)
    except OSError as error:
        raise UserError(f'the tokens cannot be written into {folder}: {error.strerror or error}') from error
