"""Draws images from a trained generator.

    python launch/sample.py --run=runs/llamagen --out=digits.png
    python launch/sample.py --run=runs/llamagen --classes=3,seven --per_class=100 --folder=threes_and_sevens
    python launch/sample.py --run=runs/llamagen --count=50000 --npz=samples.npz --guidance_scale=2

    python launch/sample.py --run=runs/llamagen-text --prompts=prompts.txt --out=prompts.png

`--prompts` is a text file, one prompt a line, or a folder that launch/text_features.py made of one; a text file is
read by the encoder that the generator was trained with.  `--out` is one image with a row for each class or prompt;
`--folder` receives single files; `--npz` is the file that evaluators of the ADM kind read (uint8 `arr_0`, `labels`),
with `settings` for launch/evaluate.py.  A sample follows from --seed, its number and its class or prompt, not from the
batch size.  Killed at any moment, the same command goes on.
"""

from typing import Any

from absl import flags

from vistok import cli

_RUN = flags.DEFINE_string('run', None, 'Run folder of a generator, or one of its checkpoints.')
_WHICH = flags.DEFINE_string('checkpoint', 'latest', "'latest', 'best', or a step.")
_OUT = flags.DEFINE_string('out', None, 'PNG file: samples by class.')
_FOLDER = flags.DEFINE_string('folder', None, 'Folder: one PNG file for each sample.')
_NPZ = flags.DEFINE_string('npz', None, 'NPZ file: all samples and their classes.')
_CLASSES = flags.DEFINE_list('classes', ['all'], "Numbers or names of classes, or 'all'.")
_PER_CLASS = flags.DEFINE_integer('per_class', 8, 'Samples of each class.')
_PROMPTS = flags.DEFINE_string('prompts', None, 'For generators on text: a text file, or features of one.')
_COUNT = flags.DEFINE_integer('count', None, 'Instead: so many samples, each of a class drawn at random.')
_SEED = flags.DEFINE_integer('seed', 0, 'Of all randomness.')
_BATCH_SIZE = flags.DEFINE_integer('batch_size', 64, 'Samples that are drawn at a time.')
_OPTIONS = {
    'temperature': flags.DEFINE_float('temperature', None, 'Divides the logits; 0 takes the most likely.'),
    'top_k': flags.DEFINE_integer('top_k', None, 'Only the k most likely ids; 0: all.'),
    'top_p': flags.DEFINE_float('top_p', None, 'Only the most likely ids that make up this share; 1: all.'),
    'guidance_scale': flags.DEFINE_float('guidance_scale', None, 'Classifier-free guidance; 1: none.'),
    'guidance_schedule': flags.DEFINE_enum(
        'guidance_schedule', None, ['constant', 'interval', 'power_cosine'], 'How guidance changes over positions.'
    ),
    'guidance_interval': flags.DEFINE_integer('guidance_interval', None, 'Positions with guidance, for interval.'),
    'guidance_power': flags.DEFINE_float('guidance_power', None, 'Exponent, for power_cosine.'),
    'steps': flags.DEFINE_integer('steps', None, 'Steps of methods that refine all positions at once; 0: their own.'),
}  # what is not given is as in the config of the run
_SECOND = {
    'temperature': flags.DEFINE_float(
        'second_temperature',
        None,
        'As --temperature, for the second kind of ids (CTF: codewords, DQ-Transformer: positions).',
    ),
    'top_k': flags.DEFINE_integer('second_top_k', None, 'As --top_k, for the second kind of ids.'),
    'top_p': flags.DEFINE_float('second_top_p', None, 'As --top_p, for the second kind of ids.'),
    'guidance_scale': flags.DEFINE_float('second_guidance_scale', None, 'As --guidance_scale, for the same.'),
}


def main() -> None:
    """Draws what is missing and writes the files."""
    from vistok.errors import UserError
    from vistok.experiments.loading import load_generator
    from vistok.experiments.sampling import sample_files

    if _RUN.value is None:
        raise UserError('name a generator, for example --run=runs/llamagen')
    out = [value for value in (_OUT.value, _FOLDER.value, _NPZ.value) if value]
    options: dict[str, Any] = {name: flag.value for name, flag in _OPTIONS.items() if flag.value is not None}
    said = sample_files(
        load_generator(_RUN.value, _WHICH.value),
        out,
        classes=_CLASSES.value,
        per_class=_PER_CLASS.value,
        count=_COUNT.value,
        prompts=_PROMPTS.value,
        seed=_SEED.value,
        batch_size=_BATCH_SIZE.value,
        progress=True,
        second={name: flag.value for name, flag in _SECOND.items() if flag.value is not None},
        **options,
    )
    print(said)


if __name__ == '__main__':
    cli.run(main)
