"""Export of a tokenizer or generator as one file, to be kept or passed on.

    vistok export --model=runs/control_gic --out=control_gic.safetensors
    vistok export --model=runs/control_gic --out=control_gic.safetensors --half      half the size

Every command that takes a run takes the file too; that of a generator with --tokenizer=FILE.  Values that are rounded
to float16 (--half) are other weights: tokens and bitstreams of one are not the other's.
"""

import vistok
from vistok.launch.shared import command
from vistok.launch.shared.flags import Flags

FLAGS = Flags(__doc__)
_MODEL = FLAGS.model('Tokenizer or generator: a run folder, one of its checkpoints, or a weights file.')
_OUT = FLAGS.out('The .safetensors file that receives the model.')
_OPTIONS = {
    'checkpoint': FLAGS.checkpoint(),
    'half': FLAGS.switch('half', 'Rounds float32 values to float16.'),
    'note': FLAGS.string('note', '', 'Text that the file holds about itself, such as data and licence.'),
    'force': FLAGS.force(),
}


def main() -> None:
    """Loads the model and writes it."""
    model = FLAGS.require(_MODEL, 'name a run and a file: --model=DIR --out=FILE.safetensors')
    out = FLAGS.require(_OUT, 'name a run and a file: --model=DIR --out=FILE.safetensors')
    print(vistok.export(model, out, **{name: flag.value for name, flag in _OPTIONS.items()}))


if __name__ == '__main__':
    command.run(main, FLAGS)
