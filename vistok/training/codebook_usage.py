"""Codebook usage and perplexity from exact counts over a whole evaluation set."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Integer

from vistok.collectives import replica_sum
from vistok.errors import UserError


def codeword_counts(
    ids: Int[Array, '*grid'], size: int, mask: Bool[Array, '*grid'] | None = None
) -> Int[Array, '{size}']:
    """Counts how often each codeword occurs in the global batch.

    Args:
      ids: codeword numbers in [0, size).
      size: codebook size K.
      mask: positions that count; None: all (False on the images that fill up a last batch).

    Returns:
      int32 counts, summed over replicas.
    """
    weights = jnp.ones(ids.shape, jnp.int32) if mask is None else mask.astype(jnp.int32)
    counts = jnp.zeros(size, jnp.int32).at[ids.reshape(-1)].add(weights.reshape(-1))
    return replica_sum(counts)


@dataclasses.dataclass(frozen=True)
class UsageReport:
    """Usage statistics of a codebook.

    Attributes:
      usage: share of the codewords that occur at least once, in [0, 1].
      perplexity: exp of the entropy of the empirical distribution, in [1, K].
      entropy_bits: entropy of the same distribution in bits.
      num_tokens: tokens counted.
    """

    usage: float
    perplexity: float
    entropy_bits: float
    num_tokens: int


class CodebookUsage:
    """Codeword counts over many batches, in 64-bit integers on the host."""

    def __init__(self, size: int) -> None:
        if size < 1:
            raise UserError(f'a codebook has at least one codeword, got size {size}')
        self._counts = np.zeros(size, np.int64)

    def add(self, counts: Integer[Array, 'K'] | Integer[np.ndarray, 'K']) -> None:
        """Adds the counts of one global batch."""
        if counts.shape != self._counts.shape:
            raise UserError(f'expected {self._counts.size} counts, got shape {counts.shape}')
        self._counts += np.asarray(counts, np.int64)

    @property
    def counts(self) -> Integer[np.ndarray, 'K']:
        """Occurrences of each codeword so far."""
        return self._counts.copy()

    def report(self) -> UsageReport:
        """Computes usage and perplexity of all counts so far; raises UserError if there are none."""
        total = int(self._counts.sum())
        if total == 0:
            raise UserError('no tokens were counted, so usage and perplexity are undefined')
        used = self._counts[self._counts > 0]
        p = used / np.float64(total)
        entropy = float(np.sum(p * -np.log(p)))  # the sign inside: a single codeword gives 0, not -0
        return UsageReport(
            usage=used.size / self._counts.size,
            perplexity=float(np.exp(entropy)),
            entropy_bits=entropy / float(np.log(2)),
            num_tokens=total,
        )
