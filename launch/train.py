"""Training of a tokenizer or a generator.

    vistok train --config=fqgan [--workdir=DIR] [--config.train.steps=...]

A config is one of the package, by name, or a Python file of yours; 'fqgan:triple,cifar10' names variants of it.  On
several machines, run the same command on each: with --multiprocess on a TPU pod or under Slurm, elsewhere with
--coordinator=HOST:PORT --process_count=N --process_id=I.
"""

import vistok
from vistok.launch.shared import command, processes
from vistok.launch.shared.flags import Flags

FLAGS = Flags(__doc__)
_CONFIG = FLAGS.config('Name or path of the config of the experiment; --config.key=value overrides a value of it.')
_WORKDIR = FLAGS.string('workdir', None, 'Run folder; an existing run is resumed; default: runs/<config>.')
_PROCESSES = processes.define(FLAGS)


def main() -> None:
    """Trains, and prints in one line how it ended."""
    config = FLAGS.require(_CONFIG, 'name a config, for example --config=fqgan')
    is_first = processes.join(_PROCESSES)
    run = vistok.train(config, _WORKDIR.value or _CONFIG.default_workdir)
    if is_first:
        print(run)


if __name__ == '__main__':
    command.run(main, FLAGS)
