"""Turns captions into features once, so that training a generator on text needs no text encoder.

    python launch/text_features.py --source=images --out=runs/tokens-images/text
    python launch/text_features.py --source=prompts.txt --out=prompts
    python launch/text_features.py --source=images --out=trial --encoder=stand_in

`--source` is a folder of images with a `.txt` file of the same name beside each (one caption a line) or with a file
`captions.jsonl`, such a `.jsonl` file, or a `.txt` file with a prompt in each line.  `--out` is what
`--config.data.text_features` of launch/train.py and `--prompts` of launch/sample.py take.  Killed at any moment, the
same command goes on; several processes share the work with --process_count=N and --process_id=I.

The encoder is Flan-T5-XL (pip install '.[text]'), or any other T5 of the Hugging Face hub or of a folder;
`stand_in` is a fixed random vector for each word, for trials without weights.
"""

import pathlib

from absl import flags

from vistok import cli

_SOURCE = flags.DEFINE_string('source', None, 'Captions or prompts: folder, .jsonl or .txt file.')
_OUT = flags.DEFINE_string('out', None, 'Folder for the features.')
_ENCODER = flags.DEFINE_string('encoder', 'google/flan-t5-xl', "Name or folder of a T5, or 'stand_in'.")
_BATCH_SIZE = flags.DEFINE_integer('batch_size', 32, 'Texts that are encoded at a time.')
_PART_SIZE = flags.DEFINE_integer('part_size', 512, 'Texts after which the work done is safe.')
_PROCESS_COUNT = flags.DEFINE_integer('process_count', 1, 'Among how many processes the work is divided.')
_PROCESS_ID = flags.DEFINE_integer('process_id', 0, 'Number of this process, from 0.')


def main() -> None:
    """Encodes what is missing."""
    from vistok.data.text.captions import read_captions
    from vistok.data.text.features import write_text_features
    from vistok.errors import UserError
    from vistok.pretrained.text_encoder import load_text_encoder

    if not _SOURCE.value or not _OUT.value:
        raise UserError('name captions and a folder for their features: --source=images --out=runs/tokens/text')
    if not 0 <= _PROCESS_ID.value < _PROCESS_COUNT.value:
        raise UserError(f'--process_id is {_PROCESS_ID.value}; it must be in 0 .. {_PROCESS_COUNT.value - 1}')
    if min(_BATCH_SIZE.value, _PART_SIZE.value) < 1:
        raise UserError(f'batch and part have at least one text, got {_BATCH_SIZE.value} and {_PART_SIZE.value}')
    captions = read_captions(_SOURCE.value)
    out = pathlib.Path(_OUT.value)
    encoder = load_text_encoder(_ENCODER.value)
    complete = write_text_features(
        out,
        captions,
        encoder,
        part_size=_PART_SIZE.value,
        batch_size=_BATCH_SIZE.value,
        process_id=_PROCESS_ID.value,
        process_count=_PROCESS_COUNT.value,
        progress=True,
    )
    if not complete:
        print(f'done; other processes still work on their parts of {out}')
        return
    texts = [text for several in captions.values() for text in several]
    empty = f', {texts.count("")} of them empty because there was none' if '' in texts else ''
    print(f'{out}: {len(texts)} texts{empty}, at most {encoder.tokens} vectors of {encoder.width} by {encoder.name}')


if __name__ == '__main__':
    cli.run(main)
