"""Features of captions or prompts, so that training a generator on text needs no text encoder.

    vistok text_features --source=images --out=runs/tokens-images/text
    vistok text_features --source=prompts.txt --out=prompts
    vistok text_features --source=images --out=trial --encoder=stand_in

`--source` is a folder of images with a `.txt` file of the same name beside each (one caption a line) or with a file
`captions.jsonl`, such a `.jsonl` file, or a `.txt` file with a prompt in each line.  `--out` is what
`--config.data.text_features` of `vistok train` and `--prompts` of `vistok sample` take.  Killed at any moment, the
same command goes on; several processes share the work with --process_count=N and --process_id=I.

The encoder is Flan-T5-XL (which needs transformers and PyTorch, the extra `text`), or any other T5 of the Hugging Face
hub or of a folder; `stand_in` is a fixed random vector for each word, for trials without weights.
"""

import vistok
from vistok.launch.shared import command
from vistok.launch.shared.flags import Flags

FLAGS = Flags(__doc__)
_SOURCE = FLAGS.string('source', None, 'Captions or prompts: a folder, a .jsonl file or a .txt file.')
_OUT = FLAGS.out('Folder that receives the features.')
_OPTIONS = {
    'encoder': FLAGS.string('encoder', 'google/flan-t5-xl', "Name or folder of a T5, or 'stand_in'."),
    'batch_size': FLAGS.integer('batch_size', 32, 'Number of texts that are encoded at a time.'),
    'part_size': FLAGS.integer('part_size', 512, 'Number of texts after which the work done is safe.'),
    'process_count': FLAGS.process_count(1),
    'process_id': FLAGS.process_id(0),
}


def main() -> None:
    """Encodes the texts that are missing."""
    message = 'name captions and a folder for their features: --source=images --out=runs/tokens/text'
    source, out = FLAGS.require(_SOURCE, message), FLAGS.require(_OUT, message)
    print(vistok.text_features(source, out, **{name: flag.value for name, flag in _OPTIONS.items()}, progress=True))


if __name__ == '__main__':
    command.run(main, FLAGS)
