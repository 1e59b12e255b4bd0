"""VQGAN: a convolutional autoencoder with one codebook.

Esser et al., "Taming Transformers for High-Resolution Image Synthesis" (2021), and the variant of Sun et al.,
"Autoregressive Model Beats Diffusion: Llama for Scalable Image Generation" (LlamaGen, 2024), whose codewords are short
and of unit norm.
"""

import abc
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vistok.networks.convolution import Dense
from vistok.tokenizers.codebooks.codebook import Codebook, LearnedCodebook
from vistok.tokenizers.codebooks.ema import EMACodebook
from vistok.tokenizers.networks.autoencoder import ConvDecoder, ConvHead, EncoderTrunk
from vistok.tokenizers.quantizers.vector import VectorQuantizer
from vistok.tokenizers.tokenizer import Tokenizer, TokenizerOutput, Tokens, TokenSpec

PRESETS: dict[str, dict[str, Any]] = {
    'vq16': {'channel_multipliers': (1, 1, 2, 2, 4)},
    'vq8': {'channel_multipliers': (1, 2, 2, 4)},
    'taming_f16': {
        'channel_multipliers': (1, 1, 2, 2, 4),
        'codebook_size': 1024,
        'codebook_dim': 256,
        'normalize': False,
        'codebook_weight': 0.25,  # the released models have the two weights this way round
        'commitment_weight': 1.0,
    },
}
"""Arguments of the published models, over the defaults below."""


class ConvEncoder(nn.Module):
    """Convolutional encoder of images: the trunk and its head.

    Attributes:
      channels: width at the finest level.
      channel_multipliers: width of each level over `channels`.
      res_blocks: residual blocks per level.
      attention_levels: levels with attention; None: the coarsest only.
      latent_channels: width of the result.
      dtype: computation type.
      remat: whether blocks are computed again in the backward pass.
    """

    channels: int = 128
    channel_multipliers: Sequence[int] = (1, 1, 2, 2, 4)
    res_blocks: int = 2
    attention_levels: Sequence[int] | None = None
    latent_channels: int = 256
    dtype: Any = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, images: Float[Array, 'b H W 3']) -> Float[Array, 'b h w d']:
        """Encodes images in [-1, 1] into latents."""
        x = EncoderTrunk(
            self.channels,
            self.channel_multipliers,
            self.res_blocks,
            self.attention_levels,
            dtype=self.dtype,
            remat=self.remat,
            name='trunk',
        )(images)
        return ConvHead(self.latent_channels, dtype=self.dtype, name='head')(x)


class ConvTokenizer(Tokenizer):
    """Tokenizer of a convolutional encoder, a quantizer and a convolutional decoder.

    Attributes:
      channels: width at the finest level.
      channel_multipliers: width of each level over `channels`; the grid is 2^(levels - 1) times smaller than the image.
      res_blocks: residual blocks per level of the encoder; the decoder has one more.
      attention_levels: levels (0 is the finest) with attention; None: the coarsest only.
      latent_channels: width between the networks and the 1x1 projections around the quantizer.
      dtype: computation type of the networks; parameters and the quantizer stay float32.
      remat: whether blocks are computed again in the backward pass, to save memory.
    """

    channels: int = 128
    channel_multipliers: Sequence[int] = (1, 1, 2, 2, 4)
    res_blocks: int = 2
    attention_levels: Sequence[int] | None = None
    latent_channels: int = 256
    dtype: Any = jnp.float32
    remat: bool = False

    def setup(self) -> None:
        sizes = {
            'channels': self.channels,
            'channel_multipliers': self.channel_multipliers,
            'res_blocks': self.res_blocks,
            'attention_levels': self.attention_levels,
            'dtype': self.dtype,
            'remat': self.remat,
        }
        self.encoder = ConvEncoder(latent_channels=self.latent_channels, **sizes)
        self.quant_conv = Dense(self.quantized_width, dtype=self.dtype)
        self.quantizer = self.make_quantizer()
        self.post_quant_conv = Dense(self.latent_channels, dtype=self.dtype)
        self.decoder = ConvDecoder(**sizes)

    @property
    @abc.abstractmethod
    def quantized_width(self) -> int:
        """Width of the vectors that are quantized."""

    @abc.abstractmethod
    def make_quantizer(self) -> nn.Module:
        """Returns a module that quantizes vectors (`QuantizerOutput`) and embeds the ids it gives."""

    @property
    def downsample_factor(self) -> int:
        """Pixels per grid cell along one side."""
        return 2 ** (len(self.channel_multipliers) - 1)

    def __call__(self, images: Float[Array, 'b H W 3'], *, train: bool = False) -> TokenizerOutput:
        """Reconstructs `images`, with the losses of the quantizer."""
        quantized = self.quantizer(self.latents(images), train=train)
        return TokenizerOutput(
            reconstruction=self.decode_latents(quantized.z_q),
            tokens=Tokens(ids=_on_dense_grid(quantized.ids)),
            losses=quantized.losses,
        )

    def latents(self, images: Float[Array, 'b H W 3']) -> Float[Array, 'b h w d']:
        """Encodes images into vectors before quantization (and normalization), d = `quantized_width`."""
        return self.quant_conv(self.encoder(images))

    def encode(self, images: Float[Array, 'b H W 3']) -> Tokens:
        return Tokens(ids=_on_dense_grid(self.quantizer(self.latents(images)).ids))

    def embed(self, tokens: Tokens) -> Float[Array, 'b h w d']:
        return self.quantizer.embed(jnp.asarray(tokens.ids))

    def decode_latents(self, latents: Float[Array, 'b h w d']) -> Float[Array, 'b H W 3']:
        return self.decoder(self.post_quant_conv(latents)).astype(jnp.float32)


