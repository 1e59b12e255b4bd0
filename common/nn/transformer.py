"""Pre-norm transformer blocks with bidirectional attention, as CLIP, DINOv2 and FQGAN's adapters use them."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    'gelu': lambda x: nn.gelu(x, approximate=False),
    'quick_gelu': lambda x: x * nn.sigmoid(1.702 * x),  # the original CLIP weights need this one
}


class SelfAttention(nn.Module):
    """Multi-head self-attention with biases; softmax in float32.

    Attributes:
      num_heads: heads; the width must be a multiple of it.
      dtype: computation type of the matrix products.
      kernel_init: initializer of both kernels.
    """

    num_heads: int
    dtype: Any = jnp.float32
    kernel_init: Callable[..., Any] = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: Float[Array, 'b n d']) -> Float[Array, 'b n d']:
        """Attends over the n positions."""
        b, n, d = x.shape
        if d % self.num_heads:
            raise ValueError(f'width {d} is not a multiple of num_heads {self.num_heads}')
        qkv = nn.Dense(3 * d, dtype=self.dtype, kernel_init=self.kernel_init, name='qkv')(x)
        q, k, v = jnp.moveaxis(qkv.reshape(b, n, 3, self.num_heads, d // self.num_heads), 2, 0)
        logits = jnp.einsum('bqhc,bkhc->bhqk', q * (d // self.num_heads) ** -0.5, k)
        weights = nn.softmax(logits.astype(jnp.float32)).astype(v.dtype)
        out = jnp.einsum('bhqk,bkhc->bqhc', weights, v).reshape(b, n, d)
        return nn.Dense(d, dtype=self.dtype, kernel_init=self.kernel_init, name='out')(out)


class TransformerBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)).

    Attributes:
      num_heads: attention heads.
      mlp_ratio: hidden width of the MLP over the width.
      activation: 'gelu' (exact) or 'quick_gelu'.
      epsilon: of the layer norms.
      layer_scale: whether each branch has a learned per-channel factor (DINOv2).
      dtype: computation type.
    """

    num_heads: int
    mlp_ratio: float = 4.0
    activation: str = 'gelu'
    epsilon: float = 1e-5
    layer_scale: bool = False
    dtype: Any = jnp.float32

    def _scale(self, x: jax.Array, name: str) -> jax.Array:
        if not self.layer_scale:
            return x
        return x * self.param(name, nn.initializers.constant(1e-5), (x.shape[-1],)).astype(x.dtype)

    @nn.compact
    def __call__(self, x: Float[Array, 'b n d']) -> Float[Array, 'b n d']:
        """Applies both branches."""
        d = x.shape[-1]
        y = nn.LayerNorm(epsilon=self.epsilon, dtype=self.dtype, name='norm1')(x)
        x = x + self._scale(SelfAttention(self.num_heads, dtype=self.dtype, name='attention')(y), 'scale1')
        y = nn.LayerNorm(epsilon=self.epsilon, dtype=self.dtype, name='norm2')(x)
        y = nn.Dense(int(d * self.mlp_ratio), dtype=self.dtype, name='mlp_in')(y)
        y = nn.Dense(d, dtype=self.dtype, name='mlp_out')(ACTIVATIONS[self.activation](y))
        return x + self._scale(y, 'scale2')
