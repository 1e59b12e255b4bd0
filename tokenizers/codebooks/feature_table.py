"""Tables that projected codebooks start from: made of patch features, kept in files, put into a training state.

Zhu et al., "Scaling the Codebook Size of VQGAN to 100,000 with a Utilization Rate of 99%" (2024): the patch features of
a frozen network, averaged over squares of patches, are clustered, within each class or all together.
"""

import dataclasses
import hashlib
import pathlib
import tempfile
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from vistok.clustering.kmeans import kmeans
from vistok.data.images.pipeline import Batch
from vistok.errors import UserError
from vistok.pretrained.frozen_network import FrozenNetwork, load_frozen_network
from vistok.training.initialization import InitialData
from vistok.weights.files import is_ours, load_variables, read_tensor, save_variables

STAND_IN = 'stand_in'
_FILE = 'codebook_table'
_LARGEST_IN_MEMORY = 2**31  # bytes of features; more are kept in a temporary file
_FEATURES_PER_ROW = 16  # of the table that a run makes for itself
_BATCH = 64


@dataclasses.dataclass(frozen=True)
class CodebookTable:
    """Rows for a projected codebook.

    Attributes:
      rows: float32.
      about: where they come from: features, images, seed, sizes, digest.
    """

    rows: Float[np.ndarray, 'K width']
    about: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class PatchFeatures:
    """Features of many images.

    Attributes:
      vectors: p of each image, float16.
      labels: class of each image.
    """

    vectors: Float[np.ndarray, 'n p width']
    labels: Int[np.ndarray, ' n']


def patch_features(
    network: FrozenNetwork, batches: Iterable[Batch], count: int, pool: int, folder: str | None = None
) -> PatchFeatures:
    """Computes patch features of images, averaged over squares of `pool` x `pool` patches.

    Args:
      network: gives a grid of features, `[b, h, w, width]`.
      batches: 'image' and 'label', and 'mask' where some images do not count.
      count: images at most.
      pool: side of a square; grids with smaller sides are averaged whole.
      folder: for the temporary file if the features are more than memory should hold; None: the system's.
    """

    @jax.jit
    def features(variables: Any, images: Float[Array, 'b h w 3']) -> Float[Array, 'b p width']:
        grid: Any = network.module.apply(variables, images)
        return _pool(grid, pool)

    vectors, labels, done = None, np.zeros(count, np.int32), 0
    for batch in batches:
        found = np.asarray(features(network.variables, jnp.asarray(batch['image'])))
        real = batch.get('mask', np.ones(len(found), bool))
        found, of = found[real][: count - done], batch['label'][real][: count - done]
        if vectors is None:
            vectors = _storage((count, *found.shape[1:]), folder)
        vectors[done : done + len(found)] = found
        labels[done : done + len(found)] = of
        done += len(found)
        if done == count:
            break
    if vectors is None or not done:
        raise UserError('there are no images to make features of')
    return PatchFeatures(vectors[:done], labels[:done])


