"""Keys and values of the positions that a decoder has seen: a static array that every step writes one place of.

All layers share one array, which the scan over layers carries along: what is scanned over, every layer would copy.
"""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


@flax.struct.dataclass
class LayerKV:
    """What one layer attends to.

    Attributes:
      keys: `[b, h, m, c]`.
      values: `[b, h, m, c]`.
      key_scales: `[b, h, m]` that multiply the keys; None means 1.
      value_scales: likewise.
    """

    keys: Any
    values: Any
    key_scales: Any = None
    value_scales: Any = None


@flax.struct.dataclass
class KVCache:
    """The entries of all layers: the same attributes with a layer axis in front."""

    keys: Any
    values: Any
    key_scales: Any = None
    value_scales: Any = None

    @property
    def capacity(self) -> int:
        """Positions that there is room for."""
        return self.keys.shape[3]

    def write(
        self,
        layer: Int[Array, ''],
        first: Int[Array, ''],
        keys: Float[Array, 'b h n c'],
        values: Float[Array, 'b h n c'],
    ) -> 'KVCache':
        """With the entries of `n` positions from slot `first` on."""

        def put(where: Any, what: Any) -> Any:
            start = (layer, 0, 0, first, 0)[: where.ndim]
            return jax.lax.dynamic_update_slice(where, what[None].astype(where.dtype), start)

        if self.key_scales is None:
            return KVCache(put(self.keys, keys), put(self.values, values))
        (keys, key_scales), (values, value_scales) = _rounded(keys), _rounded(values)
        return KVCache(
            put(self.keys, keys),
            put(self.values, values),
            put(self.key_scales, key_scales),
            put(self.value_scales, value_scales),
        )

    def read(self, layer: Int[Array, '']) -> LayerKV:
        """What `layer` attends to."""
        take = lambda x: jax.lax.dynamic_index_in_dim(x, layer, keepdims=False)  # noqa: E731
        return LayerKV(*(None if x is None else take(x) for x in self._arrays()))

    def _arrays(self) -> tuple[Any, ...]:
        return self.keys, self.values, self.key_scales, self.value_scales


def empty(layers: int, rows: int, heads: int, capacity: int, head_width: int, dtype: Any) -> KVCache:
    """Returns an empty cache for `capacity` positions.

    Integers of 8 bits (`jnp.int8`) come with a scale for each layer, row, head and position.
    """
    shape = (layers, rows, heads, capacity, head_width)
    keys, values = jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)
    if dtype != jnp.int8:
        return KVCache(keys, values)
    return KVCache(keys, values, jnp.zeros(shape[:-1], jnp.float32), jnp.zeros(shape[:-1], jnp.float32))


def _rounded(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Integers in [-127, 127] and the scale of each vector."""
    x = x.astype(jnp.float32)
    scales = jnp.maximum(jnp.abs(x).max(axis=-1), 1e-30) / 127
    return jnp.round(x / scales[..., None]).astype(jnp.int8), scales
