"""Cross-entropy of ids under a linear head, without the logits of all positions at once."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

MOST_LOGITS = 2**25
"""Logits that may exist at a time: 128 MiB of float32."""


@flax.struct.dataclass
class CrossEntropy:
    """In nats, for each position: `[b, n]`.

    Attributes:
      nll: minus the log-probability of the target.
      uniform: minus the mean log-probability of all ids, which label smoothing mixes in.
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
    """Cross-entropy of `targets` under the softmax of `hidden @ kernel + bias`, in float32.

    The positions are walked in parts, and a backward pass computes the logits of a part again.  Parts are cut along
    the positions, so that a batch or a vocabulary that is split over devices stays split.

    Args:
      hidden: what the head sees, in the type of the product.
      kernel: of the head.
      targets: ids in [0, K).
      groups: of the ids; the softmax is over those of the target's group.  None: all are in one.
      bias: of the logits; None: 0.
      shares: weights of the ids, which add up to 1, in the mean that is `CrossEntropy.uniform`; None: equal ones.
      most_logits: upper bound of `b * K * positions` in a part (one position is the least).
    """
    b, n, d = hidden.shape
    wanted = max(1, most_logits // (b * kernel.shape[1]))
    part = max(size for size in range(1, n + 1) if n % size == 0 and size <= wanted)
    if part == n:
        return _part(hidden, kernel, targets, groups, bias, shares)

    def walk(_: None, chunk: tuple[jax.Array, jax.Array]) -> tuple[None, CrossEntropy]:
        return None, _part(chunk[0], kernel, chunk[1], groups, bias, shares)

    parts = (
        jnp.moveaxis(hidden.reshape(b, n // part, part, d), 1, 0),
        jnp.moveaxis(targets.reshape(b, n // part, part), 1, 0),
    )
    _, found = jax.lax.scan(jax.checkpoint(walk, prevent_cse=False), None, parts)
    join = lambda x: jnp.moveaxis(x, 0, 1).reshape(b, n)  # noqa: E731
    return CrossEntropy(join(found.nll), join(found.uniform))


def _part(
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
