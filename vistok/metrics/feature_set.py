"""Feature statistics of a set of images: moments, features, logits, and a digest of the pixels; also as files."""

import dataclasses
import hashlib
import json
import os
import pathlib
import zipfile
from typing import Any

import numpy as np
from jaxtyping import Float, Integer, UInt8

from vistok.errors import UserError
from vistok.files import write_atomically
from vistok.metrics.feature_extractor import FeatureExtractor
from vistok.metrics.frechet import Gaussian, Moments

_FORMAT = 'vistok image statistics'
KEPT = 10_000
"""Features that a reference keeps for precision and recall: as many images as ADM's references hold."""


@dataclasses.dataclass(frozen=True)
class FeatureSet:
    """Feature statistics of a set of images under one protocol.

    Attributes:
      protocol: name of the protocol.
      network_sha256: digest of the weights; '' where it is not known (statistics of other evaluators).
      images: source of the images.
      images_sha256: digest of the pixels, or of the file of statistics where these are all there is.
      pool: moments of the pooled features.
      spatial: moments of the spatial features, if the protocol has them.
      features: last features, of all images or of some spread evenly over the set; None: not known.
      logits: logits of all images, in order; None if unknown.
      labels: class labels of all images, in order; None if unknown.
    """

    protocol: str
    network_sha256: str
    images: str
    images_sha256: str
    pool: Gaussian
    spatial: Gaussian | None = None
    features: Float[np.ndarray, 'n d'] | None = None
    logits: Float[np.ndarray, 'm classes'] | None = None
    labels: Integer[np.ndarray, ' m'] | None = None


class FeatureCollector:
    """Accumulator of feature statistics, batch by batch.

    Args:
      extractor: feature network of a protocol.
      images: source of the images.
      batch_size: size of a full batch.
      keep: number of pooled features kept for precision and recall, spread evenly; None: all.
      total: number of images to come; needed to spread the kept features.

    Attributes:
      count: number of images so far.
    """

    def __init__(
        self, extractor: FeatureExtractor, images: str, batch_size: int, *, keep: int | None = None, total: int = 0
    ) -> None:
        self._extractor, self._images, self._batch_size = extractor, images, batch_size
        # Where fewer are kept than there are: evenly, because many sources are sorted by class.
        self._every = max(1.0, total / keep) if keep is not None else 1.0
        self._pool, self._spatial, self._digest, self.count = Moments(), Moments(), hashlib.sha256(), 0
        self._features: list[np.ndarray] = []
        self._logits: list[np.ndarray] = []
        self._labels: list[np.ndarray] = []

    def add(self, images: UInt8[np.ndarray, 'n h w 3'], labels: Integer[np.ndarray, ' n'] | None = None) -> None:
        """Adds RGB images of one size, with their class labels if known."""
        if self.count == 0:
            self._digest.update(repr(images.shape[1:]).encode())
        self._digest.update(np.ascontiguousarray(images).data)
        found = self._extractor(images, self._batch_size)
        self._pool.add(found.pool)
        number = np.arange(self.count, self.count + len(images))
        self._features.append(found.pool[np.floor((number + 1) / self._every) > np.floor(number / self._every)])
        if found.spatial is not None:
            self._spatial.add(found.spatial)
        if found.logits is not None:
            self._logits.append(found.logits)
        if labels is not None:
            self._labels.append(labels)
        self.count += len(images)

    def finish(self) -> FeatureSet:
        """Returns the statistics of all images so far; raises UserError below two images."""
        labels = np.concatenate(self._labels) if self._labels else None
        return FeatureSet(
            self._extractor.protocol.name,
            self._extractor.network_sha256,
            self._images,
            self._digest.hexdigest(),
            self._pool.gaussian(),
            self._spatial.gaussian() if self._extractor.protocol.spatial else None,
            np.concatenate(self._features),
            np.concatenate(self._logits) if self._logits else None,
            labels if labels is not None and len(labels) == self.count else None,
        )


def save_statistics(path: str | os.PathLike[str], found: FeatureSet) -> None:
    """Writes reference statistics as an `.npz` file: moments under ADM's names, features, and their provenance."""
    path = pathlib.Path(path)
    if path.suffix != '.npz':
        raise UserError(f'cannot write {path}: the name must end in .npz')
    about = {
        'format': _FORMAT,
        'protocol': found.protocol,
        'network_sha256': found.network_sha256,
        'pictures': found.images,
        'pictures_sha256': found.images_sha256,
        'count': found.pool.count,
    }
    arrays: dict[str, Any] = {'about': np.array(json.dumps(about)), 'mu': found.pool.mean}
    arrays['sigma'] = found.pool.covariance
    if found.spatial is not None:
        arrays |= {'mu_s': found.spatial.mean, 'sigma_s': found.spatial.covariance}
    if found.features is not None:
        arrays['features'] = found.features
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: np.savez(file, **arrays))


def has_statistics(path: str | os.PathLike[str]) -> bool:
    """Returns whether a file holds feature statistics (ours or another evaluator's) rather than images alone."""
    return {'mu', 'sigma'} <= _arrays_in(path)


def has_images(path: str | os.PathLike[str]) -> bool:
    """Returns whether a file is an `.npz` file of images."""
    return 'arr_0' in _arrays_in(path)


def _arrays_in(path: str | os.PathLike[str]) -> set[str]:
    path = pathlib.Path(path)
    if path.suffix != '.npz' or not path.is_file():
        return set()
    try:
        with zipfile.ZipFile(path) as file:
            return {name.removesuffix('.npy') for name in file.namelist()}
    except zipfile.BadZipFile:
        raise UserError(f'{path} is damaged or no .npz file') from None


def load_statistics(path: str | os.PathLike[str]) -> FeatureSet:
    """Reads statistics from `save_statistics`, ADM (with spatial ones) or pytorch-fid (without).

    Other evaluators do not say what network made their files; it is taken to be the published one.

    Raises:
      UserError: the file is damaged or holds no statistics.
    """
    try:
        with open(path, 'rb') as file, np.load(file) as arrays:
            wanted = ('about', 'mu', 'sigma', 'mu_s', 'sigma_s', 'features')
            found = {name: arrays[name] for name in wanted if name in arrays}
            if not {'mu', 'sigma'} <= set(found):
                raise UserError(f'{path} holds no statistics; it has {", ".join(arrays.files)}')
    except UserError:
        raise
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f'{path} is damaged or no .npz file: {error}') from None
    about = json.loads(found['about'].item()) if 'about' in found else {}
    if not about:
        with open(path, 'rb') as file:
            digest = hashlib.file_digest(file, 'sha256').hexdigest()
        about = {
            'protocol': 'adm' if 'mu_s' in found else 'pytorch_fid',
            'network_sha256': '',
            'pictures': str(path),
            'pictures_sha256': digest,
            'count': 0,
        }
    return FeatureSet(
        about['protocol'],
        about['network_sha256'],
        about['pictures'],
        about['pictures_sha256'],
        _gaussian(found['mu'], found['sigma'], about['count']),
        _gaussian(found['mu_s'], found['sigma_s'], about['count']) if 'mu_s' in found else None,
        found.get('features'),
    )


def _gaussian(mean: np.ndarray, covariance: np.ndarray, count: int) -> Gaussian:
    return Gaussian(mean.astype(np.float64), covariance.astype(np.float64), count)
