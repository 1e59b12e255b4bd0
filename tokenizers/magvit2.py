"""Convolutional networks of Open-MAGVIT2, without attention, around one codebook.

Luo et al., "Open-MAGVIT2: An Open-Source Project Toward Democratizing Auto-Regressive Visual Generation" (2024), whose
networks follow Yu et al., "Language Model Beats Diffusion" (2023).  SimVQ is trained on them.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vistok.networks.convolution import Conv, Dense
from vistok.networks.norms import GroupNorm
from vistok.tokenizers.codebooks.codebook import Codebook, LearnedCodebook
from vistok.tokenizers.networks.blocks import ResBlock, check_sides
from vistok.tokenizers.quantizers.vector import VectorQuantizer
from vistok.tokenizers.tokenizer import Tokenizer, TokenizerOutput, Tokens, TokenSpec


class Magvit2Encoder(nn.Module):
    """Convolutional encoder of images; convolutions between norms have no bias.

    Attributes:
      channels: width at the finest level.
      channel_multipliers: width of each level over `channels`; there are one fewer halvings than levels.
      res_blocks: residual blocks per level, and in the middle.
      latent_channels: width of the result.
      dtype: computation type.
      remat: whether blocks are computed again in the backward pass.
    """

    channels: int = 128
    channel_multipliers: Sequence[int] = (1, 2, 2, 4)
    res_blocks: int = 2
    latent_channels: int = 128
    dtype: Any = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, images: Float[Array, 'b H W 3']) -> Float[Array, 'b h w d']:
        """Encodes images in [-1, 1] into latents; sides are multiples of 2^(levels - 1)."""
        levels = len(self.channel_multipliers)
        check_sides(images.shape[1:3], 2 ** (levels - 1))
        res = nn.remat(ResBlock) if self.remat else ResBlock
        x = Conv(self.channels, (3, 3), use_bias=False, dtype=self.dtype, name='conv_in')(images)
        for level, multiplier in enumerate(self.channel_multipliers):
            for i in range(self.res_blocks):
                width = self.channels * multiplier
                x = res(width, use_bias=False, dtype=self.dtype, name=f'level_{level}_res_{i}')(x)
            if level < levels - 1:
                x = Conv(
                    x.shape[-1],
                    (3, 3),
                    strides=(2, 2),
                    padding=((1, 1), (1, 1)),
                    dtype=self.dtype,
                    name=f'level_{level}_downsample',
                )(x)
        for i in range(self.res_blocks):
            x = res(x.shape[-1], use_bias=False, dtype=self.dtype, name=f'mid_{i}')(x)
        x = nn.swish(GroupNorm(dtype=self.dtype, name='norm_out')(x))
        return Dense(self.latent_channels, dtype=self.dtype, name='conv_out')(x)


class Magvit2Decoder(nn.Module):
    """Convolutional decoder that mirrors the encoder; upsampling is `depth_to_space` of four times the width.

    Attributes:
      channels: width at the finest level.
      channel_multipliers: width of each level over `channels`, from fine to coarse like the encoder's.
      res_blocks: residual blocks per level, and in the middle.
      dtype: computation type; the last convolution is float32.
      remat: whether blocks are computed again in the backward pass.
    """

    channels: int = 128
    channel_multipliers: Sequence[int] = (1, 2, 2, 4)
    res_blocks: int = 2
    dtype: Any = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, latents: Float[Array, 'b h w d']) -> Float[Array, 'b H W 3']:
        """Decodes latents into images, not clipped."""
        res = nn.remat(ResBlock) if self.remat else ResBlock
        x = Conv(self.channels * self.channel_multipliers[-1], (3, 3), dtype=self.dtype, name='conv_in')(latents)
        for i in range(self.res_blocks):
            x = res(x.shape[-1], use_bias=False, dtype=self.dtype, name=f'mid_{i}')(x)
        for level, multiplier in enumerate(reversed(self.channel_multipliers)):
            for i in range(self.res_blocks):
                width = self.channels * multiplier
                x = res(width, use_bias=False, dtype=self.dtype, name=f'level_{level}_res_{i}')(x)
            if level < len(self.channel_multipliers) - 1:
                x = Conv(4 * x.shape[-1], (3, 3), dtype=self.dtype, name=f'level_{level}_upsample')(x)
                x = depth_to_space(x)
        x = nn.swish(GroupNorm(name='norm_out')(x))
        return Conv(3, (3, 3), name='conv_out')(x)


def depth_to_space(x: Float[Array, 'b h w c4']) -> Float[Array, 'b H W c']:
    """Rearranges every four channel groups into 2x2 pixels: first the upper row, then the lower one."""
    b, h, w, c = x.shape
    return x.reshape(b, h, w, 2, 2, c // 4).transpose(0, 1, 3, 2, 4, 5).reshape(b, 2 * h, 2 * w, c // 4)


class Magvit2VQ(Tokenizer):
    """Open-MAGVIT2's networks with one codebook between them, as wide as the latents.

    Attributes:
      channels: width at the finest level.
      channel_multipliers: width of each level over `channels`; the grid is 2^(levels - 1) times smaller than the image.
      res_blocks: residual blocks per level, and in the middle, of either network.
      codebook_size: number of codewords.
      codebook_dim: width of the codewords and of the latents.
      codebook_weight: weight of the loss that moves codewords to vectors.
      commitment_weight: weight of the loss that moves vectors to codewords.
      dtype: computation type of the networks; parameters and the quantizer stay float32.
      remat: whether blocks are computed again in the backward pass, to save memory.
    """

    channels: int = 128
    channel_multipliers: Sequence[int] = (1, 2, 2, 4)
    res_blocks: int = 2
    codebook_size: int = 65_536
    codebook_dim: int = 128
    codebook_weight: float = 1.0
    commitment_weight: float = 0.25
    dtype: Any = jnp.float32
    remat: bool = False

    def setup(self) -> None:
        sizes = {
            'channels': self.channels,
            'channel_multipliers': self.channel_multipliers,
            'res_blocks': self.res_blocks,
            'dtype': self.dtype,
            'remat': self.remat,
        }
        self.encoder = self.make_encoder(latent_channels=self.codebook_dim, **sizes)
        self.quantizer = VectorQuantizer(
            codebook=self.make_codebook(),
            codebook_weight=self.codebook_weight,
            commitment_weight=self.commitment_weight,
        )
        self.decoder = self.make_decoder(**sizes)

    def make_encoder(self, **sizes: Any) -> nn.Module:
        """Returns the encoder; papers that differ in the networks override this and `make_decoder`."""
        return Magvit2Encoder(**sizes)

    def make_decoder(self, **sizes: Any) -> nn.Module:
        """Returns the decoder behind the codebook."""
        return Magvit2Decoder(**sizes)

    def make_codebook(self) -> Codebook:
        """Returns the codebook; papers that differ in nothing else override this."""
        return LearnedCodebook(self.codebook_size, self.codebook_dim, parent=None)

    @property
    def spec(self) -> TokenSpec:
        """One codebook."""
        return TokenSpec((self.codebook_size,), 2 ** (len(self.channel_multipliers) - 1))

    def __call__(self, images: Float[Array, 'b H W 3'], *, train: bool = False) -> TokenizerOutput:
        """Reconstructs `images`; losses 'codebook' and 'commitment'."""
        quantized = self.quantizer(self.encoder(images), train=train)
        return TokenizerOutput(
            reconstruction=self.decode_latents(quantized.z_q),
            tokens=Tokens(ids=quantized.ids[..., None]),
            losses=quantized.losses,
        )

    def encode(self, images: Float[Array, 'b H W 3']) -> Tokens:
        return Tokens(ids=self.quantizer(self.encoder(images)).ids[..., None])

    def embed(self, tokens: Tokens) -> Float[Array, 'b h w d']:
        return self.quantizer.embed(jnp.asarray(tokens.ids[..., 0]))

    def decode_latents(self, latents: Float[Array, 'b h w d']) -> Float[Array, 'b H W 3']:
        return self.decoder(latents).astype(jnp.float32)
