"""Generators that choose one id after the other, and the walk over positions.

Sampling, compressing and decompressing are the same walk; they differ in how the next id is chosen: drawn from the
logits, read from the image, or read from the bits.
"""

import abc
import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vistok.errors import UserError
from vistok.generators.cross_entropy import CrossEntropy
from vistok.generators.generator import Condition, Generator, GeneratorLoss, SampleConfig, Variables
from vistok.generators.sampling import at_position, draw, guidance_scales, guide, row_keys
from vistok.tokenizers.tokenizer import Tokens


@flax.struct.dataclass
class DecodeStep:
    """What one step of a walk gives.

    Attributes:
      cache: for the next step.
      logits: of the next id, `[b, K]`.
    """

    cache: Any
    logits: Any


@flax.struct.dataclass
class SampledToken:
    """The next ids, `[b]`, and what the chooser wants to remember."""

    ids: Any
    state: Any = None


TokenSampler = Callable[[Any, Float[Array, 'b K'], Int[Array, ''] | int, int], SampledToken]
"""(state, logits, position, number of the sub-codebook) -> the next ids and the next state."""


@dataclasses.dataclass(frozen=True)
class Autoregressive(Generator):
    """A generator with a likelihood that is a product over positions in raster order, and over their sub-codebooks.

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
        """Positions of the grid."""
        return math.prod(self.grid)

    @abc.abstractmethod
    def null_condition(self, variables: Variables, cond: Condition) -> Condition:
        """For each row of `cond`, that nothing is asked for."""

    @abc.abstractmethod
    def cross_entropies(
        self, variables: Variables, ids: Int[Array, 'b n k'], cond: Condition, rng: jax.Array, *, train: bool
    ) -> tuple[CrossEntropy, ...]:
        """Of the first n positions, for each sub-codebook; `rng` is for what `train` switches on."""

    @abc.abstractmethod
    def init_cache(self, variables: Variables, cond: Condition) -> Any:
        """What the first step needs: the condition is in it."""

    @abc.abstractmethod
    def step(self, variables: Variables, cache: Any, ids: Int[Array, 'b k'], codebook_index: int = 0) -> DecodeStep:
        """Logits of the next id.

        Args:
          variables: as `init` gives them.
          cache: of `init_cache` or of the step before.
          ids: for sub-codebook 0 those of the position before (none at the first position: whatever is given is not
            read); for sub-codebook j the first j ids of this position.
          slot: number of the sub-codebook, 0, 1, ... in turn.
        """

    def loss(
        self,
        variables: Variables,
        tokens: Tokens,
        cond: Condition,
        rng: jax.Array,
        *,
        train: bool,
    ) -> GeneratorLoss:
        """Mean cross-entropy in nats over all positions and sub-codebooks; see `Generator.loss`."""
        ids = jnp.asarray(tokens.ids).reshape(len(tokens.ids), -1, len(self.spec.codebook_sizes))
        for_drop, for_network = jax.random.split(rng)
        if train and self.condition_dropout:
            dropped = jax.random.bernoulli(for_drop, self.condition_dropout, (len(ids),))
            cond = _select(dropped, self.null_condition(variables, cond), cond)
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

    def null_for_guidance(self, variables: Variables, cond: Condition) -> Condition:
        """The null conditions.

        Raises:
          UserError: the generator never learned to do without a condition.
        """
        if not self.condition_dropout:
            raise UserError('guidance needs a generator that was trained with condition_dropout above 0')
        return self.null_condition(variables, cond)

    def sample(
        self,
        variables: Variables,
        cond: Condition,
        rng: jax.Array,
        sample_ids: Int[Array, ' b'],
        config: SampleConfig,
    ) -> Tokens:
        """See `Generator.sample`; with guidance each step is one pass over 2b rows."""
        variables = self.prepare_for_sampling(variables)
        scales = jnp.asarray(guidance_scales(config, self.positions))
        guided = config.guidance_scale != 1
        keys = row_keys(rng, sample_ids)
        num_codebooks = len(self.spec.codebook_sizes)

        def sampler(state: None, logits: jax.Array, position: Any, codebook_index: int) -> SampledToken:
            if guided:
                logits = guide(logits, scales[position])
            ids = draw(logits, at_position(keys, position * num_codebooks + codebook_index), config)
            return SampledToken(jnp.tile(ids, 2) if guided else ids)

        if guided:  # conditional rows first
            null = self.null_for_guidance(variables, cond)
            cond = jax.tree.map(lambda *rows: jnp.concatenate(rows), cond, null)
        result = decode(self, variables, cond, sampler)
        return Tokens(result.ids[: len(keys)].reshape(len(keys), *self.grid, num_codebooks))


@flax.struct.dataclass
class DecodeResult:
    """The ids that were chosen, `[b, n, k]`, and the last state of the chooser."""

    ids: Any
    state: Any


def decode(
    generator: Autoregressive,
    variables: Variables,
    cond: Condition,
    sampler: TokenSampler,
    state: Any = None,
    *,
    positions: int | None = None,
    compiled: bool = True,
) -> DecodeResult:
    """Visits the positions in raster order and asks `sampler` for each id.

    Args:
      generator: gives the logits.
      variables: of the generator.
      cond: of each row.
      choose: takes its state and the logits, gives ids and the next state.
      state: of the first call of `sampler`; a pytree of arrays if `compiled`.
      positions: how many are visited; default: all.
      compiled: one `lax.scan`, with a traceable `sampler`.  Otherwise a Python loop over one compiled step, where
        `sampler` may do anything with the logits: whoever encodes and whoever decodes run the very same program.
    """
    sizes = generator.spec.codebook_sizes
    rows = len(jax.tree.leaves(cond)[0])
    count = generator.positions if positions is None else positions

    def visit(carry: tuple[Any, jax.Array, Any], position: Any) -> tuple[tuple[Any, jax.Array, Any], jax.Array]:
        cache, ids, state = carry
        for codebook_index in range(len(sizes)):
            take = generator.step if compiled else functools.partial(_compiled_step, generator)
            step = take(variables, cache, ids, codebook_index)
            choice = sampler(state, step.logits, position, codebook_index)
            cache, state = step.cache, choice.state
            ids = ids.at[:, codebook_index].set(jnp.asarray(choice.ids, jnp.int32))
        return (cache, ids, state), ids

    nothing = jnp.zeros((rows, len(sizes)), jnp.int32)
    if compiled:
        carry = (generator.init_cache(variables, cond), nothing, state)
        (_, _, state), ids = jax.lax.scan(visit, carry, jnp.arange(count))
        return DecodeResult(jnp.moveaxis(ids, 0, 1), state)
    carry = (_compiled_init_cache(generator, variables, cond), nothing, state)
    visited = []
    for position in range(count):
        carry, ids = visit(carry, position)
        visited.append(ids)
    return DecodeResult(jnp.stack(visited, axis=1), carry[2])


@functools.partial(jax.jit, static_argnums=(0, 4), donate_argnums=2)
def _compiled_step(
    generator: Autoregressive, variables: Variables, cache: Any, ids: jax.Array, codebook_index: int
) -> DecodeStep:
    return generator.step(variables, cache, ids, codebook_index)


@functools.partial(jax.jit, static_argnums=0)
def _compiled_init_cache(generator: Autoregressive, variables: Variables, cond: Condition) -> Any:
    return generator.init_cache(variables, cond)


def _select(chosen: jax.Array, a: Condition, b: Condition) -> Condition:
    """Rows of `a` where `chosen`, of `b` elsewhere."""
    return jax.tree.map(lambda x, y: jnp.where(chosen.reshape(-1, *(1,) * (x.ndim - 1)), x, y), a, b)
