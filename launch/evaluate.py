"""Evaluation of a tokenizer on images it has not seen, or of generated images against real ones.

    vistok evaluate --model=runs/fqgan
    vistok evaluate --model=runs/fqgan --source=/data/kodak --image_size=256 --lpips=/weights/lpips
    vistok evaluate --model=runs/fqgan --inception=pt_inception-2015-12-05-6726825d.pth
    vistok evaluate --samples=samples.npz --reference=VIRTUAL_imagenet256_labeled.npz --inception=...
    vistok evaluate --samples=samples.npz --reference=embedded:digits --reference_split=validation

Writes `evaluation.json` and `evaluation.png` into --out (default: the run folder).  `--samples` takes an .npz file or
a folder of images; its numbers go to `evaluation.json` in --out (default: the folder of the samples).
"""

import vistok
from vistok.launch.shared import command, metric_flags
from vistok.launch.shared.flags import Flags

FLAGS = Flags(__doc__)
_MODEL = FLAGS.model('Tokenizer: a run folder, one of its checkpoints, or a weights file.', old=['run'])
_SAMPLES = FLAGS.string('samples', None, 'Generated images: an .npz file or a folder.')
_SOURCE = FLAGS.string('source', None, "Images to reconstruct; default: the run's own validation images.")
_REFERENCE = FLAGS.string('reference', None, 'Real images: a file of statistics (.npz), a folder, or any source.')
_SETTINGS = FLAGS.strings('settings', [], 'How the samples were drawn, for the record: seed=0,guidance_scale=2.')
_BOTH = {
    'out': FLAGS.out('Folder that receives the results; default: the run folder, or that of the samples.'),
    'data_dir': FLAGS.data_dir(),
    'image_size': FLAGS.integer('image_size', None, 'Side of the centre crops in pixels; default: that of the run.'),
    'batch_size': FLAGS.integer('batch_size', 16, 'Number of images at a time.'),
    'against': FLAGS.string('against', None, 'An earlier evaluation.json to compare with.'),
    'protocol': metric_flags.define_protocol(FLAGS),
    'inception': metric_flags.define_inception(FLAGS),
    'inception_sha256': metric_flags.define_inception_sha256(FLAGS),
}
_OF_TOKENIZER = {
    'checkpoint': FLAGS.checkpoint(),
    'split': FLAGS.choice('split', 'validation', ['validation', 'train'], 'Split of the source that is reconstructed.'),
    'lpips': FLAGS.string('lpips', None, 'Official LPIPS weights: a folder, or one file with --lpips_sha256.'),
    'lpips_sha256': FLAGS.string('lpips_sha256', None, 'Digest that a single LPIPS file should have.'),
    'images': FLAGS.integer('images', 16, 'Number of images on the sheet; 0 leaves it out.', old=['pictures']),
}
_REFERENCE_SPLIT = FLAGS.choice(
    'reference_split',
    None,
    ['validation', 'train'],
    'Split of the reference; default: all of a folder, the training images of other sources.',
)


def main() -> None:
    """Evaluates and prints a table."""
    both = {name: flag.value for name, flag in _BOTH.items()}
    if (_MODEL.value is None) == (_SAMPLES.value is None):
        raise vistok.UserError('name what to evaluate, either --model=runs/fqgan or --samples=samples.npz')
    if _MODEL.value is not None:
        options = {name: flag.value for name, flag in _OF_TOKENIZER.items()}
        print(vistok.evaluate(_MODEL.value, _SOURCE.value, **both, **options, progress=True))
        return
    reference = FLAGS.require(
        _REFERENCE, 'name the real images by --reference, for example --reference=embedded:digits'
    )
    options = {'reference_split': _REFERENCE_SPLIT.value, 'settings': metric_flags.parse_settings(_SETTINGS.value)}
    print(vistok.evaluate_samples(_SAMPLES.value, reference, **both, **options, progress=True))


if __name__ == '__main__':
    command.run(main, FLAGS)
