"""Pre-norm transformer blocks with bidirectional attention (CLIP, DINOv2, adapters, predictors of masked tokens)."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from vistok.collectives import replica_index
from vistok.errors import UserError
from vistok.networks.dropout import Dropout
from vistok.networks.norms import LayerNorm

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
      dropout: dropout rate of the attention weights and of the result, in training.
    """

    num_heads: int
    dtype: Any = jnp.float32
    kernel_init: Callable[..., Any] = nn.initializers.lecun_normal()
    dropout: float = 0.0

    @nn.compact
    def __call__(
        self, x: Float[Array, 'b n d'], visible: Bool[Array, 'b n'] | None = None, *, train: bool = False
    ) -> Float[Array, 'b n d']:
        """Attends over the n positions, or over those that are visible (at least one is)."""
        b, n, d = x.shape
        if d % self.num_heads:
            raise UserError(f'width {d} is not a multiple of num_heads {self.num_heads}')
        qkv = nn.Dense(3 * d, dtype=self.dtype, kernel_init=self.kernel_init, name='qkv')(x)
        q, k, v = jnp.moveaxis(qkv.reshape(b, n, 3, self.num_heads, d // self.num_heads), 2, 0)
        logits = jnp.einsum('bqhc,bkhc->bhqk', q * (d // self.num_heads) ** -0.5, k).astype(jnp.float32)
        if visible is not None:
            logits = jnp.where(visible[:, None, None], logits, -jnp.inf)
        drop = Dropout(self.dropout, deterministic=not train)
        weights = drop(nn.softmax(logits).astype(v.dtype))
        out = jnp.einsum('bhqk,bkhc->bqhc', weights, v).reshape(b, n, d)
        return drop(nn.Dense(d, dtype=self.dtype, kernel_init=self.kernel_init, name='out')(out))


def drop_samples(key: jax.Array, x: Float[Array, 'b n d'], rate: Float[Array, ''] | float) -> Float[Array, 'b n d']:
    """Drops whole samples at random and scales the others by 1 / (1 - rate): stochastic depth of a residual branch.

    Huang et al., "Deep Networks with Stochastic Depth", 2016.  What is dropped follows from the key and the number of
    the sample in the global batch, so that it does not depend on the devices.

    Args:
      key: random key, the same on all devices.
      x: output of the branch.
      rate: probability of dropping a sample, below 1.
    """
    numbers = replica_index() * len(x) + jnp.arange(len(x))
    keys = jax.vmap(lambda number: jax.random.fold_in(key, number))(numbers)
    kept = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate))(keys)
    return x * (kept / (1 - rate)).astype(x.dtype)[:, None, None]


class TransformerBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)).

    Attributes:
      num_heads: attention heads.
      mlp_ratio: hidden width of the MLP over the width.
      activation: 'gelu' (exact) or 'quick_gelu'.
      epsilon: added to the variance in the layer norms.
      layer_scale: whether each branch has a learned per-channel factor (DINOv2).
      dtype: computation type.
      kernel_init: initializer of all kernels.
      dropout: dropout rate of attention weights, hidden units of the MLP and results of both branches, in training.
    """

    num_heads: int
    mlp_ratio: float = 4.0
    activation: str = 'gelu'
    epsilon: float = 1e-5
    layer_scale: bool = False
    dtype: Any = jnp.float32
    kernel_init: Callable[..., Any] = nn.initializers.lecun_normal()
    dropout: float = 0.0

    def _scale(self, x: jax.Array, name: str) -> jax.Array:
        if not self.layer_scale:
            return x
        return x * self.param(name, nn.initializers.constant(1e-5), (x.shape[-1],)).astype(x.dtype)

    @nn.compact
    def __call__(
        self,
        x: Float[Array, 'b n d'],
        visible: Bool[Array, 'b n'] | None = None,
        *,
        train: bool = False,
        drop_path: Float[Array, ''] | float = 0.0,
    ) -> Float[Array, 'b n d']:
        """Applies both branches; only visible positions are attended to.

        Args:
          x: features.
          visible: mask of the positions that are attended to; None: all.
          train: whether dropout and stochastic depth are on.
          drop_path: probability of leaving out a branch of a sample (see `drop_samples`; random stream 'drop_path').
        """
        d = x.shape[-1]
        deep = not train or (isinstance(drop_path, float) and drop_path == 0)

        def branch(y: jax.Array) -> jax.Array:
            return y if deep else drop_samples(self.make_rng('drop_path'), y, drop_path)

        drop = Dropout(self.dropout, deterministic=not train)
        attention = SelfAttention(
            self.num_heads, dtype=self.dtype, kernel_init=self.kernel_init, dropout=self.dropout, name='attention'
        )
        y = LayerNorm(epsilon=self.epsilon, dtype=self.dtype, name='norm1')(x)
        x = x + branch(self._scale(attention(y, visible, train=train), 'scale1'))
        y = LayerNorm(epsilon=self.epsilon, dtype=self.dtype, name='norm2')(x)
        y = nn.Dense(int(d * self.mlp_ratio), dtype=self.dtype, kernel_init=self.kernel_init, name='mlp_in')(y)
        y = drop(ACTIVATIONS[self.activation](y))
        y = drop(nn.Dense(d, dtype=self.dtype, kernel_init=self.kernel_init, name='mlp_out')(y))
        return x + branch(self._scale(y, 'scale2'))
