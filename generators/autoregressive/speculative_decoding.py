"""Speculative Jacobi decoding: the ids of plain sampling, in fewer passes.

Teng et al., "Accelerating Auto-regressive Text-to-Image Generation with Training-free Speculative Jacobi Decoding",
2024, guess a window of ids, let one causal pass look at all of them, keep what stands and guess the rest anew.  Here
the noise of each position is fixed beforehand (as in Wiggers and Hoogeboom, "Predictive Sampling with Forecasting
Autoregressive Models", 2020): an id is a function of the ids before it, so a guess stands when the pass draws it again,
and what comes out is what plain sampling with the same keys gives, id for id.
"""

import dataclasses
from typing import Any, Protocol, runtime_checkable

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from vistok.generators.generator import Condition, SampleConfig, Variables
from vistok.generators.sampling import draw, guidance_scales, guide


@runtime_checkable
class MultiPositionDecoder(Protocol):
    """A generator with one id per position that takes several positions in one pass."""

    @property
    def positions(self) -> int:
        """Positions of the grid."""

    def init_cache(self, variables: Variables, cond: Condition) -> Any:
        """See `Autoregressive.init_cache`; its field `position` counts positions."""

    def next_logits(self, variables: Variables, cache: Any, ids: Int[Array, 'b n k']) -> Any:
        """A `DecodeStep` with logits `[b, n, K]` of the next n positions."""


@flax.struct.dataclass
class SpeculativeResult:
    """What came out.

    Attributes:
      ids: `[b, n]`.
      passes: how many passes each row took, `[b]`; plain sampling takes n.
    """

    ids: Any
    passes: Any


def speculative_jacobi_decode(
    generator: MultiPositionDecoder,
    variables: Variables,
    cond: Condition,
    null: Condition | None,
    keys: Array,
    config: SampleConfig,
) -> SpeculativeResult:
    """Samples of a generator with one id per position; rows advance each at its own pace.

    Args:
      generator: gives the logits of `config.window` positions in one pass.
      variables: of the generator.
      cond: of each sample.
      null: null conditions, for guidance; None goes without.
      keys: of each sample.
      config: how ids are drawn.
    """
    count = generator.positions
    window = min(config.window, count)
    scales = jnp.asarray(guidance_scales(config, count))
    both = [cond] if null is None else [cond, null]
    tree = jax.tree.structure(cond)
    leaves = [jnp.stack(rows, axis=1) for rows in zip(*map(jax.tree.leaves, both), strict=True)]

    def one(leaves: list[jax.Array], key: jax.Array) -> SpeculativeResult:
        cache = generator.init_cache(variables, jax.tree.unflatten(tree, leaves))

        def improve(state: tuple[Any, jax.Array, jax.Array, jax.Array]) -> tuple[Any, jax.Array, jax.Array, jax.Array]:
            cache, ids, known, passes = state
            first = jnp.minimum(known, count - window)
            number = first + jnp.arange(window)
            before = jax.lax.dynamic_slice_in_dim(jnp.pad(ids, (1, 0)), first, window)
            step = generator.next_logits(
                variables,
                dataclasses.replace(cache, position=first),  # what was written beyond is written again
                jnp.broadcast_to(before[:, None], (len(both), window, 1)),
            )
            logits = step.logits.reshape(-1, step.logits.shape[-1])
            if null is not None:
                logits = guide(logits, scales[number][:, None])
            drawn = draw(logits, jax.vmap(lambda n: jax.random.fold_in(key, n))(number), config)
            guessed = jax.lax.dynamic_slice_in_dim(ids, first, window)
            better = jnp.where(number < known, guessed, drawn)
            # Up to the first wrong guess everything was drawn after right ids; so was the id in its place.
            standing = jnp.cumprod(guessed == better).sum()
            known = first + jnp.minimum(standing + 1, window)
            ids = jax.lax.dynamic_update_slice_in_dim(ids, better, first, axis=0)
            ids = jnp.where(jnp.arange(count) < first + window, ids, better[-1])  # guesses for the next window
            return step.cache, ids, known, passes + 1

        zero = jnp.zeros((), jnp.int32)
        start = (cache, jnp.zeros((count,), jnp.int32), zero, zero)
        _, ids, _, passes = jax.lax.while_loop(lambda state: state[2] < count, improve, start)
        return SpeculativeResult(ids, passes)

    return jax.vmap(one)(leaves, keys)
