"""Feature statistics of images from any source, and of references for FID."""

import dataclasses
import pathlib

from tqdm import tqdm

from vistok.data.images.byte_batches import ByteBatches, SampleFile, open_byte_batches
from vistok.data.images.source import Split
from vistok.errors import UserError
from vistok.metrics.feature_extractor import FeatureExtractor
from vistok.metrics.feature_set import KEPT, FeatureCollector, FeatureSet, has_images, has_statistics, load_statistics


def extract_features(
    batches: ByteBatches, extractor: FeatureExtractor, *, keep: int | None = None, progress: bool = False
) -> FeatureSet:
    """Extracts the features of every image of a set, and their statistics.

    Args:
      batches: images of the set.
      extractor: feature network of a protocol.
      keep: number of features that are kept for precision and recall; None: all.
      progress: shows a progress bar.

    Raises:
      UserError: fewer than two images can be read.
    """
    collector = FeatureCollector(extractor, batches.name, batches.batch_size, keep=keep, total=len(batches))
    with tqdm(total=len(batches), desc=pathlib.Path(batches.name).name, unit='image', disable=not progress) as bar:
        for batch in batches:
            if len(batch.images):
                collector.add(batch.images, batch.labels)
            bar.update(len(batch.images))
    if collector.count < 2:
        raise UserError(f'{batches.name} has {collector.count} readable images; at least 2 are needed')
    return collector.finish()


def open_reference(
    spec: str,
    extractor: FeatureExtractor,
    *,
    split: Split | None = None,
    data_dir: str | None = None,
    image_size: int | None = None,
    batch_size: int = 64,
    progress: bool = False,
) -> FeatureSet:
    """Opens a reference set of real images: statistics from a file, or extracted from images.

    Args:
      spec: an `.npz` file of statistics (ours, ADM's or pytorch-fid's), or what `open_byte_batches` takes.
      extractor: feature network of a protocol, for everything that the file does not hold.
      split: split of a source.
      data_dir: folder of the TFDS datasets.
      image_size: side of the centre crops.
      batch_size: images at a time.
      progress: shows progress bars.

    Raises:
      UserError: there is nothing of the kind, or the statistics are of another protocol.
    """
    if not has_statistics(spec):
        batches = open_byte_batches(spec, split=split, data_dir=data_dir, image_size=image_size, batch_size=batch_size)
        return extract_features(batches, extractor, keep=KEPT, progress=progress)
    found = load_statistics(spec)
    protocol = extractor.protocol
    if found.protocol != protocol.name:
        raise UserError(
            f'{spec} holds statistics of protocol {found.protocol!r}, which cannot be used for {protocol.name!r}'
        )
    if found.features is None and protocol.neighbours and has_images(spec):
        # ADM's references hold statistics of the whole set, and some of its images for precision and recall.
        some = extract_features(SampleFile(pathlib.Path(spec), batch_size), extractor, progress=progress)
        return dataclasses.replace(found, features=some.features)
    return found