class VQGAN(ConvTokenizer):
    """VQGAN with one codebook.  The defaults are LlamaGen's VQ-16.

    Attributes:
      codebook_size: number of codewords.
      codebook_dim: width of the codewords.
      normalize: whether vectors and codewords are scaled to unit norm (LlamaGen).
      codebook_weight: weight of the loss that moves codewords to vectors.
      commitment_weight: weight of the loss that moves vectors to codewords.
      entropy_weight: weight of the entropy loss.
      entropy_temperature: temperature of the soft assignment in the entropy loss.
    """

    codebook_size: int = 16384
    codebook_dim: int = 8
    normalize: bool = True
    codebook_weight: float = 1.0
    commitment_weight: float = 0.25
    entropy_weight: float = 0.0
    entropy_temperature: float = 0.01

    @property
    def quantized_width(self) -> int:
        """Width of the codewords."""
        return self.codebook_dim

    def make_quantizer(self) -> nn.Module:
        """Returns a nearest-codeword quantizer; losses 'codebook', 'commitment' and, in training, 'entropy'."""
        return VectorQuantizer(
            codebook=self.make_codebook(),
            normalize=self.normalize,
            codebook_weight=self.codebook_weight,
            commitment_weight=self.commitment_weight,
            entropy_weight=self.entropy_weight,
            entropy_temperature=self.entropy_temperature,
        )

    def make_codebook(self) -> Codebook:
        """Returns the codebook; papers that differ in nothing else override this."""
        return LearnedCodebook(self.codebook_size, self.codebook_dim, self.normalize, parent=None)

    @property
    def spec(self) -> TokenSpec:
        """One codebook."""
        return TokenSpec((self.codebook_size,), self.downsample_factor)

    def embed(self, tokens: Tokens) -> Float[Array, 'b h w d']:
        return self.quantizer.embed(jnp.asarray(tokens.ids[..., 0]))


class EMAVQGAN(VQGAN):
    """VQGAN whose codewords are running means of the vectors assigned to them, not trained by gradient (VQ-VAE-2).

    Attributes:
      codebook_weight: weight of the codebook loss, which has no gradient here.
      codebook_decay: decay rate of the running means; see `EMACodebook`.
      restart: whether rarely used codewords become random vectors of the batch.
    """

    normalize: bool = False
    codebook_weight: float = 0.0
    codebook_decay: float = 0.99
    restart: bool = False

    def make_codebook(self) -> Codebook:
        return EMACodebook(
            self.codebook_size, self.codebook_dim, self.codebook_decay, restart=self.restart, parent=None
        )


def _on_dense_grid(ids: Int[Array, 'b h w *k']) -> Int[Array, 'b h w k']:
    """Reshapes ids to have an axis of sub-codebooks, also where there is only one."""
    return ids.reshape(*ids.shape[:3], -1)
