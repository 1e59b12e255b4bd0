"""Makes the table of a VQGAN-LC codebook: patch features of images, averaged over 4x4 patches, cluster_features.

    python launch/build_codebook.py --features=clip_l14 --weights=clip_l14.safetensors --source=tfds:imagenet2012 \\
        --size=100000 --per_class --output=codebook-100K.safetensors
    python launch/build_codebook.py --features=stand_in_patches --source=embedded:photographs --views=2048 --size=512 \\
        --image_size=64 --output=photographs.safetensors

The first is the published recipe: 100 clusters in each of the 1000 classes.  Without --per_class all images are
clustered together, which needs no labels; --parts=64 clusters 64 random parts of them, in a 64th of the time, as the
classes do in the published recipe.  --config.table=FILE of configs/vqgan_lc.py reads the result.
"""

import pathlib
from typing import Any

from absl import flags

from vistok import cli

_FEATURES = flags.DEFINE_enum(
    'features',
    'clip_l14',
    ['clip_l14', 'clip_b16', 'dinov2_s', 'stand_in_patches', 'gaussian'],
    "Network whose patch features are cluster_features; 'gaussian' draws rows instead.",
)
_WEIGHTS = flags.DEFINE_string('weights', None, 'File of its official weights; the stand-in needs none.')
_SOURCE = flags.DEFINE_string('source', 'tfds:imagenet2012', 'Training images.')
_DATA_DIR = flags.DEFINE_string('data_dir', None, 'Where TFDS datasets lie.')
_VIEWS = flags.DEFINE_integer('views', 0, 'Random views of the images; 0: the centre crop of each image once.')
_IMAGE_SIZE = flags.DEFINE_integer('image_size', 224, 'Side of the crops in pixels.')
_BATCH_SIZE = flags.DEFINE_integer('batch_size', 64, 'Images at a time.')
_POOL = flags.DEFINE_integer('pool', 4, 'Side, in patches, of the squares that features are averaged over.')
_SIZE = flags.DEFINE_integer('size', 100_000, 'Rows of the table.')
_WIDTH = flags.DEFINE_integer('width', 768, "Width of the rows, for 'gaussian'.")
_PER_CLASS = flags.DEFINE_bool('per_class', False, 'Equally many rows of each class, instead of all together.')
_PARTS = flags.DEFINE_integer('parts', 1, 'Random parts of the images, each cluster_features by itself, to save time.')
_ITERATIONS = flags.DEFINE_integer('iterations', 100, 'Updates of the centroids at most.')
_SEED = flags.DEFINE_integer('seed', 0, 'Of views and clusters.')
_OUTPUT = flags.DEFINE_string('output', None, 'File to write, .safetensors.')


def main() -> None:
    """Makes the table and writes it."""
    from vistok.errors import UserError
    from vistok.tokenizers.codebooks.feature_table import CodebookTable, gaussian_rows, write_table

    output = pathlib.Path(_OUTPUT.value or '')
    if output.suffix != '.safetensors':
        raise UserError(f'name the file to write, --output=FILE.safetensors; got {_OUTPUT.value!r}')
    if not output.parent.is_dir():
        raise UserError(f'there is no folder {output.parent}')
    if _SIZE.value < 1 or _POOL.value < 1 or _VIEWS.value < 0 or _PARTS.value < 1:
        raise UserError(
            '--size, --pool and --parts are at least 1 and --views 0; '
            f'got {_SIZE.value}, {_POOL.value}, {_PARTS.value}, {_VIEWS.value}'
        )
    if _PER_CLASS.value and _PARTS.value > 1:
        raise UserError(f'--per_class groups the images already; got --parts={_PARTS.value} as well')
    if _FEATURES.value == 'gaussian':
        about = {'features': 'gaussian', 'seed': str(_SEED.value)}
        table = CodebookTable(gaussian_rows(_SIZE.value, _WIDTH.value, _SEED.value), about)
    else:
        table = _of_features(output)
    write_table(output, table)
    print(f'wrote {output}: {table.rows.shape[0]} rows of width {table.rows.shape[1]}, from {table.about["features"]}')


def _of_features(output: pathlib.Path) -> Any:
    """The table of features that the flags describe."""
    import hashlib

    from tqdm import tqdm

    from vistok.data.images.pipeline import evaluation_batches, open_source, train_batches
    from vistok.pretrained.frozen_network import load_frozen_network
    from vistok.tokenizers.codebooks.feature_table import CodebookTable, cluster_features, patch_features

    about = {
        'features': _FEATURES.value,
        'source': _SOURCE.value,
        'image_size': str(_IMAGE_SIZE.value),
        'pool': str(_POOL.value),
        'per_class': str(_PER_CLASS.value),
        'parts': str(_PARTS.value),
        'seed': str(_SEED.value),
    }
    options: dict[str, Any] = {} if _FEATURES.value.startswith('stand_in') else {'patches': True}
    network = load_frozen_network(_FEATURES.value, _WEIGHTS.value, **options)
    if _WEIGHTS.value:
        with open(_WEIGHTS.value, 'rb') as file:
            about['weights_sha256'] = hashlib.file_digest(file, 'sha256').hexdigest()
    source = open_source(_SOURCE.value, 'train', data_dir=_DATA_DIR.value)
    shapes: dict[str, Any] = {'image_size': _IMAGE_SIZE.value, 'batch_size': _BATCH_SIZE.value}
    count = _VIEWS.value or len(source)
    batches = (
        train_batches(source, **shapes, seed=_SEED.value, augmentation='zoom_crop')
        if _VIEWS.value
        else evaluation_batches(source, **shapes)
    )
    steps = -(-count // _BATCH_SIZE.value)
    shown = tqdm(batches, desc='features', unit='batch', total=steps)
    features = patch_features(network, shown, count, _POOL.value, str(output.parent))
    shown.close()
    with tqdm(desc='clustering', unit='pass') as passes:
        rows = cluster_features(
            features,
            _SIZE.value,
            per_class=_PER_CLASS.value,
            parts=_PARTS.value,
            seed=_SEED.value,
            iterations=_ITERATIONS.value,
            on_iteration=passes.update,
        )
    if batches.skipped:
        print(f'{len(batches.skipped)} images could not be read and were left out')
    return CodebookTable(rows, about | {'pictures': str(len(features.labels))})


if __name__ == '__main__':
    cli.run(main)
