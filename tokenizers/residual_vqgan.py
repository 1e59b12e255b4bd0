"""VQGANs with several codewords per position, which add up: one after the other, or scale after scale.

Lee et al., "Autoregressive Image Generation using Residual Quantization" (2022), and Tian et al., "Visual
Autoregressive Modeling" (VAR, 2024), both with one codebook for all of a position's codewords.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vistok.errors import UserError
from vistok.tokenizers.quantizers.multiscale import MultiScaleQuantizer
from vistok.tokenizers.quantizers.residual import ResidualQuantizer
from vistok.tokenizers.tokenizer import Tokens, TokenSpec
from vistok.tokenizers.vqgan import VQGAN


class ResidualVQGAN(VQGAN):
    """VQGAN with a residual quantizer; each depth is a sub-codebook of the tokens.

    Sums of codewords have neither unit norm nor an entropy loss.

    Attributes:
      depth: codewords per position.
    """

    codebook_dim: int = 256
    normalize: bool = False
    depth: int = 4

    def make_quantizer(self) -> nn.Module:
        _refuse_unit_norm_and_entropy(self)
        return ResidualQuantizer(
            codebook=self.make_codebook(),
            depth=self.depth,
            codebook_weight=self.codebook_weight,
            commitment_weight=self.commitment_weight,
        )

    @property
    def spec(self) -> TokenSpec:
        """The same codebook at each depth."""
        names = tuple(f'depth_{i}' for i in range(self.depth))
        return TokenSpec((self.codebook_size,) * self.depth, self.downsample_factor, names)

    def embed(self, tokens: Tokens) -> Float[Array, 'b h w d']:
        """Adds up the codewords of `tokens`."""
        return self.quantizer.embed(jnp.asarray(tokens.ids))


class MultiScaleVQGAN(VQGAN):
    """VQGAN with a multi-scale quantizer; each scale is a sub-codebook of the tokens.

    The grid is dense, as that of all tokens: the id of a coarse cell is repeated over the positions it covers.  Sums of
    codewords have neither unit norm nor an entropy loss.

    Attributes:
      scales: sides of the grids for images of `scales[-1] * downsample_factor` pixels; others have grids in
        proportion.
    """

    codebook_dim: int = 32
    normalize: bool = False
    scales: Sequence[int] = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)

    def make_quantizer(self) -> nn.Module:
        _refuse_unit_norm_and_entropy(self)
        return MultiScaleQuantizer(
            codebook=self.make_codebook(),
            dim=self.codebook_dim,
            scales=self.scales,
            codebook_weight=self.codebook_weight,
            commitment_weight=self.commitment_weight,
        )

    @property
    def spec(self) -> TokenSpec:
        """The same codebook at each scale."""
        names = tuple(f'scale_{scale}' for scale in self.scales)
        return TokenSpec((self.codebook_size,) * len(self.scales), self.downsample_factor, names)

    def embed(self, tokens: Tokens) -> Float[Array, 'b h w d']:
        """Adds up the upsampled codewords of `tokens` over the scales."""
        return self.quantizer.embed(jnp.asarray(tokens.ids))


def _refuse_unit_norm_and_entropy(tokenizer: VQGAN) -> None:
    if tokenizer.normalize or tokenizer.entropy_weight:
        raise UserError(
            f'sums of codewords have neither unit norm nor an entropy loss, got normalize={tokenizer.normalize} and '
            f'entropy_weight={tokenizer.entropy_weight}'
        )
