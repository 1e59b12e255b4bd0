"""TFDS datasets of images that are prepared as `array_record`, read without TensorFlow and without network access."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from vistok.data.images.decode import decode_image
from vistok.data.images.source import BadImage, ImageRecord, Split
from vistok.errors import UserError

_VERSION = re.compile(r'\d+\.\d+\.\d+')
_VALIDATION_SPLITS = ('validation', 'val', 'test')  # the first that exists is used
_HELD_OUT = 5  # per cent of 'train', where there is none of them


def default_data_dir() -> Path:
    """Returns the folder of TFDS datasets: `$TFDS_DATA_DIR`, or else `~/tensorflow_datasets`."""
    return Path(os.environ.get('TFDS_DATA_DIR', '~/tensorflow_datasets')).expanduser()


class TfdsSource:
    """One split of a prepared dataset with an image feature; its class label, if any, is the label.

    Validation is the split 'validation', 'val' or 'test', whichever exists first, or else the last 5 % of 'train'.

    Args:
      name: 'cifar10', 'cifar10:3.0.2', 'imagenet_resized/64x64'; without a version the newest prepared one is taken.
      split: 'train' or 'validation'.
      data_dir: folder of the datasets; None: see `default_data_dir`.

    Raises:
      UserError: the dataset is not there, not readable without TensorFlow, or not one of images.
    """

    def __init__(self, name: str, split: Split, *, data_dir: str | os.PathLike[str] | None = None) -> None:
        self.name = f'tfds:{name} ({split})'
        # Only a directory that exists is handed to TFDS, which otherwise looks for the dataset on the network.
        folder = _find(name, Path(data_dir).expanduser() if data_dir is not None else default_data_dir())
        try:
            builder = tfds.builder_from_directory(folder)
        except Exception as error:
            raise UserError(f'the TFDS dataset in {folder} cannot be opened: {error}') from error
        self._image, self._label = _feature_names(name, builder.info.features)
        self.class_names = tuple(builder.info.features[self._label].names) if self._label else ('picture',)
        self._records = _records(name, folder, builder, split, self._image)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> ImageRecord:
        fallback = f'{self.name}[{index}]'
        try:
            record = self._records[index]
        except Exception as error:  # a damaged record fails in the C++ reader or in the parser
            raise BadImage(fallback, f'the record cannot be read ({error})') from error
        stored = record.get('file_name')
        name = stored.decode(errors='replace') if isinstance(stored, bytes) else fallback
        label = int(record[self._label]) if self._label else 0
        # TFDS marks the samples of an unlabelled split with -1.
        return ImageRecord(decode_image(record[self._image], name), max(label, 0), name)


def _find(name: str, data_dir: Path) -> Path:
    """Finds the folder of the newest prepared version."""
    path, _, version = name.partition(':')
    folder = data_dir / path
    if version:
        versions = [version] if _is_prepared(folder / version) else []
    else:
        versions = sorted((v for v in _subfolders(folder) if _VERSION.fullmatch(v)), key=_version_key)
        versions = [v for v in versions if _is_prepared(folder / v)]
    if versions:
        return folder / versions[-1]
    configs = [c for c in _subfolders(folder) if any(map(_VERSION.fullmatch, _subfolders(folder / c)))]
    if configs and not version:
        raise UserError(f'the TFDS dataset {name} has several configurations; choose one: {", ".join(configs)}')
    raise UserError(
        f'the TFDS dataset {name} is not prepared in {data_dir}; write it there once with '
        f"tfds.builder('{name}', data_dir='{data_dir}', file_format='array_record').download_and_prepare(), "
        f'or launch/prepare_data.py for images of your own'
    )


def _subfolders(folder: Path) -> list[str]:
    return sorted(f.name for f in folder.iterdir() if f.is_dir()) if folder.is_dir() else []


def _is_prepared(folder: Path) -> bool:
    return (folder / 'dataset_info.json').is_file()


def _version_key(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split('.')))


def _feature_names(name: str, features: Any) -> tuple[str, str | None]:
    kinds = dict(features.items()) if isinstance(features, tfds.features.FeaturesDict) else {}
    images = [key for key, feature in kinds.items() if type(feature) is tfds.features.Image]
    labels = [key for key, feature in kinds.items() if isinstance(feature, tfds.features.ClassLabel)]
    if not images:
        raise UserError(
            f'the TFDS dataset {name} has no image feature; its features are {", ".join(kinds) or features}'
        )
    return ('image' if 'image' in images else images[0]), ('label' if 'label' in labels else next(iter(labels), None))


def _records(name: str, folder: Path, builder: Any, split: Split, image: str) -> Sequence[Any]:
    splits = builder.info.splits
    if 'train' not in splits:
        raise UserError(f"the TFDS dataset {name} has no split 'train'; its splits are {', '.join(splits)}")
    validation = next((s for s in _VALIDATION_SPLITS if s in splits), None)
    if split == 'validation':
        selected = validation or f'train[{100 - _HELD_OUT}%:]'
    else:
        selected = 'train' if validation else f'train[:{100 - _HELD_OUT}%]'
    decoders = {image: tfds.decode.SkipDecoding()}  # our own decoder has one rule for every kind of file
    try:
        records = builder.as_data_source(split=selected, decoders=decoders)
    except NotImplementedError:
        raise UserError(
            f'the TFDS dataset in {folder} is stored as {builder.info.file_format.value}, which allows no random '
            f"access; prepare it again with file_format='array_record'"
        ) from None
    except Exception as error:
        raise UserError(f'the split {selected!r} of the TFDS dataset in {folder} cannot be opened: {error}') from error
    for part in splits[selected].file_instructions:
        if not Path(part.filename).exists():  # found out now, and not as so many bad images later
            raise UserError(f'the TFDS dataset in {folder} is incomplete: {Path(part.filename).name} is missing')
    return records
