"""Training of the stand-in network on the embedded images, by instance discrimination.

    vistok train_stand_in --out=stand_in.npz

The network replaces official weights of perceptual losses and teachers where there are none.  The settings of the file
that is part of the package are the defaults: five minutes on one CPU core.
"""

import vistok
from vistok.launch.shared import command
from vistok.launch.shared.flags import Flags

FLAGS = Flags(__doc__)
_OUT = FLAGS.out('The .npz file that receives the parameters; default: that of the package.', old=['output'])
_OPTIONS = {
    'steps': FLAGS.integer('steps', 500, 'Number of training steps.'),
    'batch_size': FLAGS.integer('batch_size', 48, 'Number of places per step, each seen twice.', old=['batch']),
    'seed': FLAGS.seed(),
}


def main() -> None:
    """Trains the network, measures it and writes its parameters."""
    options = {name: flag.value for name, flag in _OPTIONS.items()}
    out = {} if _OUT.value is None else {'out': _OUT.value}
    print(vistok.train_stand_in(**out, **options, progress=True))


if __name__ == '__main__':
    command.run(main, FLAGS)
