"""Ranges of the numbers in a config, checked before anything is built or compiled."""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from vistok.errors import UserError


@dataclasses.dataclass(frozen=True)
class Range:
    """An interval of numbers.

    Attributes:
      least: its lower end.
      most: its upper end.
      without: ends that do not belong to it.
    """

    least: int | float
    most: int | float = math.inf
    without: tuple[int | float, ...] = (math.inf,)

    def holds(self, value: Any) -> bool:
        """Returns whether a value is a number in the interval, which NaN never is."""
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and self.least <= value <= self.most and value not in self.without

    def __str__(self) -> str:
        """Says which numbers are allowed."""
        low = f'above {self.least:g}' if self.least in self.without else f'at least {self.least:g}'
        if self.most == math.inf:
            return low
        return f'{low} and {"below" if self.most in self.without else "at most"} {self.most:.10g}'


POSITIVE, NOT_NEGATIVE, COUNT = Range(0, without=(0, math.inf)), Range(0), Range(1)
SHARE, DECAY = Range(0, 1), Range(0, 1, without=(1,))

RANGES: Mapping[str, Range] = {
    'data.image_size': COUNT,
    'data.threads': NOT_NEGATIVE,
    'evaluate.batch_size': COUNT,
    'evaluate.classes': NOT_NEGATIVE,
    'evaluate.every': COUNT,
    'evaluate.image_size': NOT_NEGATIVE,
    'evaluate.per_class': NOT_NEGATIVE,
    'evaluate.pictures': NOT_NEGATIVE,
    'model.attention_dropout': DECAY,
    'model.channel_multipliers': COUNT,
    'model.channels': COUNT,
    'model.codebook_decay': DECAY,
    'model.codebook_dim': COUNT,
    'model.codebook_size': COUNT,
    'model.codebook_weight': NOT_NEGATIVE,
    'model.commitment_weight': NOT_NEGATIVE,
    'model.dropout': DECAY,
    'model.latent_channels': COUNT,
    'model.res_blocks': NOT_NEGATIVE,
    'objective.adversarial_weight': NOT_NEGATIVE,
    'objective.discriminator_channels': COUNT,
    'objective.discriminator_layers': COUNT,
    'objective.discriminator_ramp': NOT_NEGATIVE,
    'objective.discriminator_start': NOT_NEGATIVE,
    'objective.discriminator_weight': NOT_NEGATIVE,
    'objective.lecam_weight': NOT_NEGATIVE,
    'objective.perceptual_weight': NOT_NEGATIVE,
    'objective.pixel_weight': NOT_NEGATIVE,
    'objective.representation_group': NOT_NEGATIVE,
    'objective.representation_temperature': POSITIVE,
    'objective.representation_weight': NOT_NEGATIVE,
    'optimizer.b1': DECAY,
    'optimizer.b2': DECAY,
    'optimizer.clip_norm': NOT_NEGATIVE,
    'optimizer.discriminator_rate': NOT_NEGATIVE,
    'optimizer.eps': NOT_NEGATIVE,
    'optimizer.final_fraction': SHARE,
    'optimizer.hold_fraction': SHARE,
    'optimizer.initial_fraction': SHARE,
    'optimizer.learning_rate': NOT_NEGATIVE,
    'optimizer.warmup_steps': NOT_NEGATIVE,
    'optimizer.weight_decay': NOT_NEGATIVE,
    'sample.guidance_interval': NOT_NEGATIVE,
    'sample.steps': NOT_NEGATIVE,
    'sample.top_k': NOT_NEGATIVE,
    'sample.top_p': Range(0, 1, without=(0,)),
    'train.accumulate': COUNT,
    'train.batch_size': COUNT,
    'train.checkpoint_every': COUNT,
    'train.devices': NOT_NEGATIVE,
    'train.ema_decay': DECAY,
    'train.keep': COUNT,
    'train.log_every': COUNT,
    'train.seed': Range(0, 2**32 - 1),
    'train.steps': NOT_NEGATIVE,
}
"""Allowed numbers by key of a config; of a tuple, each of its numbers.  All other numbers must be finite."""


def check_numbers(config: ConfigDict) -> None:
    """Checks every number of a config.

    Raises:
      UserError: one is out of its range, infinite or NaN.
    """
    for key, value in _numbers(config):
        allowed = RANGES.get(key)
        if allowed is not None and not allowed.holds(value):
            raise UserError(f'config.{key} is {value}; allowed is {allowed}')
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f'config.{key} is {value}; allowed are finite numbers')


def _numbers(block: ConfigDict, prefix: str = '') -> Iterator[tuple[str, Any]]:
    """Yields the numbers of a config by dotted key, and whatever stands where a number must be."""
    for name, value in block.items():
        key = prefix + name
        if isinstance(value, ConfigDict):
            yield from _numbers(value, f'{key}.')
            continue
        for part in value if isinstance(value, tuple | list) else (value,):
            if key in RANGES or (isinstance(part, int | float) and not isinstance(part, bool)):
                yield key, part
