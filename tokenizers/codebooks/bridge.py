"""VQBridge: a small transformer that computes the codewords from a table.

Chang et al., "Scalable Training for Vector-Quantized Networks with 100% Codebook Utilization" (FVQ, 2025).  The table
is laid out as an image whose pixels are its rows, cut into patches (compress), passed through transformer blocks
(process) and put together again (recover).  Every codeword depends on every parameter, so codewords that are not
chosen move as well.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vistok.errors import UserError
from vistok.networks.norms import LayerNorm
from vistok.networks.transformer import SelfAttention
from vistok.tokenizers.codebooks.codebook import Codebook

_XAVIER = nn.initializers.xavier_uniform()
# A patch is one vector, as if the convolution were a matrix.
_XAVIER_PATCH = nn.initializers.variance_scaling(1.0, 'fan_avg', 'uniform', in_axis=(0, 1, 2), out_axis=3)


class BridgedCodebook(Codebook):
    """Codebook whose codewords a bridge computes from a table.

    Attributes:
      table: module that returns `[K, d]` when called without arguments.
      bridge: module that turns it into the codewords, `[K, d]`.
    """

    table: nn.Module
    bridge: nn.Module

    def __call__(self) -> Float[Array, 'K d']:
        """Computes the codewords in float32 at full matmul precision, so that every device finds the same nearest."""
        with jax.default_matmul_precision('highest'):
            return self.bridge(self.table())


class VQBridge(nn.Module):
    """Transformer that maps a table to codewords.  The defaults are the paper's bridge ("ViT") for 16,384 codewords.

    Attributes:
      patch: side of a patch, in codewords; K must be a multiple of patch^2.
      width: width of the transformer.
      depth: number of transformer blocks.
      num_heads: number of attention heads.
      mlp_ratio: hidden width of the MLPs over the width.
      positions: whether fixed sines and cosines of a patch's place are added.
      conditioned: whether norms are modulated by one learned vector, with gates that are closed at first (adaLN-Zero).
        With `positions` this is the bridge of the published training scripts ("DiT").
      remat: whether blocks are computed again in the backward pass, to save memory.
    """

    patch: int = 4
    width: int = 256
    depth: int = 2
    num_heads: int = 4
    mlp_ratio: float = 2.0
    positions: bool = False
    conditioned: bool = False
    remat: bool = False

    @nn.compact
    def __call__(self, table: Float[Array, 'K d']) -> Float[Array, 'K d']:
        """Computes the codewords of `table`; all zero at initialization, because the last kernel is.

        Raises:
          UserError: K is not a multiple of patch^2, or `positions` with a width that is not a multiple of 4.
        """
        size, dim = table.shape
        rows, columns = (side // self.patch for side in code_grid(size, self.patch))
        image = table.astype(jnp.float32).reshape(1, rows * self.patch, columns * self.patch, dim)
        square = (self.patch, self.patch)
        x = nn.Conv(self.width, square, square, 'VALID', kernel_init=_XAVIER_PATCH, name='compress')(image)
        x = x.reshape(1, rows * columns, self.width)
        if self.positions:
            x = x + self.variable('frozen', 'positions', sin_cos_positions, rows, columns, self.width).value
        condition = None
        if self.conditioned:
            condition = jnp.asarray(self.param('condition', nn.initializers.normal(0.02), (1, self.width)))

        block = nn.remat(BridgeBlock) if self.remat else BridgeBlock
        for i in range(self.depth):
            x = block(self.num_heads, self.mlp_ratio, name=f'block_{i}')(x, condition)

        x = _layer_norm(x)
        if condition is not None:
            shift, scale = Modulation(2, name='modulation_out')(condition)
            x = x * (1 + scale) + shift
        x = nn.Dense(self.patch**2 * dim, kernel_init=nn.initializers.zeros, name='recover')(x)
        x = x.reshape(rows, columns, self.patch, self.patch, dim).transpose(0, 2, 1, 3, 4)
        return x.reshape(size, dim)


class BridgeBlock(nn.Module):
    """Pre-norm transformer block whose norms have no parameters of their own.

    Attributes:
      num_heads: attention heads.
      mlp_ratio: hidden width of the MLP over the width.
    """

    num_heads: int
    mlp_ratio: float = 2.0

    @nn.compact
    def __call__(self, x: Float[Array, '1 n d'], condition: Float[Array, '1 d'] | None = None) -> Float[Array, '1 n d']:
        """Applies attention and MLP; `condition` shifts, scales and gates both."""
        d = x.shape[-1]
        shift1 = scale1 = shift2 = scale2 = jnp.zeros(())
        gate1 = gate2 = jnp.ones(())
        if condition is not None:
            shift1, scale1, gate1, shift2, scale2, gate2 = Modulation(6, name='modulation')(condition)
        attention = SelfAttention(self.num_heads, kernel_init=_XAVIER, name='attention')
        x = x + gate1 * attention(_layer_norm(x) * (1 + scale1) + shift1)
        y = _layer_norm(x) * (1 + scale2) + shift2
        y = nn.gelu(nn.Dense(int(d * self.mlp_ratio), kernel_init=_XAVIER, name='mlp_in')(y), approximate=True)
        return x + gate2 * nn.Dense(d, kernel_init=_XAVIER, name='mlp_out')(y)


class Modulation(nn.Module):
    """Linear layer that computes shifts, scales and gates from one vector; all zero at initialization.

    Attributes:
      parts: number of vectors.
    """

    parts: int

    @nn.compact
    def __call__(self, condition: Float[Array, '1 d']) -> list[Float[Array, '1 d']]:
        """Computes vectors as wide as `condition`."""
        width = self.parts * condition.shape[-1]
        y = nn.Dense(width, kernel_init=nn.initializers.zeros, name='dense')(nn.silu(condition))
        return jnp.split(y, self.parts, axis=-1)


def code_grid(size: int, patch: int) -> tuple[int, int]:
    """Returns the rows and columns of the squarest grid of `size` codewords that can be cut into patches.

    Raises:
      UserError: there is none.
    """
    patches, rest = divmod(size, patch**2)
    if rest or not patches:
        raise UserError(
            f'{size} codewords cannot be cut into patches of {patch}x{patch}; take a multiple of {patch**2}'
        )
    rows = next(r for r in range(math.isqrt(patches), 0, -1) if patches % r == 0)
    return rows * patch, patches // rows * patch


def sin_cos_positions(rows: int, columns: int, width: int) -> Float[Array, '1 n d']:
    """Computes sines and cosines of the column (first half of the channels) and row (second half) of each cell.

    Raises:
      UserError: the width is not a multiple of 4.
    """
    if width % 4:
        raise UserError(f'positions need a width that is a multiple of 4, got {width}')
    frequencies = 10_000.0 ** -(np.arange(width // 4) / (width // 4))

    def waves(places: np.ndarray) -> np.ndarray:
        angles = places.reshape(-1, 1) * frequencies
        return np.concatenate([np.sin(angles), np.cos(angles)], axis=-1)

    row, column = np.indices((rows, columns))
    return jnp.asarray(np.concatenate([waves(column), waves(row)], axis=-1)[None], jnp.float32)


def _layer_norm(x: Any) -> Any:
    """Applies a layer norm without parameters."""
    return LayerNorm(epsilon=1e-6, use_bias=False, use_scale=False)(x)
