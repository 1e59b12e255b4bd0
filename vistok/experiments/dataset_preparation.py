"""TFDS datasets made of folders of images."""

import dataclasses
from pathlib import Path

from absl import logging

from vistok.experiments.model_inputs import PathLike

_LISTED = 10  # skipped images to name


@dataclasses.dataclass(frozen=True)
class DatasetReport:
    """TFDS dataset of images.

    Attributes:
      name: to be used as the source 'tfds:<name>'.
      path: folder of the dataset.
      counts: number of images of each split.
      class_names: of the labels.
      skipped: images that could not be decoded, and why.
    """

    name: str
    path: Path
    counts: dict[str, int]
    class_names: tuple[str, ...]
    skipped: dict[str, str]

    def __str__(self) -> str:
        counts = ', '.join(f'{count} {split}' for split, count in self.counts.items())
        lines = [f'wrote {self.path}: {counts} images, {len(self.class_names)} classes']
        if self.skipped:
            lines.append(f'skipped, because they cannot be decoded: {len(self.skipped)}')
            lines += [f'  {name}: {reason}' for name, reason in list(self.skipped.items())[:_LISTED]]
        if len(self.skipped) > _LISTED:
            lines.append(f'  ... and {len(self.skipped) - _LISTED} more')
        return '\n'.join([*lines, f'use it as tfds:{self.name}'])


def prepare_data(
    source: PathLike, name: str, data_dir: PathLike | None = None, *, progress: bool = False
) -> DatasetReport:
    """Writes a folder or `.zip` file of images as a TFDS dataset.

    Args:
      source: folder or `.zip` file; sub-folders are classes.
      name: of the dataset: small letters, digits, underscores.
      data_dir: folder of TFDS datasets; None: `$TFDS_DATA_DIR`, or else `~/tensorflow_datasets`.
      progress: shows a progress bar.

    Raises:
      UserError: the source has no usable image, the name is not allowed or taken, or the folder cannot be written.
    """
    from vistok.data.images.builder import prepare_dataset  # TFDS takes seconds to import
    from vistok.data.images.tfds_source import default_data_dir

    logging.set_verbosity(logging.WARNING)  # TFDS reports each file it writes, across the progress bar
    prepared = prepare_dataset(source, name, data_dir or default_data_dir(), progress=progress)
    return DatasetReport(
        name, Path(prepared.path), dict(prepared.counts), tuple(prepared.class_names), dict(prepared.skipped)
    )
