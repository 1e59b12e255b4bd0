"""Models and images as functions of the public API accept them: objects, arrays, or paths."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from vistok.data.images.pipeline import open_source
from vistok.data.images.source import ImageRecord, ImageSource, Split
from vistok.errors import UserError
from vistok.experiments import assembly, loading, run_folder
from vistok.tokenizers.trained import TrainedTokenizer
from vistok.visualization import to_uint8

PathLike = str | os.PathLike[str]
Model = Any
"""A trained model, or the path of one: a run folder, one of its checkpoints, or a weights file."""
Images = PathLike | ImageSource | UInt8[np.ndarray, 'n h w 3'] | Float[np.ndarray, 'n h w 3'] | Sequence[np.ndarray]
"""A source as `open_source` takes it, or images: uint8, or floats in [-1, 1]."""


class ImageArrays:
    """Images in memory as a source without classes.

    Args:
      images: uint8 or floats in [-1, 1], each `[h, w, 3]`.
    """

    name = 'images in memory'
    class_names: tuple[str, ...] = ('',)

    def __init__(self, images: Sequence[np.ndarray] | np.ndarray) -> None:
        self._images = [np.asarray(image) for image in images]
        for i, image in enumerate(self._images):
            if image.ndim != 3 or image.shape[-1] != 3:
                raise UserError(f'image {i} has the shape {list(image.shape)}, not [h, w, 3]')
        if not self._images:
            raise UserError('there are no images')

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> ImageRecord:
        image = self._images[index]
        return ImageRecord(image if image.dtype == np.uint8 else to_uint8(image), 0, f'image {index}')


def open_images(images: Images, split: Split, *, data_dir: str | None = None) -> ImageSource:
    """Opens images that are given by name or as arrays; arrays are the same for both splits.

    Raises:
      UserError: there are no such images.
    """
    if isinstance(images, str | os.PathLike):
        return open_source(os.fspath(images), split, data_dir=data_dir)
    if isinstance(images, ImageSource) and not isinstance(images, Sequence):
        return images
    return ImageArrays(images)


def name_of_images(images: Images) -> str:
    """Returns what records call a set of images."""
    return os.fspath(images) if isinstance(images, str | os.PathLike) else getattr(images, 'name', ImageArrays.name)


def is_path(model: Model) -> bool:
    """Returns whether a model is given by its path."""
    return isinstance(model, str | os.PathLike)


def name_of_model(model: Model) -> str:
    """Returns what messages and records call a model: its path, or its class."""
    return os.fspath(model) if is_path(model) else type(getattr(model, 'module', model)).__name__


def resolve_tokenizer(model: Model, checkpoint: int | str = 'latest') -> TrainedTokenizer:
    """Returns a trained tokenizer that is given as an object or by path.

    Raises:
      UserError: there is nothing at the path, or it is another kind of model.
    """
    if is_path(model):
        return loading.load_tokenizer(model, checkpoint)
    if not isinstance(model, TrainedTokenizer):
        raise UserError(f'a tokenizer or its path is needed, got a {type(model).__name__}')
    return model


def run_folder_of(model: Model) -> Path | None:
    """Returns the run folder that a model's path lies in, if it lies in one."""
    if not is_path(model):
        return None
    path = Path(model)
    return next((p for p in (path, *path.parents[:2]) if (p / 'config.json').is_file()), None)


@dataclasses.dataclass(frozen=True)
class DataChoice:
    """Images to use with a model: those that were named, or those that it was trained on.

    Attributes:
      source: the images.
      data_dir: folder of TFDS datasets; None for the default.
      image_size: side of the crops in pixels.
      flip: whether the model was trained on mirrored images too.
    """

    source: Images
    data_dir: str | None
    image_size: int
    flip: bool = True


def choose_data(
    model: Model,
    data: Images | None,
    data_dir: str | None,
    image_size: int | None,
    *,
    for_evaluation: bool = False,
) -> DataChoice:
    """Returns the images to use, where the config of the model's run fills in what is not given.

    Args:
      model: object or path.
      data: the images; None: those of the run.
      data_dir: folder of TFDS datasets; None: that of the run.
      image_size: side of the crops; None: that of the run, or 256.
      for_evaluation: takes the size at which the run is evaluated.

    Raises:
      UserError: neither images nor a run folder are given.
    """
    folder = run_folder_of(model)
    flip = True
    if folder is not None:
        config = run_folder.read_config(folder)
        size = assembly.evaluation_image_size(config) if for_evaluation else config.data.image_size
        data = config.data.source if data is None else data
        data_dir, image_size, flip = data_dir or config.data.data_dir or None, image_size or size, config.data.flip
    if data is None:
        raise UserError(f'{name_of_model(model)} is no run folder: name the images (--source)')
    return DataChoice(data, data_dir, image_size or 256, flip)


def describe_skipped(skipped: dict[str, str]) -> str:
    """Returns a sentence about images that could not be read; '' without any."""
    if not skipped:
        return ''
    name, reason = next(iter(skipped.items()))
    return f'{len(skipped)} images could not be read and do not count; the first: {name}: {reason}'


def check_new_weights(path: PathLike | None) -> Path:
    """Returns the path of a `.safetensors` file that is to be written.

    Raises:
      UserError: it is none, or its folder does not exist.
    """
    target = Path(path or '')
    if target.suffix != '.safetensors':
        raise UserError(f'name the file to write, --out=FILE.safetensors; got {path!r}')
    if not target.parent.is_dir():
        raise UserError(f'there is no folder {target.parent}')
    return target
