"""Thresholds of a router by information density, measured on the training images of a run or checked on them."""

import dataclasses
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vistok.errors import UserError
from vistok.tokenizers.routing.density import information_density, share_thresholds
from vistok.training.initialization import Arrays, InitialData

_VIEWS, _BATCH = 512, 64
_TOLERANCE = 0.15  # of a share; percentiles of other images of the same kind differ by less


@dataclasses.dataclass(frozen=True)
class ShareThresholds:
    """Initializer of the thresholds: percentiles of the densities of training crops where the config gives none.

    Attributes:
      path: of the thresholds among the model's variables.
    """

    path: str

    @property
    def option(self) -> str:
        """No settings besides the model's own."""
        return ''

    def arrays(self, model: Any, settings: Any, data: InitialData) -> Arrays:
        """Measures the thresholds, or returns nothing for a model that has its own, or needs none.

        Args:
          model: has `router`, `grain_ratios`, `entropy_thresholds`, `entropy_range` and `spec`.
          settings: not used.
          data: of the run.

        Raises:
          UserError: the model's own thresholds give the training images other shares than it is asked for.
        """
        del settings
        if model.router != 'entropy':
            return {}
        density = jax.jit(lambda x: information_density(x, model.spec.cell, model.entropy_range))
        batches = itertools.islice(data.training_views(_BATCH), _VIEWS // _BATCH)
        values = np.concatenate([np.asarray(density(jnp.asarray(batch['image']))).ravel() for batch in batches])
        measured = share_thresholds(values, model.grain_ratios)
        if not model.entropy_thresholds:
            return {self.path: np.asarray(measured, np.float32)}
        below = [0.0, *(float(np.mean(values <= edge)) for edge in model.entropy_thresholds), 1.0]
        shares = np.diff(below)
        if np.abs(shares - np.asarray(model.grain_ratios)).max() > _TOLERANCE:
            found, wanted = (', '.join(f'{share:.0%}' for share in x) for x in (shares, model.grain_ratios))
            raise UserError(
                f'model.entropy_thresholds {tuple(model.entropy_thresholds)} give grains {found} of the area of the '
                f'training images, model.grain_ratios ask for {wanted}; the thresholds for that are '
                f'{tuple(round(edge, 3) for edge in measured)}, and () measures them when a run begins'
            )
        return {}
