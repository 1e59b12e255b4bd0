"""Token-by-token decoding: one loop over positions for sampling, compressing and decompressing.

The three differ only in how the next id is chosen (drawn from the logits, read from the image, or read from the bits),
which is an argument of `decode`, a `TokenSampler`.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vistok.generators.generator import Condition, SampleConfig, Variables
from vistok.generators.sampling import draw, fold_in_rows, guidance_scales, guide


@flax.struct.dataclass
class DecodeStep:
    """Cache and logits after a decoding step.

    Attributes:
      cache: input of the next step.
      logits: of the next id, `[b, K]`.
    """

    cache: Any
    logits: Any


@flax.struct.dataclass
class SampledToken:
    """Next ids `[b]`, and the next state of the sampler."""

    ids: Any
    state: Any = None


TokenSampler = Callable[[Any, Float[Array, 'b K'], Int[Array, ''] | int, int], SampledToken]
"""(state, logits, position, codebook index) -> the next ids and the next state."""


@runtime_checkable
class StepDecoder(Protocol):
    """Interface of models that `decode` can run; hashable, as a static argument of `jax.jit`."""

    @property
    def positions(self) -> int:
        """Number of positions of a full sequence."""

    @property
    def ids_per_position(self) -> int:
        """Number of ids of a position, k: one step each."""

    def init_cache(self, variables: Variables, cond: Condition) -> Any:
        """Returns the input of the first step; it contains the condition."""

    def step(self, variables: Variables, cache: Any, ids: Int[Array, 'b k'], codebook_index: int) -> DecodeStep:
        """Computes the logits of the next id; see `Autoregressive.step`."""

    def finished_rows(self, cache: Any) -> Any:
        """Returns which rows are complete, bool `[b]`, or None where every sequence has all positions."""


@flax.struct.dataclass
class DecodeResult:
    """Ids and final states of a decoding run.

    Attributes:
      ids: `[b, n, k]`; 0 at positions that were not visited because all rows had finished.
      state: last state of the sampler.
      cache: last cache of the model.
    """

    ids: Any
    state: Any
    cache: Any


def decode(
    model: StepDecoder,
    variables: Variables,
    cond: Condition,
    sampler: TokenSampler,
    state: Any = None,
    *,
    positions: int | None = None,
    compiled: bool = True,
) -> DecodeResult:
    """Decodes position by position, calling `sampler` for each id.

    Args:
      model: computes the logits.
      variables: of the model.
      cond: condition of each row.
      sampler: maps its state and the logits to ids and its next state.
      state: first state of the sampler; a pytree of arrays if `compiled`.
      positions: number of positions to visit; default: all.
      compiled: True: one compiled loop, with a traceable `sampler`.  False: a Python loop over one compiled step, where
        `sampler` may do anything with the logits; an encoder and a decoder then run the very same program.
    """
    rows, k = len(jax.tree.leaves(cond)[0]), model.ids_per_position
    count = model.positions if positions is None else positions
    step = model.step if compiled else functools.partial(_compiled_step, model)

    def visit(carry: tuple[Any, jax.Array, Any], position: Any) -> tuple[tuple[Any, jax.Array, Any], jax.Array]:
        cache, ids, state = carry
        for codebook_index in range(k):
            found = step(variables, cache, ids, codebook_index)
            token = sampler(state, found.logits, position, codebook_index)
            cache, state = found.cache, token.state
            ids = ids.at[:, codebook_index].set(jnp.asarray(token.ids, jnp.int32))
        return (cache, ids, state), ids

    init_cache = model.init_cache if compiled else functools.partial(_compiled_init_cache, model)
    carry = (init_cache(variables, cond), jnp.zeros((rows, k), jnp.int32), state)
    if not compiled:
        visited = []
        for position in range(count):
            carry, ids = visit(carry, position)
            visited.append(ids)
        ids = jnp.stack(visited, axis=1)
    elif model.finished_rows(carry[0]) is None:
        carry, ids = jax.lax.scan(visit, carry, jnp.arange(count))
        ids = jnp.moveaxis(ids, 0, 1)
    else:
        carry, ids = _decode_until_finished(model, visit, carry, count)
    return DecodeResult(ids, state=carry[2], cache=carry[0])


def _decode_until_finished(
    model: StepDecoder, visit: Callable[[Any, Any], tuple[Any, jax.Array]], carry: Any, count: int
) -> tuple[Any, jax.Array]:
    """Visits at most `count` positions, and none after all rows have finished."""

    def continues(loop: tuple[Any, jax.Array, jax.Array]) -> jax.Array:
        (cache, _, _), position, _ = loop
        return (position < count) & ~model.finished_rows(cache).all()

    def advance(loop: tuple[Any, jax.Array, jax.Array]) -> tuple[Any, jax.Array, jax.Array]:
        carry, position, ids = loop
        carry, chosen = visit(carry, position)
        return carry, position + 1, jax.lax.dynamic_update_slice_in_dim(ids, chosen[:, None], position, axis=1)

    rows, k = carry[1].shape
    start = (carry, jnp.zeros((), jnp.int32), jnp.zeros((rows, count, k), jnp.int32))
    carry, _, ids = jax.lax.while_loop(continues, advance, start)
    return carry, ids


def sample_sequences(
    model: StepDecoder,
    variables: Variables,
    cond: Condition,
    null: Condition | None,
    keys: Array,
    configs: Sequence[SampleConfig],
    *,
    positions: int | None = None,
) -> DecodeResult:
    """Samples a sequence for each condition; with guidance each step is one pass over 2b rows.

    Args:
      model: computes the logits.
      variables: of the model.
      cond: condition of each row.
      null: null condition of each row, for guidance; None: no guidance.
      keys: random key of each row.
      configs: sampling options for each id of a position.
      positions: number of positions to visit; default: all.

    Returns:
      The result of `decode`; with guidance it has 2b rows, the conditional ones first.
    """
    k = len(configs)
    scales = [jnp.asarray(guidance_scales(config, model.positions)) for config in configs]

    def sampler(state: None, logits: jax.Array, position: Any, codebook_index: int) -> SampledToken:
        if null is not None:
            logits = guide(logits, scales[codebook_index][position])
        ids = draw(logits, fold_in_rows(keys, position * k + codebook_index), configs[codebook_index])
        return SampledToken(ids if null is None else jnp.tile(ids, 2))

    if null is not None:
        cond = jax.tree.map(lambda *rows: jnp.concatenate(rows), cond, null)
    return decode(model, variables, cond, sampler, positions=positions)


@functools.partial(jax.jit, static_argnums=(0, 4), donate_argnums=2)
def _compiled_step(
    model: StepDecoder, variables: Variables, cache: Any, ids: jax.Array, codebook_index: int
) -> DecodeStep:
    return model.step(variables, cache, ids, codebook_index)


@functools.partial(jax.jit, static_argnums=0)
def _compiled_init_cache(model: StepDecoder, variables: Variables, cond: Condition) -> Any:
    return model.init_cache(variables, cond)
