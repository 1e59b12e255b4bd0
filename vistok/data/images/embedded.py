"""Embedded datasets: photographs and digits that ship inside the wheels of scikit-image and scikit-learn.

The files are opened by path inside the installed packages.  The packages' own loaders are not used, because they may go
to the network for images that a release no longer ships.  Authors and licences: docs/data.md.
"""

import functools
import importlib.util
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from vistok.data.images.decode import decode_image
from vistok.data.images.source import ImageRecord, Split
from vistok.errors import UserError

_SCIKIT_IMAGE, _SCIKIT_LEARN = ('skimage', 'data'), ('sklearn', 'datasets/images')
_PHOTOGRAPHS = {
    'train': {
        'chelsea.png': _SCIKIT_IMAGE,
        'china.jpg': _SCIKIT_LEARN,
        'flower.jpg': _SCIKIT_LEARN,
        'rocket.jpg': _SCIKIT_IMAGE,
        'motorcycle_left.png': _SCIKIT_IMAGE,
        'retina.jpg': _SCIKIT_IMAGE,
        'hubble_deep_field.jpg': _SCIKIT_IMAGE,
        'ihc.png': _SCIKIT_IMAGE,
        'brick.png': _SCIKIT_IMAGE,
        'grass.png': _SCIKIT_IMAGE,
        'gravel.png': _SCIKIT_IMAGE,
        'clock_motion.png': _SCIKIT_IMAGE,
    },
    'validation': {
        'astronaut.png': _SCIKIT_IMAGE,
        'coffee.png': _SCIKIT_IMAGE,
        'camera.png': _SCIKIT_IMAGE,
        'coins.png': _SCIKIT_IMAGE,
    },
}
_VIEWS_PER_EPOCH = 64
_CROP = 256  # side of a validation crop in pixels, native resolution
_CROP_ROWS, _CROP_COLUMNS = 2, 3


class Photographs:
    """Sixteen photographs, split by image: no pixel of a validation image occurs in training.

    The training split lists every image 64 times, so that an epoch is 64 random views of each.  The validation split
    lists each whole image first, then six crops of 256x256 pixels spread evenly over each.
    """

    def __init__(self, split: Split) -> None:
        self.name = f'embedded:photographs ({split})'
        self.class_names: tuple[str, ...] = ('photograph',)
        self._split = split
        self._files = tuple(_PHOTOGRAPHS[split].items())

    def __len__(self) -> int:
        views = _VIEWS_PER_EPOCH if self._split == 'train' else 1 + _CROP_ROWS * _CROP_COLUMNS
        return len(self._files) * views

    def __getitem__(self, index: int) -> ImageRecord:
        view, number = divmod(range(len(self))[index], len(self._files))
        file, place = self._files[number]
        image = _photograph(file, *place)
        name = file
        if self._split == 'validation' and view > 0:
            row, column = divmod(view - 1, _CROP_COLUMNS)
            image = _grid_crop(image, row, column)
            name = f'{file} crop {row},{column}'
        return ImageRecord(image, 0, name)


def _grid_crop(image: UInt8[np.ndarray, 'h w 3'], row: int, column: int) -> UInt8[np.ndarray, 's s 3']:
    height, width = image.shape[:2]
    top = (height - _CROP) * row // (_CROP_ROWS - 1)
    left = (width - _CROP) * column // (_CROP_COLUMNS - 1)
    return image[top : top + _CROP, left : left + _CROP]


@functools.cache
def _photograph(file: str, package: str, folder: str) -> UInt8[np.ndarray, 'h w 3']:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f'the embedded photographs need the package {package}, which is not installed')
    path = Path(spec.submodule_search_locations[0], folder, file)
    try:
        data = path.read_bytes()
    except OSError:
        raise UserError(f'the installed {package} lacks the photograph {path}; install another version of it') from None
    return decode_image(data, file)


class Digits:
    """The 1797 handwritten digits of scikit-learn (8x8, 17 grey levels), enlarged to 32x32 RGB; ten classes.

    Of each class every fifth sample is kept for validation.
    """

    def __init__(self, split: Split) -> None:
        self.name = f'embedded:digits ({split})'
        self.class_names = tuple('0123456789')
        images, labels = _digits()
        held_out = np.zeros(len(labels), bool)
        for digit in range(10):
            held_out[np.flatnonzero(labels == digit)[4::5]] = True
        self._ids = np.flatnonzero(held_out == (split == 'validation'))
        self._images, self._labels = images, labels

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: int) -> ImageRecord:
        i = int(self._ids[index])
        enlarged = Image.fromarray(self._images[i]).resize((32, 32), Image.Resampling.BICUBIC)
        return ImageRecord(np.array(enlarged.convert('RGB')), int(self._labels[i]), f'digit {i}')


@functools.cache
def _digits() -> tuple[UInt8[np.ndarray, 'n 8 8'], np.ndarray]:
    from sklearn.datasets import load_digits  # takes a second to import

    digits = load_digits()
    return np.rint(digits.images * (255 / 16)).astype(np.uint8), digits.target
