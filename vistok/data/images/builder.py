"""TFDS datasets written from a folder or .zip file of images; `tfds:<name>` reads them.

The files are stored as they are where they are JPEG or PNG, and as PNG otherwise, so that any reader of TFDS can open
them.  A dataset appears at its place only when it is complete.
"""

import contextlib
import dataclasses
import io
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from PIL import Image
from tqdm import tqdm

from vistok.data.images.decode import decode_image
from vistok.data.images.folder import ImageFolder
from vistok.data.images.source import BadImage
from vistok.errors import UserError

_VERSION = '1.0.0'
_NAME = re.compile(r'[a-z][a-z0-9_]*')
_STORED_AS_THEY_ARE = (b'\xff\xd8\xff', b'\x89PNG\r\n\x1a\n')


@dataclasses.dataclass(frozen=True)
class PreparedDataset:
    """Summary of a dataset that `prepare_dataset` wrote.

    Attributes:
      path: folder of the dataset.
      counts: number of images per split.
      class_names: names of the labels.
      skipped: names of the undecodable images, with the reasons.
    """

    path: Path
    counts: dict[str, int]
    class_names: tuple[str, ...]
    skipped: dict[str, str]


def prepare_dataset(
    source: str | os.PathLike[str], name: str, data_dir: str | os.PathLike[str], *, progress: bool = False
) -> PreparedDataset:
    """Writes a folder or .zip file of images as the TFDS dataset `name`.

    Args:
      source: folder or .zip file of images, in a layout that `ImageFolder` knows.
      name: name of the dataset: small letters, digits and underscores.
      data_dir: root folder of the datasets; created if it is missing.
      progress: shows a progress bar.

    Raises:
      UserError: the source has no usable image, the name is not allowed or taken, or the folder cannot be written.
    """
    if not _NAME.fullmatch(name):
        raise UserError(
            f'a dataset name has small letters, digits and underscores and starts with a letter, got {name!r}'
        )
    data_dir = Path(data_dir).expanduser()
    if (path := data_dir / name / _VERSION).exists():
        raise UserError(f'{path} exists already; choose another name or remove it')
    folders = {'train': ImageFolder(source, 'train'), 'validation': ImageFolder(source, 'validation')}
    skipped: dict[str, str] = {}
    total = sum(map(len, folders.values()))
    tfds.disable_progress_bar()  # it shows several for every split; ours counts images
    try:
        # TFDS insists on a folder for downloads and would leave it behind in `data_dir`.
        with tempfile.TemporaryDirectory() as downloads, tqdm(total=total, desc=name, disable=not progress) as bar:
            builder = _builder_class(name, folders, skipped, bar)(data_dir=data_dir, file_format='array_record')
            with contextlib.redirect_stdout(io.StringIO()):  # TFDS announces a download of unknown size
                builder.download_and_prepare(download_dir=downloads)
    except OSError as error:
        raise UserError(f'the dataset cannot be written into {data_dir}: {error.strerror or error}') from error
    finally:
        with contextlib.suppress(OSError):
            (data_dir / name).rmdir()  # which fails unless it is empty, as after an error
    counts = {split: info.num_examples for split, info in builder.info.splits.items()}
    return PreparedDataset(path, counts, folders['train'].class_names, skipped)


def _builder_class(
    dataset_name: str, folders: dict[str, ImageFolder], skipped: dict[str, str], bar: tqdm
) -> type[tfds.core.GeneratorBasedBuilder]:
    """Returns a TFDS builder class for these folders; TFDS identifies a dataset by its class."""

    class ImageFolderBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
        name = dataset_name
        VERSION = tfds.core.Version(_VERSION)

        def _info(self) -> tfds.core.DatasetInfo:
            features = {
                'image': tfds.features.Image(shape=(None, None, 3)),
                'label': tfds.features.ClassLabel(names=list(folders['train'].class_names)),
                'file_name': tfds.features.Text(),
            }
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
            return {split: self._generate_examples(split) for split in folders}

        def _generate_examples(self, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
            folder = folders[split]
            usable = 0
            for i in range(len(folder)):
                name = folder.file_name(i)
                try:
                    stored = _stored_bytes(folder.read(i), name)
                except BadImage as bad:
                    skipped[bad.name] = bad.reason
                else:
                    usable += 1
                    yield name, {'image': stored, 'label': folder.label(i), 'file_name': name}
                bar.update()
            if usable == 0:
                raise UserError(f'none of the {len(folder)} images of {folder.name} can be used')

    return ImageFolderBuilder


def _stored_bytes(data: bytes, name: str) -> bytes:
    """Returns the bytes to store: JPEG and PNG files as they are, others as PNG; raises `BadImage` for damaged ones."""
    image = decode_image(data, name)
    if data.startswith(_STORED_AS_THEY_ARE):
        return data
    png = io.BytesIO()
    Image.fromarray(image).save(png, 'PNG')
    return png.getvalue()
