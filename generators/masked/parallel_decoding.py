"""Parallel decoding of masked tokens (MaskGIT): candidates, guidance and the schedule of the steps."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from vistok.collectives import replica_draw, replica_mean
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
    """Returns the ids in raster order, for tokenizers with one codebook."""
    return jnp.asarray(tokens.ids).reshape(tokens.ids.shape[0], -1)


def drop_labels(labels: Int[Array, ' b'], rng: jax.Array, share: float, null: int) -> Int[Array, ' b']:
    """Replaces a random share of the labels by the null label."""
    u = replica_draw(lambda rows: jax.random.uniform(rng, (rows,)), len(labels))
    return jnp.where(u < share, null, labels)


def mean_over(values: Float[Array, 'b n'], chosen: Bool[Array, 'b n']) -> Float[Array, '']:
    """Averages over the chosen cells of the whole batch (under pmap, the mean over replicas of this is the mean)."""
    return jnp.sum(jnp.where(chosen, values, 0)) / replica_mean(jnp.sum(chosen).astype(jnp.float32))


def predict_guided(
    predict: Callable[[Any, Array], Float[Array, 'c n K']],
    given: Any,
    labels: Int[Array, ' b'],
    null: int,
    scale: Float[Array, ''] | None,
) -> Float[Array, 'b n K']:
    """Computes logits with classifier-free guidance, in one pass of twice as many rows.

    Args:
      predict: maps inputs and labels to logits.
      given: inputs, with one row each.
      labels: label of each row.
      null: the null label.
      scale: guidance scale; None: no guidance.
    """
    if scale is None:
        return predict(given, labels)
    twice = jax.tree.map(lambda x: jnp.concatenate([x, x]), given)
    logits = predict(twice, jnp.concatenate([labels, jnp.full_like(labels, null)]))
    return guide(logits.reshape(len(logits), -1), scale).reshape(-1, *logits.shape[1:])


@flax.struct.dataclass
class Candidates:
    """Random draws of one decoding step.

    Attributes:
      drawn: candidate id of every cell, `[b, n]`.
      noise: Gumbel noise of the confidences by which cells are ranked, `[b, n]`.
    """

    drawn: Any
    noise: Any


def sample_candidates(logits: Float[Array, 'b n K'], keys: Array, config: SampleConfig) -> Candidates:
    """Samples a candidate id and noise for every cell.

    Args:
      logits: logits after guidance.
      keys: random key of each row.
      config: sampling options.
    """
    b, n, _ = logits.shape
    by_cell = jax.vmap(lambda key: jax.vmap(lambda cell: jax.random.fold_in(key, cell))(jnp.arange(n)))(keys)
    drawn = draw(logits.reshape(b * n, -1), by_cell.reshape(b * n), config).reshape(b, n)
    noise = jax.vmap(lambda key: jax.random.gumbel(jax.random.fold_in(key, n), (n,)))(keys)
    return Candidates(drawn, noise)


@flax.struct.dataclass
class DecodingSchedule:
    """Schedule of the decoding steps, to be scanned over.

    Attributes:
      step: number of each step.
      count: number of tokens that are masked after it.
      annealing: factor of the choice temperature, falling linearly to 0 at the last step.
      guidance: guidance scale.
    """

    step: Any
    count: Any
    annealing: Any
    guidance: Any

    @staticmethod
    def from_counts(counts: Sequence[int], config: SampleConfig) -> 'DecodingSchedule':
        """Creates the schedule with so many masked tokens after each step."""
        steps = np.arange(len(counts), dtype=np.int32)
        annealing = (1 - (steps + 1) / len(counts)).astype(np.float32)
        return DecodingSchedule(steps, np.asarray(counts, np.int32), annealing, guidance_scales(config, len(counts)))
