"""The bidirectional transformer of predictors of masked tokens, and the head that compares with codeword vectors."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from vistok.networks.transformer import TransformerBlock

XAVIER = nn.initializers.xavier_uniform()
NORMAL = nn.initializers.normal(0.02)
_PUBLISHED_WIDTH = 768


def table_init(width: int) -> Any:
    """How tables of vectors begin: with a deviation of 0.02 from the published widths on, below them with a larger one.

    `CodewordHead` compares normalised vectors, of length sqrt(width), with the rows of a table.  No logit exceeds
    sqrt(width) times the length of a row, 0.02 width to begin with: 15 in the published models, 3 at width 128, too
    little for any prediction to be sure.  Below the published widths 15 is kept.
    """
    return nn.initializers.normal(0.02 * max(1.0, _PUBLISHED_WIDTH / width))


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
    """Logits that compare hidden vectors with a table of vectors.

    Attributes:
      detached: whether the table is not trained through them, as in the published models.
      dtype: computation type; logits are float32.
    """

    detached: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b n d'], table: Float[Array, 'v d']) -> Float[Array, 'b n v']:
        """One logit for each row of the table."""
        x = nn.Dense(table.shape[1], dtype=self.dtype, kernel_init=XAVIER, name='dense')(x)
        x = nn.LayerNorm(epsilon=1e-5, dtype=self.dtype, name='norm')(nn.gelu(x, approximate=False))
        rows = jax.lax.stop_gradient(table) if self.detached else table
        logits = jnp.einsum('bnd,vd->bnv', x, rows.astype(self.dtype), preferred_element_type=jnp.float32)
        return logits + self.param('bias', nn.initializers.zeros, (table.shape[0],))
