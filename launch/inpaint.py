"""Inpainting of images with a trained VQ-DDM, without any training for it.

    vistok inpaint --model=runs/vq_ddm --region=lower --out=completed.png
    vistok inpaint --model=runs/vq_ddm --source=/data/portraits --mask=hole.png --out=completed.png

`--mask` is an image that is white where something is hidden.  A .png file is a sheet with a row for each image: as it
is, as the model sees it, and its completions; a folder receives a file for each completion.
"""

import vistok
from vistok.launch.shared import command
from vistok.launch.shared.flags import Flags

FLAGS = Flags(__doc__)
_MODEL = FLAGS.model('Generator: a run folder of a VQ-DDM, one of its checkpoints, or a weights file.', old=['run'])
_TOKENIZER = FLAGS.string('tokenizer', None, 'Tokenizer of a generator from a weights file: a run folder or a file.')
_CHECKPOINT = FLAGS.checkpoint()
_OUT = FLAGS.strings(
    'out',
    [],
    'What to write: a .png file with a sheet, a folder for single completions; several are joined by commas.',
    old={'folder': '{}/'.format},
)
_SOURCE = FLAGS.string('source', None, "Images to complete; default: the run's own validation images.")
_DATA_DIR = FLAGS.data_dir()
_SPLIT = FLAGS.choice('split', 'validation', ['validation', 'train'], 'Split of the source.')
_IMAGES = FLAGS.integer(
    'images', 8, 'Number of images that are completed, the first ones of the source.', old=['count']
)
_MASK = FLAGS.string('mask', None, 'Image that is white where pixels are hidden.')
_REGION = FLAGS.string(
    'region', 'right', 'Region that is hidden where no mask is given: left, right, upper, lower, centre or border.'
)
_MARGIN = FLAGS.integer('margin', 0, 'Width, in cells, of the border of the hidden ones that is made anew as well.')
_COMPLETIONS = FLAGS.integer('completions', 4, 'Number of completions of each image.')
_LABELLED = FLAGS.switch('labelled', 'Tells the model the class of each image.')
_PASTE = FLAGS.switch('paste', 'Puts the pixels that are not hidden back into the completions.')
_REPEATS = FLAGS.integer('repeats', 1, 'Number of times that each step is taken: more fit better to what is known.')
_SEED = FLAGS.seed()
_OPTIONS = {
    'steps': FLAGS.integer('steps', None, 'Number of steps of sampling; 0 takes all.'),
    'temperature': FLAGS.number('temperature', None, 'Number that divides the logits; 0 takes the most likely id.'),
    'guidance_scale': FLAGS.number('guidance_scale', None, 'Scale of classifier-free guidance; 1 switches it off.'),
}  # what is not given is as in the config of the run


def main() -> None:
    """Completes images and writes the sheet."""
    message = 'name a VQ-DDM and where to write, for example --model=runs/vq_ddm --out=completed.png'
    path, out = FLAGS.require(_MODEL, message), FLAGS.require(_OUT, message)
    said = vistok.inpaint_files(
        vistok.load_generator(path, _CHECKPOINT.value, tokenizer=_TOKENIZER.value),
        out,
        _SOURCE.value or path,
        split=_SPLIT.value,
        data_dir=_DATA_DIR.value,
        count=_IMAGES.value,
        mask=_MASK.value,
        region=_REGION.value,
        completions=_COMPLETIONS.value,
        labelled=_LABELLED.value,
        seed=_SEED.value,
        progress=True,
        repeats=_REPEATS.value,
        margin=_MARGIN.value,
        paste=_PASTE.value,
        **{name: flag.value for name, flag in _OPTIONS.items() if flag.value is not None},
    )
    print(said)


if __name__ == '__main__':
    command.run(main, FLAGS)
