"""The best checkpoint is the best one, whatever the metric, and a metric that cannot rank is refused at once."""

import numpy as np
import pytest

from vistok.errors import UserError
from vistok.experiments import training
from vistok.experiments.best_checkpoint import DIRECTIONS, best_mode, check_best_metric
from vistok.experiments.config_files import load_config
from vistok.experiments.run_folder import open_checkpoints
from vistok.training.state import TrainState

MEASURED = ('psnr', 'lpips', 'usage/vis', 'perplexity/vis', 'grain/2')


@pytest.mark.parametrize('metric', [*DIRECTIONS, 'usage/vis', 'perplexity/code', 'position/grain_2'])
def test_the_best_of_three_checkpoints_is_kept(metric, tmp_path):
    config = load_config('vqgan:tiny')
    config.train.keep, config.evaluate.best_metric = 1, metric
    x, values = np.zeros(1), [0.2, 0.5, 0.1]  # after steps 1, 2, 3
    with open_checkpoints(tmp_path, config) as checkpoints:
        for step, value in enumerate(values, 1):
            checkpoints.save(step, TrainState(x, {'a': x}, {'a': x}, {'a': x}), {}, {metric: value, 'other': 0.0})
        checkpoints.wait()
        higher = metric.split('/')[0] in ('accuracy', 'perplexity', 'psnr', 'ssim', 'usage')
        assert checkpoints.best_step() == (2 if higher else 3)


def test_a_metric_that_is_not_measured_or_has_no_better_end_is_refused_with_the_names_of_those_that_can_rank():
    check_best_metric('usage/vis', MEASURED)
    for metric in ('accuracy', 'grain/2', 'usage', 'psrn'):
        with pytest.raises(UserError, match=rf"{metric}'; this run .* by psnr, lpips, usage/vis, perplexity/vis$"):
            check_best_metric(metric, MEASURED)


def test_training_refuses_it_before_it_touches_the_folder(tmp_path):
    config = load_config('vqgan:tiny')
    config.train.devices, config.evaluate.best_metric = 1, 'accuracy'
    with pytest.raises(UserError, match=r"best_metric is 'accuracy'; .* by psnr, ssim, stand_in_perceptual, usage/"):
        training.run_training(config, tmp_path / 'run', show_progress=False)
    assert not (tmp_path / 'run').exists()


def test_old_runs_with_other_metrics_can_still_be_read():
    assert best_mode('grain/2') == 'min'
