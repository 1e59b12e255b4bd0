"""Memory-efficient cross-entropy under a linear head, computed in chunks of positions."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

MOST_LOGITS = 2**25
"""Upper bound of the logits in memory at a time: 128 MiB of float32."""


@flax.struct.dataclass
class CrossEntropy:
    """Cross-entropy of each position in nats, `[b, n]`.

    Attributes:
      nll: negative log-probability of the target.
      uniform: negative mean log-probability of all ids, for label smoothing.
    """

    nll: Any
    uniform: Any


def cross_entropy(
    hidden: Float[Array, 'b n d'],
    kernel: Float[Array, 'd K'],
    targets: Int[Array, 'b n'],
    *,
    groups: Int[Array, ' K'] | None = None,
    bias: Float[Array, ' K'] | None = None,
    shares: Float[Array, ' K'] | None = None,
    most_logits: int = MOST_LOGITS,
) -> CrossEntropy:
    """Computes the cross-entropy of `targets` under the softmax of `hidden @ kernel + bias`, in float32.

    Positions are processed in chunks, and the backward pass recomputes the logits of a chunk.  Chunks divide the
    positions only, so that a batch or a vocabulary that is sharded over devices stays sharded.

    Args:
      hidden: inputs of the head, in the type of the product.
      kernel: weights of the head.
      targets: ids in [0, K).
      groups: group of each id; the softmax is over the ids of the target's group.  None: all ids.
      bias: bias of the logits; None: 0.
      shares: weights of the ids in the mean `CrossEntropy.uniform`, which add up to 1; None: equal ones.
      most_logits: upper bound of `b * K * positions` of a chunk (which has at least one position).
    """
    b, n, d = hidden.shape
    limit = max(1, most_logits // (b * kernel.shape[1]))
    length = max(size for size in range(1, n + 1) if n % size == 0 and size <= limit)
    if length == n:
        return _chunk_cross_entropy(hidden, kernel, targets, groups, bias, shares)

    def visit(_: None, chunk: tuple[jax.Array, jax.Array]) -> tuple[None, CrossEntropy]:
        return None, _chunk_cross_entropy(chunk[0], kernel, chunk[1], groups, bias, shares)

    chunks = (
        jnp.moveaxis(hidden.reshape(b, n // length, length, d), 1, 0),
        jnp.moveaxis(targets.reshape(b, n // length, length), 1, 0),
    )
    _, found = jax.lax.scan(jax.checkpoint(visit, prevent_cse=False), None, chunks)
    join = lambda x: jnp.moveaxis(x, 0, 1).reshape(b, n)  # noqa: E731
    return CrossEntropy(join(found.nll), join(found.uniform))


def _chunk_cross_entropy(
    hidden: jax.Array,
    kernel: jax.Array,
    targets: jax.Array,
    groups: jax.Array | None,
    bias: jax.Array | None,
    shares: jax.Array | None,
) -> CrossEntropy:
    logits = jnp.matmul(hidden, kernel.astype(hidden.dtype), preferred_element_type=jnp.float32)
    if bias is not None:
        logits = logits + bias
    there = None if groups is None else groups == groups[targets][..., None]
    total = jax.nn.logsumexp(logits, axis=-1, where=there)
    target = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    mean = logits.mean(axis=-1, where=there) if shares is None else logits @ shares
    return CrossEntropy(total - target, total - mean)
