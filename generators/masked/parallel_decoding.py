"""What generators that reveal hidden tokens in steps share: labels, chances, guidance, the plan of the steps."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from vistok.collectives import replica_mean
from vistok.errors import UserError
from vistok.generators.generator import SampleConfig
from vistok.generators.sampling import draw, guidance_scales, guide
from vistok.tokenizers.tokenizer import Tokens, TokenSpec


def check_one_codebook(name: str, spec: TokenSpec) -> None:
    """Raises UserError unless each cell of the grid has one id of its own."""
    if len(spec.codebook_sizes) != 1 or spec.grains != (1,):
        raise UserError(
            f'{name} predicts one id per cell, the tokenizer has codebooks of {spec.codebook_sizes} and '
            f'grains {spec.grains}'
        )


def flat_ids(tokens: Tokens) -> Int[Array, 'b n']:
    """Ids row by row, of a tokenizer with one codebook."""
    return jnp.asarray(tokens.ids).reshape(tokens.ids.shape[0], -1)


def drop_labels(labels: Int[Array, ' b'], rng: jax.Array, share: float, null: int) -> Int[Array, ' b']:
    """Labels, some of them replaced by the one that means none."""
    return jnp.where(jax.random.uniform(rng, labels.shape) < share, null, labels)


def mean_over(values: Float[Array, 'b n'], chosen: Bool[Array, 'b n']) -> Float[Array, '']:
    """Mean over the chosen cells of the whole batch (under pmap: the mean over replicas of this is)."""
    return jnp.sum(jnp.where(chosen, values, 0)) / replica_mean(jnp.sum(chosen).astype(jnp.float32))


def guided(
    predict: Callable[[Any, Array], Float[Array, 'c n K']],
    given: Any,
    labels: Int[Array, ' b'],
    null: int,
    scale: Float[Array, ''] | None,
) -> Float[Array, 'b n K']:
    """Logits for `labels`, guided by those without a label in one pass of twice as many rows.

    Args:
      predict: logits of rows and labels.
      given: rows.
      labels: of the rows.
      null: the label that means none.
      scale: of guidance; None: none.
    """
    if scale is None:
        return predict(given, labels)
    twice = jax.tree.map(lambda x: jnp.concatenate([x, x]), given)
    logits = predict(twice, jnp.concatenate([labels, jnp.full_like(labels, null)]))
    return guide(logits.reshape(len(logits), -1), scale).reshape(-1, *logits.shape[1:])


@flax.struct.dataclass
class Candidates:
    """What is random in one step of generation.

    Attributes:
      drawn: ids drawn at every cell, `[b, n]`.
      noise: Gumbel noise for the choice of those that are kept, `[b, n]`.
    """

    drawn: Any
    noise: Any


def sample_candidates(logits: Float[Array, 'b n K'], keys: Array, config: SampleConfig) -> Candidates:
    """Draws ids and noise.

    Args:
      logits: after guidance.
      keys: one for each row.
      config: how ids are drawn.
    """
    b, n, _ = logits.shape
    by_cell = jax.vmap(lambda key: jax.vmap(lambda cell: jax.random.fold_in(key, cell))(jnp.arange(n)))(keys)
    drawn = draw(logits.reshape(b * n, -1), by_cell.reshape(b * n), config).reshape(b, n)
    noise = jax.vmap(lambda key: jax.random.gumbel(jax.random.fold_in(key, n), (n,)))(keys)
    return Candidates(drawn, noise)


@flax.struct.dataclass
class DecodingSchedule:
    """The steps of generation, to be scanned over.

    Attributes:
      step: number of each step.
      count: tokens that are hidden after it.
      heat: 1 at the beginning, 0 after the last step.
      guidance: scale of guidance.
    """

    step: Any
    count: Any
    annealing: Any
    guidance: Any

    @staticmethod
    def of(counts: Sequence[int], config: SampleConfig) -> 'DecodingSchedule':
        """The steps after which so many tokens are hidden."""
        steps = np.arange(len(counts), dtype=np.int32)
        annealing = (1 - (steps + 1) / len(counts)).astype(np.float32)
        return DecodingSchedule(steps, np.asarray(counts, np.int32), annealing, guidance_scales(config, len(counts)))
