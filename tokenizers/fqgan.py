"""FQGAN: a tokenizer with several small codebooks instead of a large one, one per factor of the image.

Bai et al., "Factorized Visual Tokenization and Generation" (2024).  Each factor has its own adapter on a shared
encoder; a penalty keeps the factors apart, and the semantic ones also predict the features of frozen networks.
Dual: (vis, sem), with CLIP ViT-L/14 as teacher of sem.  Triple: (vis, sem_mid, sem_high), with DINOv2-S and CLIP B/16.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from vistok.errors import UserError
from vistok.networks.convolution import Dense
from vistok.tokenizers.codebooks.codebook import LearnedCodebook
from vistok.tokenizers.networks.adapter import Adapter, FeaturePredictor
from vistok.tokenizers.networks.autoencoder import ConvDecoder, ConvHead, EncoderTrunk
from vistok.tokenizers.quantizers.factorized import FactorizedQuantizer, disentangle_loss
from vistok.tokenizers.quantizers.vector import VectorQuantizer
from vistok.tokenizers.tokenizer import Tokenizer, TokenizerOutput, Tokens, TokenSpec

PRESETS: dict[str, dict[str, Any]] = {
    'dual': {'factors': ('vis', 'sem'), 'teachers': ('', 'clip_l14'), 'teacher_widths': (0, 1024)},
    'triple': {
        'factors': ('vis', 'sem_mid', 'sem_high'),
        'teachers': ('', 'dinov2_s', 'clip_b16'),
        'teacher_widths': (0, 384, 768),
    },
}
"""Arguments of the published models, over the defaults below; at f8 `channel_multipliers=(1, 2, 2, 4)` as well."""


class FQGAN(Tokenizer):
    """Factorized tokenizer: shared encoder trunk; per factor an adapter, a head and a codebook; one decoder.

    Attributes:
      factors: names of the factors, in the order of the decoder's input and of `Tokens.ids`.
      teachers: per factor the frozen network whose feature it predicts in training, or ''; all different.
      teacher_widths: per factor the width of that feature, 0 without a teacher.
      codebook_size: codewords per factor.
      codebook_dim: width of the codewords.
      channels: width at the finest level.
      channel_multipliers: width of each level over `channels`; the grid is 2^(levels - 1) times smaller than the image.
      res_blocks: residual blocks per level of the encoder; the decoder has one more.
      attention_levels: levels (0 is the finest) with attention; None: the coarsest only.
      latent_channels: width between the networks and the 1x1 projections around the codebooks.
      image_size: side of the images that positions are learned for; others are served by interpolation.
      adapter_layers: transformer blocks of each adapter.
      adapter_heads: attention heads of the adapters.
      head_layers: transformer blocks of each feature predictor.
      head_heads: attention heads of the feature predictors.
      normalize: whether vectors and codewords are scaled to unit norm.
      commitment_weight: weight of the loss that moves vectors to codewords, per factor.
      codebook_weight: weight of the loss that moves codewords to vectors, per factor.
      entropy_weight: weight of the entropy loss, per factor.
      entropy_temperature: temperature of the soft assignment in the entropy loss.
      disentangle_weight: weight of the squared cosine between factors.
      dtype: computation type of the networks; parameters and the quantizers stay float32.
      remat: whether blocks are computed again in the backward pass, to save memory.
    """

    factors: Sequence[str] = ('vis', 'sem')
    teachers: Sequence[str] = ('', 'clip_l14')
    teacher_widths: Sequence[int] = (0, 1024)
    codebook_size: int = 16384
    codebook_dim: int = 8
    channels: int = 128
    channel_multipliers: Sequence[int] = (1, 1, 2, 2, 4)
    res_blocks: int = 2
    attention_levels: Sequence[int] | None = None
    latent_channels: int = 256
    image_size: int = 256
    adapter_layers: int = 6
    adapter_heads: int = 8
    head_layers: int = 3
    head_heads: int = 8
    normalize: bool = True
    commitment_weight: float = 0.25
    codebook_weight: float = 1.0
    entropy_weight: float = 0.03
    entropy_temperature: float = 0.01
    disentangle_weight: float = 0.1
    dtype: Any = jnp.float32
    remat: bool = False

    def setup(self) -> None:
        if not len(self.factors) == len(self.teachers) == len(self.teacher_widths):
            raise UserError(
                f'factors, teachers and teacher_widths must be equally many, got {tuple(self.factors)}, '
                f'{tuple(self.teachers)}, {tuple(self.teacher_widths)}'
            )
        if len(set(self.teacher_kinds)) < len(self.teacher_kinds):
            raise UserError(f'each teacher serves one factor, got {tuple(self.teachers)}')
        sizes: dict[str, Any] = {
            'channels': self.channels,
            'channel_multipliers': self.channel_multipliers,
            'res_blocks': self.res_blocks,
            'attention_levels': self.attention_levels,
        }
        computing: dict[str, Any] = {'dtype': self.dtype, 'remat': self.remat}
        grid = self.image_size // self.spec.downsample_factor

        self.trunk = EncoderTrunk(**sizes, **computing)
        self.adapter = {
            name: Adapter(grid, self.adapter_layers, self.adapter_heads, **computing) for name in self.factors
        }
        self.head = {name: ConvHead(self.latent_channels, dtype=self.dtype) for name in self.factors}
        self.quant_conv = {name: Dense(self.codebook_dim, dtype=self.dtype) for name in self.factors}
        self.quantizer = FactorizedQuantizer(
            tuple(
                VectorQuantizer(
                    LearnedCodebook(self.codebook_size, self.codebook_dim, self.normalize, parent=None),
                    normalize=self.normalize,
                    codebook_weight=self.codebook_weight,
                    commitment_weight=self.commitment_weight,
                    entropy_weight=self.entropy_weight,
                    entropy_temperature=self.entropy_temperature,
                    parent=None,
                )
                for _ in self.factors
            ),
            tuple(self.factors),
        )
        self.predictor = {
            name: FeaturePredictor(width, grid, self.head_layers, self.head_heads, **computing)
            for name, teacher, width in zip(self.factors, self.teachers, self.teacher_widths, strict=True)
            if teacher
        }
        self.post_quant_conv = Dense(self.latent_channels, dtype=self.dtype)
        self.decoder = ConvDecoder(**sizes, **computing)

    @property
    def spec(self) -> TokenSpec:
        """One codebook per factor."""
        return TokenSpec(
            codebook_sizes=(self.codebook_size,) * len(self.factors),
            downsample_factor=2 ** (len(self.channel_multipliers) - 1),
            codebook_names=tuple(self.factors),
        )

    @property
    def teacher_kinds(self) -> tuple[str, ...]:
        """One kind per factor that has a teacher."""
        return tuple(kind for kind in self.teachers if kind)

    def __call__(self, images: Float[Array, 'b H W 3'], *, train: bool = False) -> TokenizerOutput:
        """Reconstructs `images`.

        Losses: 'codebook/vis', 'commitment/vis', in training 'entropy/vis', for each factor, and 'disentangle'.  In
        training also the predicted features, by teacher.
        """
        quantized = self.quantizer(self.latents(images), train=train)
        parts = self.quantizer.split(quantized.z_q)
        losses = dict(quantized.losses)
        if len(parts) > 1:
            losses['disentangle'] = self.disentangle_weight * disentangle_loss(tuple(parts.values()))
        predictions = {}
        if train or self.is_initializing():
            teachers = dict(zip(self.factors, self.teachers, strict=True))
            predictions = {teachers[name]: predictor(parts[name])[:, 0] for name, predictor in self.predictor.items()}
        return TokenizerOutput(
            reconstruction=self.decode_latents(quantized.z_q),
            tokens=Tokens(ids=quantized.ids),
            losses=losses,
            predictions=predictions,
        )

    def latents(self, images: Float[Array, 'b H W 3']) -> dict[str, Float[Array, 'b h w d']]:
        """Encodes images into the vectors of each factor before quantization (and normalization)."""
        shared = self.trunk(images)
        return {name: self.quant_conv[name](self.features(shared, name)) for name in self.factors}

    def features(self, shared: Float[Array, 'b h w c'], factor: str) -> Float[Array, 'b h w e']:
        """Applies a factor's adapter and head to the output of the trunk."""
        return self.head[factor](self.adapter[factor](shared))

    def encode(self, images: Float[Array, 'b H W 3']) -> Tokens:
        return Tokens(ids=self.quantizer(self.latents(images)).ids)

    def embed(self, tokens: Tokens) -> Float[Array, 'b h w d']:
        """Returns the codewords of `tokens`, concatenated in the order of `factors`."""
        return self.quantizer.embed(jnp.asarray(tokens.ids))

    def decode_latents(self, latents: Float[Array, 'b h w d']) -> Float[Array, 'b H W 3']:
        return self.decoder(self.post_quant_conv(latents)).astype(jnp.float32)
