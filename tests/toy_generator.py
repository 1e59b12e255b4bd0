"""A generator small enough to check by hand: a table of logits for every class and position."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from vistok.generators.generator import Generator, GeneratorLoss
from vistok.tokenizers.tokenizer import Tokens


@dataclasses.dataclass(frozen=True)
class Table(Generator):
    """Ids are drawn position by position from p(id | class, position); dropped conditions have a row of their own."""

    condition_dropout: float = 0.1
    dtype: object = jnp.float32

    def init(self, rng):
        shape = (self.num_classes + 1, *self.grid, len(self.spec.codebook_sizes), self.spec.codebook_sizes[0])
        return {'params': {'table': 0.01 * jax.random.normal(rng, shape)}, 'frozen': {'scale': jnp.ones(())}}

    def loss(self, variables, tokens, cond, rng, *, train):
        if train:
            cond = jnp.where(jax.random.bernoulli(rng, self.condition_dropout, cond.shape), self.num_classes, cond)
        logits = variables['frozen']['scale'] * variables['params']['table'][cond]
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), tokens.ids[..., None], axis=-1)
        loss = -chosen.mean()
        return GeneratorLoss(loss, {'bits_per_token': loss / math.log(2)})

    def sample(self, variables, cond, rng, sample_ids, config):
        keys = jax.vmap(lambda i: jax.random.fold_in(rng, i))(sample_ids)
        draw = jax.vmap(lambda key, logits: jax.random.categorical(key, logits))
        return Tokens(draw(keys, variables['params']['table'][cond] / config.temperature).astype(jnp.int32))
