"""Sampling of images from a trained generator.

    vistok sample --model=runs/llamagen --out=digits.png
    vistok sample --model=runs/llamagen --classes=3,seven --per_class=100 --out=threes_and_sevens/
    vistok sample --model=runs/llamagen --count=50000 --out=samples.npz --guidance_scale=2
    vistok sample --model=runs/llamagen-text --prompts=prompts.txt --out=prompts.png
    vistok sample --model=gpt.safetensors --tokenizer=vq.safetensors --classes=207 --out=dogs.png

`--prompts` is a text file, one prompt a line, or a folder that `vistok text_features` made of one; a text file is read
by the encoder that the generator was trained with.  `--out` may be given several times: a .png file is one image with
a row for each class or prompt; an .npz file is what evaluators of the ADM kind read (uint8 `arr_0`, `labels`), with
`settings` for `vistok evaluate`; a folder receives a file for each sample.  A sample follows from --seed, its number
and its class or prompt, not from the batch size.  Killed at any moment, the same command goes on.
"""

import vistok
from vistok.launch.shared import command
from vistok.launch.shared.flags import Flags

FLAGS = Flags(__doc__)
_MODEL = FLAGS.model('Generator: a run folder, one of its checkpoints, or a weights file.', old=['run'])
_TOKENIZER = FLAGS.string('tokenizer', None, 'Tokenizer of a generator from a weights file: a run folder or a file.')
_CHECKPOINT = FLAGS.checkpoint()
_OUT = FLAGS.strings(
    'out',
    [],
    'What to write: a .png file with samples by class, an .npz file, a folder; several are joined by commas.',
    old={'folder': '{}/'.format, 'npz': str},
)
_CLASSES = FLAGS.strings('classes', ['all'], "Numbers or names of classes, or 'all'.")
_PER_CLASS = FLAGS.integer('per_class', 8, 'Number of samples of each class.')
_PROMPTS = FLAGS.string('prompts', None, 'Prompts of generators on text: a text file, or features of one.')
_COUNT = FLAGS.integer('count', None, 'Number of samples in all, each of a class drawn at random.')
_SEED = FLAGS.seed()
_BATCH_SIZE = FLAGS.integer('batch_size', 64, 'Number of samples that are drawn at a time.')
_OPTIONS = {
    'temperature': FLAGS.number('temperature', None, 'Number that divides the logits; 0 takes the most likely id.'),
    'top_k': FLAGS.integer('top_k', None, 'Number of most likely ids that are drawn from; 0 draws from all.'),
    'top_p': FLAGS.number('top_p', None, 'Probability of the most likely ids that are drawn from; 1 draws from all.'),
    'guidance_scale': FLAGS.number('guidance_scale', None, 'Scale of classifier-free guidance; 1 switches it off.'),
    'guidance_schedule': FLAGS.choice(
        'guidance_schedule', None, ['constant', 'interval', 'power_cosine'], 'Change of guidance over positions.'
    ),
    'guidance_interval': FLAGS.integer(
        'guidance_interval',
        None,
        "Number of positions with guidance, for interval: 2 more than LlamaGen's cfg_interval.",
    ),
    'guidance_power': FLAGS.number('guidance_power', None, 'Exponent of the schedule power_cosine.'),
    'steps': FLAGS.integer('steps', None, 'Number of steps that refine all positions at once; 0: as trained.'),
}  # what is not given is as in the config of the run
_SECOND = {
    'temperature': FLAGS.number(
        'second_temperature', None, 'As --temperature, for the second kind of ids (CTF, DQ-Transformer).'
    ),
    'top_k': FLAGS.integer('second_top_k', None, 'As --top_k, for the second kind of ids.'),
    'top_p': FLAGS.number('second_top_p', None, 'As --top_p, for the second kind of ids.'),
    'guidance_scale': FLAGS.number('second_guidance_scale', None, 'As --guidance_scale, for the second kind of ids.'),
}


def main() -> None:
    """Draws what is missing and writes the files."""
    path = FLAGS.require(_MODEL, 'name a generator, for example --model=runs/llamagen')
    out = FLAGS.require(_OUT, 'name what to write: --out=FILE.png, --out=FOLDER/ or --out=FILE.npz')
    said = vistok.sample_files(
        vistok.load_generator(path, _CHECKPOINT.value, tokenizer=_TOKENIZER.value),
        out,
        classes=_CLASSES.value,
        per_class=_PER_CLASS.value,
        count=_COUNT.value,
        prompts=_PROMPTS.value,
        seed=_SEED.value,
        batch_size=_BATCH_SIZE.value,
        progress=True,
        second={name: flag.value for name, flag in _SECOND.items() if flag.value is not None},
        **{name: flag.value for name, flag in _OPTIONS.items() if flag.value is not None},
    )
    print(said)


if __name__ == '__main__':
    command.run(main, FLAGS)
