"""Trains a tokenizer or a generator.

    python launch/train.py --config=configs/fqgan.py [--workdir=DIR] [--config.train.steps=…]

On several machines, run the same command on each: with --multiprocess on a TPU pod or under Slurm, elsewhere with
--coordinator=HOST:PORT --process_count=N --process_id=I.
"""

import pathlib
import sys

import jax
from absl import flags
from ml_collections import config_flags

from vistok import cli
from vistok.errors import UserError

_CONFIG = config_flags.DEFINE_config_file('config', lock_config=True)
_WORKDIR = flags.DEFINE_string('workdir', None, 'Run folder; an existing run is resumed.  Default: runs/<config>.')
_MULTIPROCESS = flags.DEFINE_bool('multiprocess', False, 'Join the processes that the environment describes.')
_COORDINATOR = flags.DEFINE_string('coordinator', None, 'HOST:PORT of process 0.')
_PROCESS_COUNT = flags.DEFINE_integer('process_count', None, 'Number of processes.')
_PROCESS_ID = flags.DEFINE_integer('process_id', None, 'Number of this process, from 0.')


def main() -> None:
    """Trains, and says in one line how it ended."""
    from vistok.experiments import training  # after the flags are checked: mistakes are answered at once

    if _CONFIG.value is None:
        raise UserError('name a config, for example --config=configs/fqgan.py')
    if _MULTIPROCESS.value or _COORDINATOR.value:
        jax.distributed.initialize(_COORDINATOR.value, _PROCESS_COUNT.value, _PROCESS_ID.value)
    workdir = pathlib.Path(_WORKDIR.value or default_workdir(cli.value_of('config', sys.argv) or ''))
    run = training.train(_CONFIG.value, workdir)
    if jax.process_index() == 0:
        print(run)


def default_workdir(config: str) -> pathlib.Path:
    """'runs/fqgan' for 'configs/fqgan.py', 'runs/fqgan-triple-cifar10' for 'configs/fqgan.py:triple,cifar10'."""
    path, _, variant = config.partition(':')
    return pathlib.Path('runs', '-'.join([pathlib.Path(path).stem, *filter(None, variant.split(','))]))


if __name__ == '__main__':
    cli.run(main)
