"""Choice of a run's best checkpoint by one metric of its evaluation."""

from collections.abc import Iterable

from vistok.errors import UserError

_HIGHER = ('accuracy', 'perplexity', 'psnr', 'ssim', 'usage')  # perplexity is that of the codeword frequencies
_LOWER = (
    'bits_per_token',
    'clean_cross_entropy',
    'coarse',
    'content',
    'fine',
    'hidden_bits',
    'loss',
    'lpips',
    'position',
    'stand_in_perceptual',
)
DIRECTIONS = {**dict.fromkeys(_HIGHER, 'max'), **dict.fromkeys(_LOWER, 'min')}
"""Direction in which a metric is better, by its name or, of 'usage/vis' and the like, by the part before the slash.

'predictor_bits' (of a network that is not trained), shares of grains and numbers of images have none."""


def best_mode(metric: str) -> str:
    """Returns 'max' or 'min', whichever is better; 'min' for metrics that this version does not know."""
    return DIRECTIONS.get(metric.partition('/')[0], 'min')


def check_best_metric(metric: str, measured: Iterable[str]) -> None:
    """Checks that checkpoints can be ranked by a metric.

    Args:
      metric: `config.evaluate.best_metric`.
      measured: names of the metrics of the run's evaluation.

    Raises:
      UserError: the evaluation does not measure it, or none of its values is better than another.
    """
    known = [name for name in measured if name.partition('/')[0] in DIRECTIONS]
    if metric not in known:
        raise UserError(f'evaluate.best_metric is {metric!r}; this run can rank its checkpoints by {", ".join(known)}')
