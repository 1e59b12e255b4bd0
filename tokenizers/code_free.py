"""VQGAN's networks around quantizers without a codebook (FSQ, LFQ, BSQ), baselines for learned codebooks.

Mentzer et al., "Finite Scalar Quantization" (FSQ, 2023); Yu et al., "Language Model Beats Diffusion" (LFQ, 2023); Zhao
et al., "Image and Video Tokenization with Binary Spherical Quantization" (BSQ, 2024).
"""

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vistok.tokenizers.quantizers.scalar import BinarySphericalQuantizer, FiniteScalarQuantizer, LookupFreeQuantizer
from vistok.tokenizers.tokenizer import Tokens, TokenSpec
from vistok.tokenizers.vqgan import ConvTokenizer


class FSQ(ConvTokenizer):
    """VQGAN with finite scalar quantization: every channel is rounded to a few levels.

    Attributes:
      levels: values per channel; the paper's choice for 2^14 codewords, 8 x 8 x 8 x 6 x 5 = 15,360.
    """

    levels: Sequence[int] = (8, 8, 8, 6, 5)

    @property
    def quantized_width(self) -> int:
        """One channel per entry of `levels`."""
        return len(self.levels)

    def make_quantizer(self) -> nn.Module:
        """Returns a finite scalar quantizer, which has no losses."""
        return FiniteScalarQuantizer(tuple(self.levels))

    @property
    def spec(self) -> TokenSpec:
        """One implicit codebook."""
        return TokenSpec((math.prod(self.levels),), self.downsample_factor)

    def embed(self, tokens: Tokens) -> Float[Array, 'b h w d']:
        return self.quantizer.embed(jnp.asarray(tokens.ids[..., 0]))


class LFQ(ConvTokenizer):
    """VQGAN with lookup-free quantization: every channel becomes its sign.

    Attributes:
      bits: channels, one bit each.
      groups: ids per position.
      commitment_weight: weight of the loss that moves vectors to signs.
      entropy_weight: weight of the entropy loss.
      entropy_temperature: temperature of the soft assignment in the entropy loss.
    """

    bits: int = 14
    groups: int = 1
    commitment_weight: float = 0.25
    entropy_weight: float = 0.1
    entropy_temperature: float = 1.0

    @property
    def quantized_width(self) -> int:
        """One channel per bit."""
        return self.bits

    def make_quantizer(self) -> nn.Module:
        """Returns a lookup-free quantizer; losses 'commitment' and, in training, 'entropy'."""
        return LookupFreeQuantizer(**self._arguments())

    @property
    def spec(self) -> TokenSpec:
        """One implicit codebook per group."""
        names = ('code',) if self.groups == 1 else tuple(f'group_{i}' for i in range(self.groups))
        return TokenSpec((2 ** (self.bits // self.groups),) * self.groups, self.downsample_factor, names)

    def embed(self, tokens: Tokens) -> Float[Array, 'b h w d']:
        return self.quantizer.embed(jnp.asarray(tokens.ids))

    def _arguments(self) -> dict[str, Any]:
        return {
            'bits': self.bits,
            'groups': self.groups,
            'commitment_weight': self.commitment_weight,
            'entropy_weight': self.entropy_weight,
            'entropy_temperature': self.entropy_temperature,
        }


class BSQ(LFQ):
    """VQGAN with binary spherical quantization: signs on the unit sphere."""

    commitment_weight: float = 0.0
    entropy_temperature: float = 0.02

    def make_quantizer(self) -> nn.Module:
        """Returns a binary spherical quantizer; losses 'commitment' if it has a weight and, in training, 'entropy'."""
        return BinarySphericalQuantizer(**self._arguments())
