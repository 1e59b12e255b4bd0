"""Training state and objective: the data that a run carries from step to step, and the losses that it minimizes."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import flax.struct
import jax

Batch = Mapping[str, Any]  # 'image' [b, h, w, 3] float32 or 'ids' [b, h, w, k] int32, and 'label' [b] int32


@flax.struct.dataclass
class TrainState:
    """Training state of a run, which is all that a checkpoint holds apart from the position in the data.

    Attributes:
      step: number of finished steps.
      params: trained parameters, by player.
      opt_state: optimizer states, by player.
      model_state: variables that are not trained by gradients (running statistics, frozen tables).
      ema: exponential moving average of the first player's parameters, or None.
    """

    step: Any
    params: dict[str, Any]
    opt_state: dict[str, Any]
    model_state: Any
    ema: Any = None


@flax.struct.dataclass
class StepReport:
    """Metrics of a training step.

    Attributes:
      metrics: float32 scalars, by name.
      counts: occurrences of each codeword in the batch, int32 `[K]`, by sub-codebook.
    """

    metrics: dict[str, Any]
    counts: dict[str, Any] = flax.struct.field(default_factory=dict)


@runtime_checkable
class Objective(Protocol):
    """Interface of training objectives: the losses of one or several players (such as generator and discriminator).

    Each *player* has its own parameters and its own scalar loss; a loss is minimized over its own player's parameters
    only.  A generator is one player, a GAN tokenizer and its discriminator are two.

    An objective may also have a method `parameter_depths(params)`, which gives the depth of each parameter of a player
    in its network (see `vistok.training.optimizer.scale_by_depth`).

    Attributes:
      players: names of the players; the first one is the model, of which moving averages are kept.
      frozen: variables of frozen networks; passed to every step, never trained or saved.
    """

    @property
    def players(self) -> tuple[str, ...]:
        """Names of the players."""

    @property
    def frozen(self) -> Any:
        """Variables of the frozen networks."""

    def init(self, rng: jax.Array, batch: Batch) -> tuple[dict[str, Any], Any]:
        """Initializes the parameters of each player and the model state; `batch` is read for its shapes only."""

    def losses(
        self, params: dict[str, Any], model_state: Any, frozen: Any, batch: Batch, rng: jax.Array, step: jax.Array
    ) -> tuple[dict[str, jax.Array], tuple[Any, StepReport]]:
        """Computes one scalar loss per player, the new model state, and a report."""
