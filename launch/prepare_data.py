"""Preparation of a folder or .zip file of images as a TFDS dataset.

    vistok prepare_data --source=DIR_or_zip --name=my_images [--data_dir=~/tensorflow_datasets]

Afterwards `tfds:my_images` is a data source like any other.  Images that cannot be decoded are skipped and listed.
"""

import vistok
from vistok.launch.shared import command
from vistok.launch.shared.flags import Flags

FLAGS = Flags(__doc__)
_SOURCE = FLAGS.string('source', None, 'Folder or .zip file of images.')
_NAME = FLAGS.string('name', None, 'Name of the dataset: small letters, digits, underscores.')
_DATA_DIR = FLAGS.data_dir()


def main() -> None:
    """Prepares the dataset and prints what was written."""
    source = FLAGS.require(_SOURCE, 'name the images, --source=FOLDER')
    name = FLAGS.require(_NAME, 'name the dataset, for example --name=my_images')
    print(vistok.prepare_data(source, name, _DATA_DIR.value, progress=True))


if __name__ == '__main__':
    command.run(main, FLAGS)
