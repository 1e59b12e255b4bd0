"""Training step in a global view of the batch; `parallel.py` decides how it runs on devices."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from vistok.collectives import replica_mean
from vistok.training.state import Batch, Objective, StepReport, TrainState


def player_gradients(
    objective: Objective,
    params: dict[str, Any],
    model_state: Any,
    frozen: Any,
    batch: Batch,
    rng: jax.Array,
    step: jax.Array,
    players: tuple[str, ...] | None = None,
) -> tuple[dict[str, Any], Any, StepReport]:
    """Computes the gradient of each player's loss over that player's own parameters.

    One forward pass and one `vjp` serve all `players` (None: those of the objective): pulling back a one-hot cotangent
    gives the gradient of one loss, and what belongs to other players' parameters is dead code that the compiler drops.
    """

    def losses_of(params: dict[str, Any]) -> tuple[dict[str, jax.Array], tuple[Any, StepReport]]:
        return objective.losses(params, model_state, frozen, batch, rng, step)

    losses, pull_back, (new_model_state, report) = jax.vjp(losses_of, params, has_aux=True)
    grads = {}
    for player in objective.players if players is None else players:
        one_hot = {name: jnp.full_like(loss, float(name == player)) for name, loss in losses.items()}
        (grads_of_all,) = pull_back(one_hot)
        grads[player] = grads_of_all[player]
    metrics = report.metrics | {f'loss/{player}': loss for player, loss in losses.items()}
    return grads, new_model_state, dataclasses.replace(report, metrics=metrics)


@dataclasses.dataclass(frozen=True, eq=False)  # compared and hashed by identity: jit takes it as a function
class TrainStep:
    """Training step: a function from state and batch to the next state and a report.

    Attributes:
      objective: objective with the loss of each player.
      optimizers: one for each player.
      seed: seed of the random numbers inside the step; they depend on the seed and the step number only.
      ema_decay: decay of the moving average of the first player's parameters; None keeps no average.
      accumulate: number of parts that a batch is cut into; gradients are averaged, statistics are per part.
      fresh_passes: whether each player after the first learns from a forward pass of its own, which sees the parameters
        and the model state that the players before it have left and draws other random numbers; otherwise all learn
        from one pass.
    """

    objective: Objective
    optimizers: Mapping[str, optax.GradientTransformation]
    seed: int = 0
    ema_decay: float | None = None
    accumulate: int = 1
    fresh_passes: bool = False

    def init(self, rng: jax.Array, batch: Batch) -> TrainState:
        """Initializes a training state; `batch` is read for its shapes only."""
        params, model_state = self.objective.init(rng, batch)
        opt_state = {player: self.optimizers[player].init(params[player]) for player in self.objective.players}
        # A copy: donating one buffer under two names is an error.
        ema = jax.tree.map(jnp.copy, params[self.objective.players[0]]) if self.ema_decay is not None else None
        return TrainState(jnp.zeros((), jnp.int32), params, opt_state, model_state, ema)

    def __call__(self, state: TrainState, frozen: Any, batch: Batch) -> tuple[TrainState, StepReport]:
        """Updates every player once, all from one forward pass or each from its own."""
        rng = jax.random.fold_in(jax.random.key(self.seed), state.step)
        first, *others = self.objective.players
        new_state, report = self._pass(state, frozen, batch, rng, (first,) if self.fresh_passes else (first, *others))
        metrics = dict(report.metrics)
        for index, player in enumerate(others if self.fresh_passes else ()):
            own_rng = jax.random.fold_in(rng, self.accumulate + index)  # parts have the smaller numbers
            new_state, own = self._pass(new_state, frozen, batch, own_rng, (player,))
            # The other metrics stay those of the first pass: without a reader, they are not computed again.
            metrics |= {name: own.metrics[name] for name in (f'loss/{player}', f'gradient_norm/{player}')}
        ema = state.ema
        if self.ema_decay is not None:
            ema = optax.incremental_update(new_state.params[first], state.ema, 1.0 - self.ema_decay)
        finite = [jnp.isfinite(v) for name, v in metrics.items() if name.startswith(('loss/', 'gradient_norm/'))]
        metrics['finite'] = jnp.stack(finite).all().astype(jnp.float32)
        new_state = dataclasses.replace(new_state, step=state.step + 1, ema=ema)
        return new_state, dataclasses.replace(report, metrics=metrics)

    def _pass(
        self, state: TrainState, frozen: Any, batch: Batch, rng: jax.Array, players: tuple[str, ...]
    ) -> tuple[TrainState, StepReport]:
        """Updates some players and the model state from one forward pass."""
        grads, model_state, report = self._gradients(state, frozen, batch, rng, players)
        grads = replica_mean(grads)
        metrics = replica_mean(report.metrics)
        params, opt_state = dict(state.params), dict(state.opt_state)
        for player in players:
            updates, opt_state[player] = self.optimizers[player].update(
                grads[player], state.opt_state[player], state.params[player]
            )
            params[player] = optax.apply_updates(state.params[player], updates)
            metrics[f'gradient_norm/{player}'] = optax.tree.norm(grads[player])
        new_state = dataclasses.replace(state, params=params, opt_state=opt_state, model_state=model_state)
        return new_state, dataclasses.replace(report, metrics=metrics)

    def _gradients(
        self, state: TrainState, frozen: Any, batch: Batch, rng: jax.Array, players: tuple[str, ...]
    ) -> tuple[dict[str, Any], Any, StepReport]:
        def gradients(model_state: Any, part: Batch, rng: jax.Array) -> tuple[dict[str, Any], Any, StepReport]:
            return player_gradients(self.objective, state.params, model_state, frozen, part, rng, state.step, players)

        if self.accumulate == 1:
            return gradients(state.model_state, batch, rng)

        def part(carry: tuple[Any, Any, StepReport], scanned: tuple[Batch, jax.Array]) -> tuple[Any, None]:
            grads, model_state, total = carry
            piece, index = scanned
            new_grads, model_state, report = gradients(model_state, piece, jax.random.fold_in(rng, index))
            return (jax.tree.map(jnp.add, grads, new_grads), model_state, jax.tree.map(jnp.add, total, report)), None

        n = self.accumulate
        # Every n-th sample makes one part, so that the parts keep the sharding of the batch axis.
        pieces = jax.tree.map(lambda x: x.reshape(x.shape[0] // n, n, *x.shape[1:]).swapaxes(0, 1), dict(batch))
        first = jax.tree.map(lambda x: x[0], pieces)
        shapes = jax.eval_shape(lambda: gradients(state.model_state, first, rng))
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), (shapes[0], shapes[2]))
        (grads, model_state, report), _ = jax.lax.scan(
            part, (zeros[0], state.model_state, zeros[1]), (pieces, jnp.arange(n))
        )
        mean = lambda tree: jax.tree.map(lambda x: x / n, tree)  # noqa: E731
        return mean(grads), model_state, dataclasses.replace(report, metrics=mean(report.metrics))
