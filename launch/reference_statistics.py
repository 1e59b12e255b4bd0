"""Statistics of real images, measured once for many evaluations against them.

    vistok reference_statistics --source=tfds:imagenet2012 --split=train --image_size=256 --protocol=adm \\
        --inception=pt_inception-2015-12-05-6726825d.pth --out=imagenet256-train-adm.npz
    vistok reference_statistics --source=embedded:digits --split=validation --out=digits.npz

`vistok evaluate --reference=FILE` reads the result.  The file says what was measured, how, and with which network.
"""

import vistok
from vistok.launch.shared import command, metric_flags
from vistok.launch.shared.flags import Flags

FLAGS = Flags(__doc__)
_SOURCE = FLAGS.string('source', None, 'Images: a folder, an .npz file, or any source.')
_OUT = FLAGS.out('The .npz file that receives the statistics.')
_OPTIONS = {
    'split': FLAGS.choice(
        'split',
        None,
        ['validation', 'train'],
        'Split of the source; default: all of a folder, the training images of other sources.',
    ),
    'data_dir': FLAGS.data_dir(),
    'image_size': FLAGS.integer('image_size', None, 'Side of the centre crops; default: that of the first image.'),
    'batch_size': FLAGS.integer('batch_size', 64, 'Number of images that pass through the network at a time.'),
    'protocol': metric_flags.define_protocol(FLAGS),
    'inception': metric_flags.define_inception(FLAGS),
    'inception_sha256': metric_flags.define_inception_sha256(FLAGS),
}


def main() -> None:
    """Measures the images and writes the statistics."""
    message = 'name the images and the file, for example --source=embedded:digits --out=digits.npz'
    source, out = FLAGS.require(_SOURCE, message), FLAGS.require(_OUT, message)
    options = {name: flag.value for name, flag in _OPTIONS.items()}
    print(vistok.reference_statistics(source, out, **options, progress=True))


if __name__ == '__main__':
    command.run(main, FLAGS)
