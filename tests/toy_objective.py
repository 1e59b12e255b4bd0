"""A two-player objective small enough to check by hand, with everything that can go wrong between runners."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vistok.collectives import replica_mean
from vistok.training.state import StepReport
from vistok.training.step import TrainStep

WIDTH = 128  # 128 x 128 weights are large enough to be split over a mesh


class ToyObjective:
    """A linear autoencoder against a linear critic; the critic's running mean is a batch statistic."""

    players = ('model', 'critic')
    frozen = {'scale': np.asarray(0.5, np.float32)}

    def init(self, rng: jax.Array, batch: Any) -> tuple[Any, Any]:
        down, up, critic = jax.random.split(rng, 3)
        width = batch['image'].shape[-1]
        params = {
            'model': {
                'mlp_in': {'kernel': jax.random.normal(down, (width, WIDTH)) * width**-0.5},
                'mlp_out': {'kernel': jax.random.normal(up, (WIDTH, width)) * WIDTH**-0.5},
            },
            'critic': {'kernel': jax.random.normal(critic, (width, 1)) * width**-0.5},
        }
        return params, {'mean': jnp.zeros((width,))}

    def losses(self, params: Any, model_state: Any, frozen: Any, batch: Any, rng: jax.Array, step: Any) -> Any:
        x = batch['image']
        y = jnp.tanh(x @ params['model']['mlp_in']['kernel']) @ params['model']['mlp_out']['kernel']
        centre = replica_mean(y.mean(0))
        real, fake = x @ params['critic']['kernel'], (y - centre) @ params['critic']['kernel']
        losses = {
            'model': jnp.mean((x - y) ** 2) - 0.1 * fake.mean() + 0.3 * jnp.sum(centre**2),
            'critic': frozen['scale'] * (jax.nn.softplus(-real).mean() + jax.nn.softplus(fake).mean()),
        }
        counts = jnp.zeros(4, jnp.int32).at[jnp.argmax(x[:, :4], axis=1)].add(1)
        axis = jax.lax.psum(counts, 'replica') if _under_pmap() else counts
        return losses, ({'mean': 0.9 * model_state['mean'] + 0.1 * centre}, StepReport({'y': y.mean()}, {'code': axis}))


def _under_pmap() -> bool:
    from vistok.collectives import replica_axis

    return replica_axis() is not None


class ToyData:
    """Endless batches that are a function of the position alone."""

    def __init__(self, batch_size: int = 16, width: int = WIDTH):
        self.batch_size, self.width, self.position = batch_size, width, 0

    def __next__(self) -> dict[str, np.ndarray]:
        generator = np.random.default_rng(self.position)
        self.position += 1
        return {'image': generator.standard_normal((self.batch_size, self.width), np.float32)}

    def state(self) -> dict[str, int]:
        return {'position': self.position}

    def restore(self, state: dict[str, int]) -> None:
        self.position = state['position']


def toy_step(**changes: Any) -> TrainStep:
    # Adam's usual eps makes an update out of the rounding of a gradient near zero; a larger one keeps runs comparable.
    optimizers = {
        name: optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2, eps=1e-3)) for name in ToyObjective.players
    }
    return TrainStep(**({'objective': ToyObjective(), 'optimizers': optimizers, 'ema_decay': 0.9} | changes))