def _pool(grid: Float[Array, 'b h w width'], pool: int) -> Float[Array, 'b p width']:
    b, h, w, width = grid.shape
    side = min(pool, h, w)
    grid = grid[:, : h - h % side, : w - w % side]
    squares = grid.reshape(b, h // side, side, w // side, side, width)
    return squares.mean((2, 4)).reshape(b, -1, width)


def _storage(shape: tuple[int, ...], folder: str | None) -> np.ndarray:
    if 2 * np.prod(shape, dtype=np.int64) <= _LARGEST_IN_MEMORY:
        return np.zeros(shape, np.float16)
    with tempfile.TemporaryFile(dir=folder) as file:  # closed and without a name it lives on as long as the map does
        return np.memmap(file, np.float16, 'w+', shape=shape)


def cluster_features(
    features: PatchFeatures,
    size: int,
    *,
    per_class: bool = False,
    parts: int = 1,
    seed: int = 0,
    iterations: int = 100,
    on_iteration: Callable[[], None] = lambda: None,
) -> Float[np.ndarray, 'K width']:
    """Computes centroids of patch features by k-means.

    Args:
      features: what is clustered.
      size: number of centroids.
      per_class: equally many of each class, in the order of the labels, instead of all together.
      parts: equally many of each of so many random parts of the images: as many times less work.
      seed: of parts and clusters.
      iterations: updates of the centroids at most.
      on_iteration: called after each pass over a group.

    Raises:
      UserError: the size is no multiple of the number of groups, or there are too few features.
    """
    groups = np.array_split(np.random.default_rng(seed).permutation(len(features.labels)), parts)
    if per_class:
        groups = [np.flatnonzero(features.labels == label) for label in np.unique(features.labels)]
    if size % len(groups):
        kind = 'classes' if per_class else 'parts'
        raise UserError(f'{size} rows cannot be shared out equally among {len(groups)} {kind}')
    tables = []
    for i, images in enumerate(groups):
        # Images of a group may lie anywhere, so theirs are copied; all together are read where they are.
        chosen = features.vectors[images] if len(groups) > 1 else features.vectors
        vectors = chosen.reshape(-1, features.vectors.shape[-1])
        if len(vectors) < size // len(groups):
            raise UserError(
                f'{len(images)} images give {len(vectors)} features, too few for {size // len(groups)} rows'
            )
        clusters = kmeans(vectors, size // len(groups), seed=seed + i, iterations=iterations, on_iteration=on_iteration)
        tables.append(clusters.centroids)
    return np.concatenate(tables)


def gaussian_rows(size: int, width: int, seed: int) -> Float[np.ndarray, 'K width']:
    """Draws the rows of a random table: Gaussian, standard deviation width^-0.5."""
    rows = np.random.default_rng(seed).standard_normal((size, width), dtype=np.float32)
    return rows * np.float32(width**-0.5)


def write_table(path: pathlib.Path, table: CodebookTable) -> None:
    """Writes a table with its origin and the digest of its rows, at once or not at all."""
    size, width = table.rows.shape
    about = table.about | {'size': str(size), 'width': str(width), 'sha256': _digest(table.rows)}
    save_variables(path, _FILE, {'frozen': {'codewords': table.rows}}, about)


def read_table(path: pathlib.Path) -> CodebookTable:
    """Reads a table that `write_table` wrote, or a bare tensor such as the published `codebook-100K.pth`.

    Raises:
      UserError: the file is missing, damaged, or holds something else.
    """
    if path.suffix in ('.pth', '.pt'):
        rows = read_tensor(path).astype(np.float32)
        if rows.ndim != 2:
            raise UserError(f'{path} holds no table: its tensor has the shape {rows.shape}')
        return CodebookTable(rows, {'file': path.name})
    if not path.is_file():
        raise UserError(f'there is no table {path}: make one with launch/build_codebook.py')
    if not is_ours(path) or (saved := load_variables(path)).name != _FILE:
        raise UserError(f'{path} is no table that launch/build_codebook.py wrote')
    rows = saved.variables['frozen']['codewords']
    if _digest(rows) != saved.about['sha256']:
        raise UserError(f'{path} is damaged: its rows have another digest than it says')
    return CodebookTable(rows, saved.about)


def _digest(rows: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(rows).data).hexdigest()


@dataclasses.dataclass(frozen=True)
class FeatureTable:
    """Initializer that fills the table of a projected codebook with clustered patch features.

    Its setting names the table: '' keeps the random one, 'stand_in' makes one of the stand-in network's features of the
    training images, anything else is a file that `read_table` reads.

    Attributes:
      path: modules and name of the table inside the tokenizer.
    """

    path: str
    option: str = 'table'

    def arrays(self, model: Any, settings: str, data: InitialData) -> dict[str, np.ndarray]:
        """Returns the table's rows, in 'params' if the model trains them, else in 'frozen'.

        Raises:
          UserError: there is no such table, or it has another shape than the model's.
        """
        if not settings:
            return {}
        needed = (model.codebook_size, model.table_width)
        table = _cluster_training_views(data, needed[0]) if settings == STAND_IN else read_table(pathlib.Path(settings))
        if table.rows.shape != needed:
            raise UserError(
                f'config.table: {settings} has {table.rows.shape[0]} rows of width {table.rows.shape[1]}, config.model '
                f'wants {needed[0]} of width {needed[1]}'
            )
        return {f'{"params" if model.table_trained else "frozen"}/{self.path}': table.rows}


def _cluster_training_views(data: InitialData, size: int) -> CodebookTable:
    """Makes the paper's table at a small scale: features of the stand-in on training views, clustered together."""
    pool = 4
    network = load_frozen_network('stand_in_patches')
    per_image = max(1, data.image_size // 8 // pool) ** 2
    views = -(-_FEATURES_PER_ROW * size // (per_image * _BATCH)) * _BATCH
    training_views: Any = data.training_views(_BATCH)
    features = patch_features(network, training_views, views, pool)
    rows = cluster_features(features, size, seed=data.seed, iterations=20)
    return CodebookTable(rows, {'features': network.name, 'pictures': f'{views} training views'})
