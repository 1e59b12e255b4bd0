"""Tables for frozen codebooks (VQGAN-LC): patch features of images, averaged over squares of patches and clustered."""

import dataclasses
import hashlib
import os
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vistok.data.images.pipeline import evaluation_batches, train_batches
from vistok.errors import UserError
from vistok.experiments.model_inputs import Images, PathLike, check_new_weights, name_of_images, open_images
from vistok.pretrained.frozen_network import load_frozen_network
from vistok.tokenizers.codebooks.feature_table import (
    CodebookTable,
    cluster_features,
    gaussian_rows,
    patch_features,
    write_table,
)

FEATURES = ('clip_l14', 'clip_b16', 'dinov2_s', 'stand_in_patches', 'gaussian')


@dataclasses.dataclass(frozen=True)
class TableReport:
    """Table of a codebook.

    Attributes:
      table: its rows, and where they come from.
      skipped: number of images that could not be read.
      path: file that holds the table; None if none was written.
    """

    table: CodebookTable
    skipped: int
    path: Path | None

    def __str__(self) -> str:
        count, width = self.table.rows.shape
        lines = [f'{self.skipped} images could not be read and were left out'] if self.skipped else []
        start = '' if self.path is None else f'wrote {self.path}: '
        return '\n'.join([*lines, f'{start}{count} rows of width {width}, from {self.table.about["features"]}'])


def build_codebook(
    data: Images = 'tfds:imagenet2012',
    out: PathLike | None = None,
    *,
    features: str = 'clip_l14',
    weights: PathLike | None = None,
    size: int = 100_000,
    width: int = 768,
    per_class: bool = False,
    parts: int = 1,
    views: int = 0,
    pool: int = 4,
    iterations: int = 100,
    data_dir: str | None = None,
    image_size: int = 224,
    batch_size: int = 64,
    seed: int = 0,
    progress: bool = False,
) -> TableReport:
    """Clusters patch features of images into the table of a VQGAN-LC codebook.

    Zhu et al., "Scaling the Codebook Size of VQGAN to 100,000 with a Utilization Rate of 99%" (2024).

    Args:
      data: training images.
      out: `.safetensors` file for the table; None: none is written.
      features: network whose patch features are clustered, or 'gaussian' for random rows.
      weights: official weights of the network; the stand-in needs none.
      size: rows of the table.
      width: of the rows, for 'gaussian'.
      per_class: makes equally many rows of each class, instead of clustering all images together.
      parts: number of random parts of the images that are clustered each by itself, to save time.
      views: number of random views of the images; 0: the centre crop of each image once.
      pool: side, in patches, of the squares that features are averaged over.
      iterations: updates of the centroids at most.
      data_dir: folder of TFDS datasets.
      image_size: side of the crops in pixels.
      batch_size: images that pass through the network at a time.
      seed: of views and clusters.
      progress: shows progress bars.

    Raises:
      UserError: a number is out of its range, there are no such images, or there are too few features.
    """
    path = None if out is None else check_new_weights(out)
    if features not in FEATURES:
        raise UserError(f'features are one of {", ".join(FEATURES)}; got {features!r}')
    if size < 1 or pool < 1 or views < 0 or parts < 1:
        raise UserError(f'size, pool and parts are at least 1 and views 0; got {size}, {pool}, {parts}, {views}')
    if per_class and parts > 1:
        raise UserError(f'classes are groups of images already; got parts={parts} as well')
    skipped = 0
    if features == 'gaussian':
        table = CodebookTable(gaussian_rows(size, width, seed), {'features': 'gaussian', 'seed': str(seed)})
    else:
        about = {
            'features': features,
            'source': name_of_images(data),
            'image_size': str(image_size),
            'pool': str(pool),
            'per_class': str(per_class),
            'parts': str(parts),
            'seed': str(seed),
        }
        options: dict[str, Any] = {} if features.startswith('stand_in') else {'patches': True}
        network = load_frozen_network(features, weights, **options)
        if weights is not None:
            with open(weights, 'rb') as file:
                about['weights_sha256'] = hashlib.file_digest(file, 'sha256').hexdigest()
        source = open_images(data, 'train', data_dir=data_dir)
        shapes: dict[str, Any] = {'image_size': image_size, 'batch_size': batch_size}
        count = views or len(source)
        batches = (
            train_batches(source, **shapes, seed=seed, augmentation='zoom_crop')
            if views
            else evaluation_batches(source, **shapes)
        )
        folder = None if path is None else os.fspath(path.parent)
        steps = -(-count // batch_size)
        with tqdm(batches, desc='features', unit='batch', total=steps, disable=not progress) as shown:
            found = patch_features(network, shown, count, pool, folder)
        with tqdm(desc='clustering', unit='pass', disable=not progress) as passes:
            rows = cluster_features(
                found,
                size,
                per_class=per_class,
                parts=parts,
                seed=seed,
                iterations=iterations,
                on_iteration=passes.update,
            )
        skipped = len(batches.skipped)
        table = CodebookTable(rows, about | {'pictures': str(len(found.labels))})
    if path is not None:
        write_table(path, table)
    return TableReport(table, skipped, path)
