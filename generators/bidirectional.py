"""The bidirectional transformer of predictors of masked tokens, and the head that compares with codeword vectors."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from tesserax.common.nn.transformer import TransformerBlock

XAVIER = nn.initializers.xavier_uniform()
NORMAL = nn.initializers.normal(0.02)


class Bidirectional(nn.Module):
    """Blocks and a last norm.  Layers are stacked and scanned over, so that a program is compiled for one of them.

    Attributes:
      layers: blocks.
      heads: attention heads.
      dropout: inside the blocks.
      remat: whether a backward pass computes the blocks again.
      dtype: computation type.
    """

    layers: int
    heads: int
    dropout: float = 0.0
    remat: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, 'b n d'], visible: Bool[Array, 'b n'] | None = None, *, train: bool = False
    ) -> Float[Array, 'b n d']:
        """All blocks; positions attend to those that are visible."""

        def layer(block: TransformerBlock, x: jax.Array, _: None) -> tuple[jax.Array, None]:
            return block(x, visible, train=train), None

        walk = nn.scan(
            nn.remat(layer, prevent_cse=False) if self.remat and train else layer,
            variable_axes={'params': 0},
            split_rngs={'params': True, 'dropout': True},
            length=self.layers,
        )
        block = TransformerBlock(
            self.heads, epsilon=1e-6, dtype=self.dtype, kernel_init=XAVIER, dropout=self.dropout, name='layers'
        )
        x, _ = walk(block, x, None)
        return nn.LayerNorm(epsilon=1e-6, dtype=self.dtype, name='norm')(x)


class CodewordHead(nn.Module):
    """Logits that compare hidden vectors with a table of vectors.  The table is not trained through them.

    Attributes:
      dtype: computation type; logits are float32.
    """

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b n d'], table: Float[Array, 'v d']) -> Float[Array, 'b n v']:
        """One logit for each row of the table."""
        x = nn.Dense(table.shape[1], dtype=self.dtype, kernel_init=XAVIER, name='dense')(x)
        x = nn.LayerNorm(epsilon=1e-5, dtype=self.dtype, name='norm')(nn.gelu(x, approximate=False))
        rows = jax.lax.stop_gradient(table).astype(self.dtype)
        logits = jnp.einsum('bnd,vd->bnv', x, rows, preferred_element_type=jnp.float32)
        return logits + self.param('bias', nn.initializers.zeros, (table.shape[0],))
