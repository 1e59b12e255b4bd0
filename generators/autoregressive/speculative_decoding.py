"""Speculative Jacobi decoding: the ids of sequential sampling, in fewer passes.

Teng et al., "Accelerating Auto-regressive Text-to-Image Generation with Training-free Speculative Jacobi Decoding",
2024, draft a window of ids, verify all of them in one causal pass, accept a prefix and draft the rest again.  Here the
Gumbel noise of each position is fixed beforehand (as in Wiggers and Hoogeboom, "Predictive Sampling with Forecasting
Autoregressive Models", 2020): an id is then a function of the ids before it, so a draft is right when the pass samples
the same id again, and the result equals that of sequential sampling with the same keys, id for id.
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
    """Generator with one id per position that can process several positions in one pass."""

    @property
    def positions(self) -> int:
        """Number of positions of the grid."""

    def init_cache(self, variables: Variables, cond: Condition) -> Any:
        """Creates a cache whose field `position` counts positions; see `Autoregressive.init_cache`."""

    def next_logits(self, variables: Variables, cache: Any, ids: Int[Array, 'b n k']) -> Any:
        """Computes a `DecodeStep` with logits `[b, n, K]` of the next n positions."""


@flax.struct.dataclass
class SpeculativeResult:
    """Result of speculative decoding.

    Attributes:
      ids: sampled ids, `[b, n]`.
      passes: number of passes of each row, `[b]`; sequential sampling takes n.
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
    """Decodes a batch speculatively; each row advances at its own pace.

    Args:
      generator: computes the logits of `config.window` positions in one pass.
      variables: of the generator.
      cond: condition of each sample.
      null: null condition of each sample, for guidance; None: no guidance.
      keys: random key of each sample.
      config: sampling options.
    """
    count = generator.positions
    window = min(config.window, count)
    scales = jnp.asarray(guidance_scales(config, count))
    both = [cond] if null is None else [cond, null]
    tree = jax.tree.structure(cond)
    leaves = [jnp.stack(rows, axis=1) for rows in zip(*map(jax.tree.leaves, both), strict=True)]

    def one(leaves: list[jax.Array], key: jax.Array) -> SpeculativeResult:
        cache = generator.init_cache(variables, jax.tree.unflatten(tree, leaves))

        def verify(state: tuple[Any, jax.Array, jax.Array, jax.Array]) -> tuple[Any, jax.Array, jax.Array, jax.Array]:
            cache, ids, known, passes = state
            first = jnp.minimum(known, count - window)
            number = first + jnp.arange(window)
            before = jax.lax.dynamic_slice_in_dim(jnp.pad(ids, (1, 0)), first, window)
            step = generator.next_logits(
                variables,
                dataclasses.replace(cache, position=first),  # entries of rejected drafts are overwritten
                jnp.broadcast_to(before[:, None], (len(both), window, 1)),
            )
            logits = step.logits.reshape(-1, step.logits.shape[-1])
            if null is not None:
                logits = guide(logits, scales[number][:, None])
            drawn = draw(logits, jax.vmap(lambda n: jax.random.fold_in(key, n))(number), config)
            drafts = jax.lax.dynamic_slice_in_dim(ids, first, window)
            samples = jnp.where(number < known, drafts, drawn)
            # Accepts the longest prefix of drafts that equals the samples, plus the corrected token after it.
            accepted = jnp.cumprod(drafts == samples).sum()
            known = first + jnp.minimum(accepted + 1, window)
            ids = jax.lax.dynamic_update_slice_in_dim(ids, samples, first, axis=0)
            ids = jnp.where(jnp.arange(count) < first + window, ids, samples[-1])  # drafts of the next window
            return step.cache, ids, known, passes + 1

        zero = jnp.zeros((), jnp.int32)
        start = (cache, jnp.zeros((count,), jnp.int32), zero, zero)
        _, ids, _, passes = jax.lax.while_loop(lambda state: state[2] < count, verify, start)
        return SpeculativeResult(ids, passes)

    return jax.vmap(one)(leaves, keys)
