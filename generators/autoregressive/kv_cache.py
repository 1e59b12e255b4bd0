"""Key-value cache of causal transformers, in arrays of static shape.

All layers share one array, which the scan over layers carries along; an array that is scanned over would be copied by
every layer.
"""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


@flax.struct.dataclass
class LayerKV:
    """Keys and values of one layer.

    Attributes:
      keys: `[b, h, m, c]`, of m cache positions.
      values: `[b, h, m, c]`, of m cache positions.
      key_scales: factors of the keys, `[b, h, m]`; None: 1.
      value_scales: factors of the values, `[b, h, m]`; None: 1.
    """

    keys: Any
    values: Any
    key_scales: Any = None
    value_scales: Any = None


@flax.struct.dataclass
class KVCache:
    """Keys and values of all layers: the attributes of `LayerKV` with a leading layer axis."""

    keys: Any
    values: Any
    key_scales: Any = None
    value_scales: Any = None

    @property
    def capacity(self) -> int:
        """Number of cache positions, m."""
        return self.keys.shape[3]

    def write(
        self,
        layer: Int[Array, ''],
        first: Int[Array, ''],
        keys: Float[Array, 'b h n c'],
        values: Float[Array, 'b h n c'],
    ) -> 'KVCache':
        """Writes keys and values of n tokens to the cache positions `first`, `first + 1`, ... of a layer."""

        def put(array: Any, update: Any) -> Any:
            start = (layer, 0, 0, first, 0)[: array.ndim]
            return jax.lax.dynamic_update_slice(array, update[None].astype(array.dtype), start)

        if self.key_scales is None:
            return KVCache(put(self.keys, keys), put(self.values, values))
        (keys, key_scales), (values, value_scales) = _quantize_int8(keys), _quantize_int8(values)
        return KVCache(
            put(self.keys, keys),
            put(self.values, values),
            put(self.key_scales, key_scales),
            put(self.value_scales, value_scales),
        )

    def read(self, layer: Int[Array, '']) -> LayerKV:
        """Reads keys and values of one layer."""
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


def _quantize_int8(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Quantizes vectors to integers in [-127, 127], with one scale each."""
    x = x.astype(jnp.float32)
    scales = jnp.maximum(jnp.abs(x).max(axis=-1), 1e-30) / 127
    return jnp.round(x / scales[..., None]).astype(jnp.int8), scales
