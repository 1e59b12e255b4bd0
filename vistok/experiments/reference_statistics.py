"""Statistics of real images, measured once for many evaluations against them."""

import dataclasses
from pathlib import Path

from vistok.data.images.byte_batches import ByteBatches, SourceImages, open_byte_batches
from vistok.data.images.source import Split
from vistok.errors import UserError
from vistok.experiments.model_inputs import Images, PathLike, describe_skipped, open_images
from vistok.metrics.feature_extractor import FeatureExtractor, load_extractor
from vistok.metrics.feature_set import KEPT, FeatureSet, save_statistics
from vistok.metrics.feature_statistics import extract_features
from vistok.metrics.protocols import find_protocol


@dataclasses.dataclass(frozen=True)
class StatisticsReport:
    """Statistics of a set of images.

    Attributes:
      features: the statistics.
      skipped: images that could not be read, and why.
      path: file that holds them; None if none was written.
    """

    features: FeatureSet
    skipped: dict[str, str]
    path: Path | None

    def __str__(self) -> str:
        found = self.features
        lines = [
            f'protocol {found.protocol}',
            f'images   {found.pool.count}, {found.images} ({found.images_sha256[:12]})',
            describe_skipped(self.skipped),
            '' if self.path is None else f'wrote {self.path}',
        ]
        return '\n'.join(filter(None, lines))


def reference_statistics(
    data: Images,
    out: PathLike | None = None,
    *,
    split: Split | None = None,
    data_dir: str | None = None,
    image_size: int | None = None,
    batch_size: int = 64,
    protocol: str | None = None,
    inception: PathLike | None = None,
    inception_sha256: str | None = None,
    progress: bool = False,
) -> StatisticsReport:
    """Measures real images, for evaluations of generated images against them.

    Args:
      data: a folder, an `.npz` file, any source, or images.
      out: `.npz` file for the statistics; None: none is written.
      split: of a source; None: all images of a folder, the training images of other sources.
      data_dir: folder of TFDS datasets.
      image_size: side of the centre crops in pixels; None: that of the first image.
      batch_size: images that pass through the network at a time.
      protocol: 'adm', 'pytorch_fid', 'torch_fidelity', 'clean' or 'stand_in'; None: 'adm' with `inception`, else
        'stand_in'.
      inception: Inception weights of pytorch-fid.
      inception_sha256: digest of these, if they are not the published file.
      progress: shows a progress bar.

    Raises:
      UserError: there are no such images or weights, or fewer than two images can be read.
    """
    if out is not None and Path(out).suffix != '.npz':
        raise UserError(f'name the file to write, --out=FILE.npz; got {out}')
    extractor = open_extractor(protocol, inception, inception_sha256)
    batches = open_batches(data, split=split, data_dir=data_dir, image_size=image_size, batch_size=batch_size)
    found = extract_features(batches, extractor, keep=KEPT, progress=progress)
    if out is not None:
        save_statistics(out, found)
    return StatisticsReport(found, dict(batches.skipped), None if out is None else Path(out))


def open_extractor(protocol: str | None, inception: PathLike | None, sha256: str | None) -> FeatureExtractor:
    """Returns the network of a protocol; None: of 'adm' where Inception weights are given, else of 'stand_in'."""
    found = find_protocol(protocol or ('adm' if inception else 'stand_in'))
    return load_extractor(found, inception, sha256=sha256)


def open_batches(
    data: Images,
    *,
    split: Split | None = None,
    data_dir: str | None = None,
    image_size: int | None = None,
    batch_size: int = 64,
) -> ByteBatches:
    """Returns batches of images that are given by name, as a file of samples, or as arrays."""
    if isinstance(data, str | Path):
        return open_byte_batches(
            str(data), split=split, data_dir=data_dir, image_size=image_size, batch_size=batch_size
        )
    source = open_images(data, split or 'train')
    return SourceImages(source, image_size or min(source[0].image.shape[:2]), batch_size)
