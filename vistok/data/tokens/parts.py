"""Resumable token extraction: parts that several processes can share and that a killed process can continue.

Each part is a range of the images of a split and one file, which appears when it is complete.  A part that is there
is done; one that is not is done from its beginning.  Hence no image is ever missing or there twice.
"""

import dataclasses
import json
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np

from vistok.data.images.source import Split
from vistok.data.tokens.dataset import TokenRecord
from vistok.errors import UserError
from vistok.files import keep_settings, write_arrays


@dataclasses.dataclass(frozen=True)
class ImageRange:
    """Range of images of a split: `start` to `stop` (excluded)."""

    split: Split
    start: int
    stop: int


class TokenParts:
    """Folder of the finished parts of a token extraction.

    Args:
      folder: folder of the parts; created if it is missing.
      settings: everything that the tokens depend on (JSON values).
      counts: number of images per split.
      part_size: number of images per part.

    Raises:
      UserError: the folder holds parts that were made with other settings, or cannot be written.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], counts: Mapping[Split, int], part_size: int) -> None:
        self.folder = folder
        self._parts = [
            ImageRange(split, start, min(start + part_size, counts[split]))
            for split in get_args(Split)
            for start in range(0, counts[split], part_size)
        ]
        noted = {**settings, 'pictures': dict(counts), 'part_size': part_size}
        keep_settings(folder / 'extraction.json', noted, f'the unfinished extraction in {folder}')

    def missing(self, process_index: int = 0, process_count: int = 1) -> list[ImageRange]:
        """Returns the unfinished parts that belong to this process."""
        mine = self._parts[process_index::process_count]
        return [part for part in mine if not self._path(part).exists()]

    def write(self, part: ImageRange, records: list[TokenRecord], skipped: Mapping[str, str]) -> None:
        """Writes a part: its usable images, and the names of the others with the reasons."""
        grains = [r.grain for r in records if r.grain is not None]
        grain = {'grain': np.stack(grains)} if grains else {}
        stored: dict[str, Any] = {
            'ids': np.stack([r.ids for r in records]) if records else np.zeros((0, 1, 1, 1, 1), np.int32),
            'label': np.asarray([r.label for r in records], np.int32),
            'name': np.asarray(json.dumps([r.name for r in records])),
            'skipped': np.asarray(json.dumps(dict(skipped))),
        }
        write_arrays(self._path(part), **stored, **grain)

    def records(self, split: Split) -> Iterator[TokenRecord]:
        """Yields all usable images of a split, in order.

        Raises:
          UserError: a part is damaged.
        """
        for part in self._parts:
            if part.split == split:
                stored = self._read(part)
                grains = stored.get('grain', [None] * len(stored['ids']))
                names = json.loads(str(stored['name']))
                for ids, grain, label, name in zip(stored['ids'], grains, stored['label'], names, strict=True):
                    yield TokenRecord(ids, grain, int(label), name)

    def read_skipped(self) -> dict[str, str]:
        """Reads the names of the unusable images of all parts, with the reasons."""
        found: dict[str, str] = {}
        for part in self._parts:
            found |= json.loads(str(self._read(part)['skipped']))
        return found

    def remove(self) -> None:
        """Deletes the folder with all parts."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, part: ImageRange) -> Path:
        return self.folder / f'{part.split}-{part.start:010d}-{part.stop:010d}.npz'

    def _read(self, part: ImageRange) -> dict[str, Any]:
        path = self._path(part)
        try:
            with np.load(path, allow_pickle=False) as stored:
                return dict(stored)
        except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
            raise UserError(f'{path} is damaged; delete it and extract again: {error}') from None
