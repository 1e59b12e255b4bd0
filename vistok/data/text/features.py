"""Text features on disk: captions encoded once, so that training a text-conditional generator needs no text encoder.

A folder holds parts, each of a range of captions: `000000000-000000512.npy`, the vectors of all their words below each
other (float16, without padding, read in place), and a `.json` file of the same name, which says whose they are and
appears last.  A part that is there is done, so that a killed command goes on and several processes can share the work.
"""

import dataclasses
import functools
import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float
from tqdm import tqdm

from vistok.errors import UserError
from vistok.files import keep_settings, write_file

_SETTINGS = 'text_features.json'
_LARGEST = float(np.finfo(np.float16).max)
_OPEN_PARTS = 256  # each holds a file open


@runtime_checkable
class TextEncoder(Protocol):
    """Interface of frozen text encoders.

    Attributes:
      name: name of the encoder, which identifies its features.
      tokens: largest number of vectors per text.
      width: width of a feature vector.
    """

    name: str
    tokens: int
    width: int

    def encode(self, texts: Sequence[str]) -> list[Float[np.ndarray, 'n c']]:
        """Encodes each text as a sequence of 1 to `tokens` feature vectors."""
        ...


@dataclasses.dataclass(frozen=True)
class PaddedText:
    """Padded text features, the condition of a text-conditional generator; padding, which is zero, comes first.

    Attributes:
      features: one vector per word.
      mask: False on padding.
    """

    features: Float[np.ndarray, '*b n c']
    mask: Bool[np.ndarray, '*b n']


def pad_features(vectors: Float[np.ndarray, 'n c'], tokens: int) -> PaddedText:
    """Pads the feature vectors of one text to `tokens` vectors."""
    blank = np.zeros((tokens - len(vectors), vectors.shape[1]), vectors.dtype)
    return PaddedText(np.concatenate([blank, vectors]), np.arange(tokens) >= len(blank))


@dataclasses.dataclass(frozen=True)
class _Entry:
    """Text with the location of its vectors: rows `start` to `stop` (excluded) of a part."""

    name: str
    text: str
    start: int
    stop: int


def write_text_features(
    folder: Path,
    captions: Mapping[str, Sequence[str]],
    encoder: TextEncoder,
    *,
    part_size: int = 512,
    batch_size: int = 32,
    process_id: int = 0,
    process_count: int = 1,
    progress: bool = False,
) -> bool:
    """Encodes the texts of this process's unfinished parts and writes their features.

    Args:
      folder: output folder of the features.
      captions: texts by name.
      encoder: text encoder.
      part_size: number of texts per part.
      batch_size: number of texts that are encoded at a time.
      process_id: index of this process.
      process_count: number of processes that share the parts.
      progress: shows a progress bar.

    Returns:
      Whether all parts are done, those of other processes as well.

    Raises:
      UserError: the folder holds features of other captions or another encoder, or cannot be written.
    """
    texts = [(name, text) for name, several in captions.items() for text in several]
    settings = {
        'encoder': encoder.name,
        'tokens': encoder.tokens,
        'width': encoder.width,
        'texts': len(texts),
        'sha256': hashlib.sha256(json.dumps(texts).encode()).hexdigest(),
        'part_size': part_size,
    }
    keep_settings(folder / _SETTINGS, settings, f'the folder of features {folder}')
    missing = [part for part in _parts(settings)[process_id::process_count] if not _index(folder, part).exists()]
    with tqdm(total=sum(map(len, missing)), desc='encoding', unit='text', disable=not progress) as bar:
        for part in missing:
            vectors: list[np.ndarray] = []
            for start in range(part.start, part.stop, batch_size):
                batch = [text for _, text in texts[start : min(start + batch_size, part.stop)]]
                vectors += [np.clip(x, -_LARGEST, _LARGEST).astype(np.float16) for x in encoder.encode(batch)]
                bar.update(len(batch))
            ends = np.cumsum([len(x) for x in vectors])
            entries = [
                _Entry(*texts[i], int(end - len(x)), int(end)) for i, x, end in zip(part, vectors, ends, strict=True)
            ]
            whole = io.BytesIO()
            np.save(whole, np.concatenate(vectors))
            write_file(_index(folder, part).with_suffix('.npy'), whole.getvalue())
            write_file(_index(folder, part), json.dumps([dataclasses.asdict(entry) for entry in entries]).encode())
    return all(_index(folder, part).exists() for part in _parts(settings))


def _parts(settings: Mapping[str, Any]) -> list[range]:
    """Returns the range of texts of each part."""
    count, size = settings['texts'], settings['part_size']
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


def _index(folder: Path, part: range) -> Path:
    return folder / f'{part.start:09d}-{part.stop:09d}.json'


class TextFeatureSource:
    """Text features on disk as `write_text_features` wrote them; random access, safe to use from several threads.

    Args:
      folder: folder of the features.

    Attributes:
      encoder: name of the text encoder.
      tokens: number of vectors of a padded text.
      width: width of a feature vector.
      names: names of the images or prompts, in order.

    Raises:
      UserError: there are none, some are missing, or they are damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not (folder / _SETTINGS).is_file():
            raise UserError(
                f'there are no features of captions in {folder}; make them with '
                f'python launch/text_features.py --source=CAPTIONS --out={folder}'
            )
        self._entries: dict[str, list[tuple[Path, _Entry]]] = {}
        try:
            settings = json.loads((folder / _SETTINGS).read_text())
            self.encoder, self.tokens, self.width = (settings[key] for key in ('encoder', 'tokens', 'width'))
            for part in _parts(settings):
                index = _index(folder, part)
                if not index.exists():
                    raise UserError(
                        f'the features in {folder} are incomplete: {index.stem} is missing; the command that began '
                        'them, launch/text_features.py, goes on'
                    )
                for entry in (_Entry(**row) for row in json.loads(index.read_text())):
                    self._entries.setdefault(entry.name, []).append((index.with_suffix('.npy'), entry))
        except UserError:
            raise
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f'the features in {folder} cannot be read: {error}') from error
        self.names = tuple(self._entries)
        self._vectors = functools.lru_cache(_OPEN_PARTS)(functools.partial(np.load, mmap_mode='r'))

    def texts(self, name: str) -> tuple[str, ...]:
        """Returns the captions of an image.

        Raises:
          UserError: it has none.
        """
        if name not in self._entries:
            raise UserError(f'the image {name} has no caption in {self.folder}')
        return tuple(entry.text for _, entry in self._entries[name])

    def features(self, name: str, which: int = 0) -> PaddedText:
        """Reads the features of one caption of an image.

        Raises:
          UserError: there are none, or they are damaged.
        """
        self.texts(name)
        path, entry = self._entries[name][which]
        try:
            vectors = self._vectors(path)[entry.start : entry.stop]
        except (OSError, ValueError) as error:
            raise UserError(f'{path} is damaged: {error}') from error
        if vectors.shape != (entry.stop - entry.start, self.width):
            raise UserError(f'{path} is damaged: the vectors of {name} are not there')
        return pad_features(np.asarray(vectors), self.tokens)

    def first_features(self, names: Sequence[str]) -> PaddedText:
        """Reads the features of the first captions of several images."""
        each: Iterator[PaddedText] = map(self.features, names)
        features, masks = zip(*((text.features, text.mask) for text in each), strict=True)
        return PaddedText(np.stack(features), np.stack(masks))
