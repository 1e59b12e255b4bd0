"""Interface of experiments: what a training run needs to know of the model that it trains."""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from ml_collections import ConfigDict

from vistok.errors import UserError
from vistok.experiments import registry
from vistok.tokenizers.trained import TrainedTokenizer
from vistok.training.initialization import Arrays, InitialData
from vistok.training.loop import TrainData
from vistok.training.parallel import Runner
from vistok.training.state import Batch, Objective, TrainState
from vistok.training.writers import MetricWriter

Evaluation = Callable[[TrainState, int], dict[str, float]]
"""From a state and its step to metrics by name; called by the training loop when an evaluation is due."""


@runtime_checkable
class Experiment(Protocol):
    """Preparation and evaluation of one training run.

    Building one opens data and loads frozen networks, and refuses settings that do not fit; it writes nothing.

    Attributes:
      config: settings of the run, with everything filled in that is needed to build the model again.
      objective: losses and players.
      train_data: endless training batches.
      example: a batch of one row, which tells shapes.
    """

    config: ConfigDict
    objective: Objective
    train_data: TrainData
    example: Batch

    def companions(self) -> Mapping[str, TrainedTokenizer]:
        """Returns the tokenizers that are kept beside the run, by file name."""

    def initial_arrays(self) -> Arrays:
        """Computes the arrays that a fresh model starts from instead of random values; called at step 0 only."""

    def metrics(self) -> Sequence[str]:
        """Returns the names of the metrics of the evaluation, without evaluating."""

    def evaluation(self, runner: Runner, writer: MetricWriter, images: pathlib.Path) -> Evaluation:
        """Returns the evaluation on unseen data, which also writes images to a folder."""


def run_initializers(model: Any, config: ConfigDict, data: InitialData) -> Arrays:
    """Computes the initial arrays that a model's class asks for (`initializers`).

    Raises:
      UserError: a setting that does not fit, or one for an initializer that this model does not have.
    """
    initializers = getattr(model, 'initializers', ())
    own = {initializer.option for initializer in initializers}
    others = {i.option for row in registry.MODELS.values() for i in getattr(row.cls, 'initializers', ())} - own
    for option in sorted(others - {''}):
        if config.get(option):
            raise UserError(f'config.{option} is set, but a {type(model).__name__} has no place for it')
    arrays: dict[str, Any] = {}
    for initializer in initializers:
        arrays |= initializer.arrays(model, config.get(initializer.option), data)
    return arrays
