"""Transformer denoiser of discrete diffusion, with attention over all cells."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vistok.generators.diffusion.denoiser import ConditionEmbedding, StateEmbedding
from vistok.networks.dropout import Dropout
from vistok.networks.norms import LayerNorm
from vistok.networks.transformer import TransformerBlock


class TransformerDenoiser(nn.Module):
    """Bidirectional transformer (see `denoiser.py`) over the cells of one grid and a condition token.

    The embedding of the condition is also added to the cells.

    Attributes:
      states: number of states of each sub-codebook.
      outputs: number of logits of each position.
      channels: width.
      layers: number of blocks.
      heads: attention heads; they divide the width.
      num_classes: 0 for a model without condition.
      dropout: dropout rate of the embeddings.
      dtype: computation type; the logits are float32.
      remat: whether the backward pass recomputes the blocks.
    """

    states: tuple[int, ...]
    outputs: int
    channels: int = 512
    layers: int = 12
    heads: int = 8
    num_classes: int = 0
    dropout: float = 0.0
    dtype: Any = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(
        self,
        states: Int[Array, 'b h w k'],
        time: Float[Array, ' b'],
        cond: Int[Array, ' b'],
        *,
        train: bool = False,
    ) -> Float[Array, 'b h w o']:
        """Computes logits of all cells."""
        b, h, w, _ = states.shape
        width = self.channels
        small = nn.initializers.normal(0.02)
        condition = ConditionEmbedding(width, self.num_classes, name='condition')(time, cond).astype(self.dtype)
        x = StateEmbedding(self.states, width, dtype=self.dtype, name='embedding')(states).reshape(b, h * w, width)
        x = jnp.concatenate([condition[:, None], x + condition[:, None]], axis=1)
        # The same scale as the state embeddings: with 0.02, positions have no effect for hundreds of training steps.
        positions = self.param('positions', nn.initializers.normal(1.0), (1 + h * w, width))
        x = x + positions.astype(self.dtype)
        x = Dropout(self.dropout, deterministic=not train)(x)
        block = nn.remat(TransformerBlock) if self.remat else TransformerBlock
        for i in range(self.layers):
            x = block(self.heads, dtype=self.dtype, name=f'block_{i}')(x)
        x = LayerNorm(dtype=self.dtype, name='norm')(x[:, 1:])
        logits = nn.Dense(self.outputs, dtype=self.dtype, kernel_init=small, name='logits')(x)
        return logits.astype(jnp.float32).reshape(b, h, w, self.outputs)
