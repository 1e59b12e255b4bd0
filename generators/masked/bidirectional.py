"""Bidirectional transformer of masked-token predictors, and the head that compares features with codeword vectors."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from vistok.networks.norms import LayerNorm
from vistok.networks.transformer import TransformerBlock

XAVIER = nn.initializers.xavier_uniform()
NORMAL = nn.initializers.normal(0.02)
_PUBLISHED_WIDTH = 768


def table_init(width: int) -> Any:
    """Returns the initializer of embedding tables: deviation 0.02 at the published widths, larger below.

    `CodewordHead` compares normalized vectors, of length sqrt(width), with the rows of a table.  No logit exceeds
    sqrt(width) times the length of a row, initially 0.02 width: 15 in the published models, but 3 at width 128, too
    little for a confident prediction.  Below the published widths the bound of 15 is kept.
    """
    return nn.initializers.normal(0.02 * max(1.0, _PUBLISHED_WIDTH / width))


class Bidirectional(nn.Module):
    """Bidirectional transformer: blocks and a last norm; layers are scanned over, so that only one is compiled.

    Attributes:
      layers: number of blocks.
      heads: attention heads.
      dropout: dropout rate inside the blocks.
      remat: whether the backward pass recomputes the blocks.
      dtype: computation type.
    """

    layers: int
    heads: int
    dropout: float = 0.0
    remat: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, 'b n d'],
        visible: Bool[Array, 'b n'] | None = None,
        *,
        train: bool = False,
        drop_path: float = 0.0,
    ) -> Float[Array, 'b n d']:
        """Applies all blocks in their order.

        Args:
          x: features.
          visible: mask of the positions that are attended to; None: all.
          train: whether dropout and stochastic depth are on.
          drop_path: probability of leaving out a branch of the last block; that of the others grows linearly from 0.
        """
        rates = jnp.linspace(0, drop_path, self.layers) if train and drop_path else None

        def layer(block: TransformerBlock, x: jax.Array, rate: jax.Array | None) -> tuple[jax.Array, None]:
            return block(x, visible, train=train, drop_path=0.0 if rate is None else rate), None

        stack = nn.scan(
            nn.remat(layer, prevent_cse=False) if self.remat and train else layer,
            variable_axes={'params': 0},
            split_rngs={'params': True, 'dropout': True, 'drop_path': True},
            length=self.layers,
        )
        block = TransformerBlock(
            self.heads, epsilon=1e-6, dtype=self.dtype, kernel_init=XAVIER, dropout=self.dropout, name='layers'
        )
        x, _ = stack(block, x, rates)
        return LayerNorm(epsilon=1e-6, dtype=self.dtype, name='norm')(x)


class CodewordHead(nn.Module):
    """Output head whose logits are inner products with a table of token embeddings.

    Attributes:
      detached: whether gradients of the logits stop at the table, as in the published models.
      dtype: computation type; logits are float32.
    """

    detached: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b n d'], table: Float[Array, 'v d']) -> Float[Array, 'b n v']:
        """Computes one logit for each row of the table."""
        x = nn.Dense(table.shape[1], dtype=self.dtype, kernel_init=XAVIER, name='dense')(x)
        x = LayerNorm(epsilon=1e-5, dtype=self.dtype, name='norm')(nn.gelu(x, approximate=False))
        rows = jax.lax.stop_gradient(table) if self.detached else table
        logits = jnp.einsum('bnd,vd->bnv', x, rows.astype(self.dtype), preferred_element_type=jnp.float32)
        return logits + self.param('bias', nn.initializers.zeros, (table.shape[0],))
