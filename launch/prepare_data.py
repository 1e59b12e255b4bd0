"""Writes a folder or .zip file of images as a TFDS dataset.

    python launch/prepare_data.py --source=DIR_or_zip --name=my_images [--data_dir=~/tensorflow_datasets]

Afterwards `tfds:my_images` is a data source like any other.  Images that cannot be decoded are skipped and listed.
"""

from absl import flags, logging

from vistok import cli

_SOURCE = flags.DEFINE_string('source', None, 'Folder or .zip file of images.', required=True)
_NAME = flags.DEFINE_string('name', None, 'Name of the dataset: small letters, digits, underscores.', required=True)
_DATA_DIR = flags.DEFINE_string(
    'data_dir', None, 'Where datasets are kept; default: $TFDS_DATA_DIR or ~/tensorflow_datasets.'
)
_LISTED = 10  # skipped images to name


def main() -> None:
    """Prepares the dataset and reports what was written."""
    from vistok.data.images.builder import prepare_dataset  # not above: --help needs no TFDS
    from vistok.data.images.tfds_source import default_data_dir

    logging.set_verbosity(logging.WARNING)  # TFDS reports each file it writes, across the progress bar
    prepared = prepare_dataset(_SOURCE.value, _NAME.value, _DATA_DIR.value or default_data_dir(), progress=True)
    counts = ', '.join(f'{count} {split}' for split, count in prepared.counts.items())
    print(f'wrote {prepared.path}: {counts} images, {len(prepared.class_names)} classes')
    if prepared.skipped:
        print(f'skipped, because they cannot be decoded: {len(prepared.skipped)}')
        for name, reason in list(prepared.skipped.items())[:_LISTED]:
            print(f'  {name}: {reason}')
        if len(prepared.skipped) > _LISTED:
            print(f'  ... and {len(prepared.skipped) - _LISTED} more')
    print(f'use it as tfds:{_NAME.value}')


if __name__ == '__main__':
    cli.run(main)
