"""One process of a run of two; started by test_multiprocess.py: `two_processes.py PORT ID FOLDER`."""

import os
import pathlib
import sys

os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['NPROC'] = '16'
os.environ['XLA_FLAGS'] = '--xla_force_host_platform_device_count=2'

import jax
import numpy as np
from toy_objective import ToyData, toy_step

from vistok.training.checkpoint import Checkpoints
from vistok.training.loop import LoopOptions, train
from vistok.training.parallel import make_runner
from vistok.training.writers import create_writer

RUNNERS = {'data': {}, 'fsdp': {'data': 1, 'fsdp': 4}, 'pmap': {'kind': 'pmap'}}


class ShardedToyData(ToyData):
    """Every second sample."""

    def __next__(self):
        return {name: x[jax.process_index() :: jax.process_count()] for name, x in super().__next__().items()}


def main(port: str, process_id: str, folder: str) -> None:
    jax.distributed.initialize(f'127.0.0.1:{port}', 2, int(process_id))
    for name, arguments in RUNNERS.items():
        run = pathlib.Path(folder, name)
        step, runner = toy_step(), make_runner(**arguments)
        state = runner.init(step, 1, next(ToyData()))
        checkpoints = Checkpoints(run / 'checkpoints')
        writer = create_writer(run, primary=jax.process_index() == 0)
        rows = runner.compile_evaluation(lambda variables, batch: batch['image'][:, 0] * variables)

        def evaluate(state, step, rows=rows):
            batch = {'image': np.arange(4.0, dtype=np.float32).reshape(2, 2) + 4 * jax.process_index()}
            np.testing.assert_array_equal(rows(np.float32(2.0), batch), 2 * batch['image'][:, 0])
            return {'psnr': float(step)}

        train(
            train_step=step,
            runner=runner,
            state=state,
            data=ShardedToyData(),
            evaluate=evaluate,
            checkpoints=checkpoints,
            writer=writer,
            options=LoopOptions(steps=4, log_every=1, evaluate_every=4, checkpoint_every=2),
            show_progress=False,
        )
        checkpoints.close()
        writer.close()


if __name__ == '__main__':
    main(*sys.argv[1:])
