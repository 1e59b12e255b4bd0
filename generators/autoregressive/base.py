"""Autoregressive generators: interface, likelihood loss and sampling.

The likelihood of a token grid is a product over positions in raster order, and over the sub-codebooks of each position.
"""

import abc
import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from vistok.errors import UserError
from vistok.generators.autoregressive.decoding import DecodeStep, sample_sequences
from vistok.generators.cross_entropy import CrossEntropy
from vistok.generators.generator import (
    Condition,
    Generator,
    GeneratorLoss,
    SampleConfig,
    Variables,
    draw_dropped,
    require_null_condition,
)
from vistok.generators.sampling import row_keys
from vistok.tokenizers.tokenizer import Tokens


@dataclasses.dataclass(frozen=True)
class Autoregressive(Generator):
    """Generator that predicts each id from the condition and the ids before it (a `StepDecoder`).

    Attributes:
      condition_dropout: share of training samples whose condition is dropped; 0 learns no null condition.
      label_smoothing: weight of the uniform distribution in the training targets.
    """

    condition_dropout: float = 0.1
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if self.spec.grains != (1,):
            raise UserError(f'{type(self).__name__} needs tokens of one grain, the tokenizer has {self.spec.grains}')

    @property
    def positions(self) -> int:
        """Number of positions of the grid."""
        return math.prod(self.grid)

    @property
    def ids_per_position(self) -> int:
        """Number of sub-codebooks."""
        return len(self.spec.codebook_sizes)

    @abc.abstractmethod
    def null_condition(self, variables: Variables, cond: Condition) -> Condition:
        """Returns a null condition for each row of `cond`."""

    @abc.abstractmethod
    def cross_entropies(
        self, variables: Variables, ids: Int[Array, 'b n k'], cond: Condition, rng: jax.Array, *, train: bool
    ) -> tuple[CrossEntropy, ...]:
        """Computes the cross-entropy of the first n positions for each sub-codebook.

        Args:
          variables: as `init` gives them.
          ids: targets, and (shifted by one position) inputs.
          cond: condition of each row.
          rng: random key of dropout.
          train: whether dropout is on.
        """

    @abc.abstractmethod
    def init_cache(self, variables: Variables, cond: Condition) -> Any:
        """Returns the input of the first step; it contains the condition."""

    @abc.abstractmethod
    def step(self, variables: Variables, cache: Any, ids: Int[Array, 'b k'], codebook_index: int = 0) -> DecodeStep:
        """Computes the logits of the next id.

        Args:
          variables: as `init` gives them.
          cache: of `init_cache` or of the step before.
          ids: for sub-codebook 0 those of the position before (none at the first position: whatever is given is not
            read); for sub-codebook j the first j ids of this position.
          codebook_index: number of the sub-codebook, 0, 1, ... in turn.
        """

    def finished_rows(self, cache: Any) -> None:
        """Returns None: every grid has all positions."""

    def loss(
        self,
        variables: Variables,
        tokens: Tokens,
        cond: Condition,
        rng: jax.Array,
        *,
        train: bool,
    ) -> GeneratorLoss:
        """Computes the mean cross-entropy in nats over all positions and sub-codebooks; see `Generator.loss`."""
        ids = jnp.asarray(tokens.ids).reshape(len(tokens.ids), -1, self.ids_per_position)
        for_drop, for_network = jax.random.split(rng)
        if train and self.condition_dropout:
            dropped = draw_dropped(for_drop, self.condition_dropout, len(ids))
            cond = _select_rows(dropped, self.null_condition(variables, cond), cond)
        found = self.cross_entropies(variables, ids, cond, for_network, train=train)
        nll = [entropy.nll.mean() for entropy in found]
        smooth = self.label_smoothing if train else 0.0
        each = [
            (1 - smooth) * mean + smooth * entropy.uniform.mean() if smooth else mean
            for mean, entropy in zip(nll, found, strict=True)
        ]
        metrics = {'bits_per_token': sum(nll) / (len(nll) * math.log(2))}
        if len(nll) > 1:
            names = self.spec.codebook_names
            metrics |= {f'bits_per_token/{name}': x / math.log(2) for name, x in zip(names, nll, strict=True)}
        return GeneratorLoss(sum(each) / len(each), metrics)

    def guidance_condition(self, variables: Variables, cond: Condition, config: SampleConfig) -> Condition | None:
        """Returns the null conditions that guidance needs, or None where there is no guidance.

        Raises:
          UserError: the generator was trained without a null condition.
        """
        if config.guidance_scale == 1:
            return None
        require_null_condition(self.condition_dropout)
        return self.null_condition(variables, cond)

    def sample(
        self,
        variables: Variables,
        cond: Condition,
        rng: jax.Array,
        sample_ids: Int[Array, ' b'],
        config: SampleConfig,
    ) -> Tokens:
        """Samples token by token; see `Generator.sample`."""
        variables = self.prepare_for_sampling(variables)
        null = self.guidance_condition(variables, cond, config)
        keys = row_keys(rng, sample_ids)
        result = sample_sequences(self, variables, cond, null, keys, (config,) * self.ids_per_position)
        return Tokens(result.ids[: len(keys)].reshape(len(keys), *self.grid, self.ids_per_position))


def _select_rows(chosen: jax.Array, a: Condition, b: Condition) -> Condition:
    """Selects rows of `a` where `chosen`, of `b` elsewhere."""
    return jax.tree.map(lambda x, y: jnp.where(chosen.reshape(-1, *(1,) * (x.ndim - 1)), x, y), a, b)
