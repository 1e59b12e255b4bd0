"""Control-GIC: tokenizer whose bit rate the user sets by the shares of three grains.

Li et al., "Once-for-All: Controllable Generative Image Compression with Dynamic Granularity Adaptation" (2025).
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vistok.errors import UserError
from vistok.networks.convolution import Dense
from vistok.tokenizers.codebooks.codebook import Codebook, LearnedCodebook
from vistok.tokenizers.networks.conditional_decoder import ConditionalDecoder
from vistok.tokenizers.networks.grain_encoder import GrainEncoder
from vistok.tokenizers.quantizers.vector import VectorQuantizer
from vistok.tokenizers.routing.density import information_density, spread_density
from vistok.tokenizers.routing.grains import check_grain_ratios, grain_shares, merge_grains
from vistok.tokenizers.routing.routers import RatioRouter
from vistok.tokenizers.simvq import make_gaussian_codebook
from vistok.tokenizers.tokenizer import Tokenizer, TokenizerOutput, Tokens, TokenSpec

_GRAINS = 3
_DENSITIES = {'entropy': information_density, 'spread': spread_density}


class ControlGIC(Tokenizer):
    """Tokenizer with encoder branches for three grains, routing by information density, and a conditional decoder.

    Attributes:
      channels: width at the finest level.
      channel_multipliers: width of each level over `channels`; the finest grid is 2^(levels - 3) times smaller than
        the image.
      res_blocks: residual blocks per level of the encoder; the decoder has one more.
      attention_levels: levels (0 is the finest) with attention, besides branches and stems.
      latent_channels: width between the networks and the 1x1 projections around the codebook.
      codebook_size: number of codewords.
      codebook_dim: width of the codewords.
      normalize: whether vectors and codewords are scaled to unit norm; the paper's are not.
      grain_ratios: share of the area of each grain, coarse, medium and fine; the default of `encode`.
      random_shares: whether each training batch has random shares, uniform over the simplex.
      codebook_weight: weight of the loss that moves codewords to vectors.
      commitment_weight: weight of the loss that moves vectors to codewords.
      density: measure by which the router ranks cells: 'entropy' of their grey levels, as published, or 'spread'.
      entropy_range: centres of the first and the last bin of the density's histogram.
      unit_range: whether the networks work in [0, 1] instead of [-1, 1], as the official inference has it; images
        outside are in [-1, 1] all the same.
      strict_thresholds: the official routing instead of exact shares; see `RatioRouter`.
      dtype: computation type of the networks; parameters, router and quantizer stay float32.
      remat: whether blocks are computed again in the backward pass, to save memory.
    """

    channels: int = 128
    channel_multipliers: Sequence[int] = (1, 2, 2, 4, 4)
    res_blocks: int = 2
    attention_levels: Sequence[int] = (3,)
    latent_channels: int = 4
    codebook_size: int = 1024
    codebook_dim: int = 4
    normalize: bool = False
    grain_ratios: Sequence[float] = (0.1, 0.4, 0.5)
    random_shares: bool = False
    codebook_weight: float = 0.25
    commitment_weight: float = 1.0
    density: str = 'entropy'
    entropy_range: Sequence[float] = (-1.0, 1.0)
    unit_range: bool = False
    strict_thresholds: bool = False
    dtype: Any = jnp.float32
    remat: bool = False

    def setup(self) -> None:
        check_grain_ratios(self.grain_ratios, _GRAINS)
        if self.density not in _DENSITIES:
            raise UserError(f'density is {" or ".join(map(repr, _DENSITIES))}, got {self.density!r}')
        networks: dict[str, Any] = {
            'channels': self.channels,
            'channel_multipliers': self.channel_multipliers,
            'res_blocks': self.res_blocks,
            'attention_levels': tuple(self.attention_levels),
            'dtype': self.dtype,
            'remat': self.remat,
        }
        self.encoder = GrainEncoder(_GRAINS, latent_channels=self.latent_channels, **networks)
        self.quant_conv = Dense(self.codebook_dim, dtype=self.dtype)
        self.quantizer = VectorQuantizer(
            self.make_codebook(),
            normalize=self.normalize,
            codebook_weight=self.codebook_weight,
            commitment_weight=self.commitment_weight,
        )
        self.post_quant_conv = Dense(self.latent_channels, dtype=self.dtype)
        self.decoder = ConditionalDecoder(**networks)

    def make_codebook(self) -> Codebook:
        """Returns the codebook; variants that differ in nothing else override this."""
        return LearnedCodebook(self.codebook_size, self.codebook_dim, self.normalize, parent=None)

    @property
    def spec(self) -> TokenSpec:
        """One codebook, three grains."""
        return TokenSpec((self.codebook_size,), 2 ** (len(self.channel_multipliers) - _GRAINS), grains=(1, 2, 4))

    def __call__(self, images: Float[Array, 'b H W 3'], *, train: bool = False) -> TokenizerOutput:
        """Reconstructs `images`; losses 'codebook' and 'commitment'.

        Random shares come from the random stream 'sampling'.
        """
        shares = jnp.asarray(self.grain_ratios, jnp.float32)
        if train and self.random_shares:
            shares = jax.random.dirichlet(self.make_rng('sampling'), jnp.ones(_GRAINS))
        grain = self.route(images, shares)
        quantized = self.quantizer(self.latents(images, grain), train=train)
        return TokenizerOutput(
            reconstruction=self.decode_latents(quantized.z_q, grain),
            tokens=Tokens(ids=quantized.ids[..., None], grain=grain),
            losses=quantized.losses,
            metrics=grain_shares(grain, self.spec.grains),
        )

    def route(
        self, images: Float[Array, 'b H W 3'], grain_ratios: Sequence[float] | Float[Array, ' 3']
    ) -> Int[Array, 'b h w']:
        """Chooses the side of the block of each position of the finest grid, by the density of `images`."""
        images = self._to_networks(images)
        patches = [self.spec.downsample_factor * side for side in (4, 2)]
        densities = [_DENSITIES[self.density](images, patch, self.entropy_range) for patch in patches]
        return RatioRouter(self.strict_thresholds)(densities, grain_ratios)

    def latents(self, images: Float[Array, 'b H W 3'], grain: Int[Array, 'b h w']) -> Float[Array, 'b h w d']:
        """Encodes images into vectors, d = `codebook_dim`, that are equal over the block of a coarse grain."""
        return self.quant_conv(merge_grains(self.encoder(self._to_networks(images)), grain))

    def encode(
        self, images: Float[Array, 'b H W 3'], *, grain_ratios: Sequence[float] | Float[Array, ' 3'] | None = None
    ) -> Tokens:
        """Encodes images in [-1, 1] as tokens with grains.

        Args:
          images: sides are multiples of the coarsest cell (`TokenSpec.cell`); `fit_to_grid` makes others fit.
          grain_ratios: shares of the area, coarse, medium and fine; each is realised to one cell in every image.
            An array changes without compiling again, and is not checked.
        """
        if grain_ratios is None:
            grain_ratios = self.grain_ratios
        elif not isinstance(grain_ratios, jax.Array):
            check_grain_ratios(grain_ratios, _GRAINS)
        grain = self.route(images, grain_ratios)
        return Tokens(ids=self.quantizer(self.latents(images, grain)).ids[..., None], grain=grain)

    def embed(self, tokens: Tokens) -> Float[Array, 'b h w d']:
        return self.quantizer.embed(jnp.asarray(tokens.ids[..., 0]))

    def decode_latents(
        self, latents: Float[Array, 'b h w d'], grain: Int[Array, 'b h w'] | None = None
    ) -> Float[Array, 'b H W 3']:
        """Decodes codewords into images, not clipped; without `grain` all positions count as fine."""
        if grain is None:
            grain = jnp.ones(latents.shape[:3], jnp.int32)
        images = self.decoder(self.post_quant_conv(latents), latents, grain).astype(jnp.float32)
        return 2 * images - 1 if self.unit_range else images

    def decode(self, tokens: Tokens) -> Float[Array, 'b H W 3']:
        """Decodes ids and grains into images, not clipped."""
        grain = None if tokens.grain is None else jnp.asarray(tokens.grain)
        return self.decode_latents(self.embed(tokens), grain)

    def _to_networks(self, images: Float[Array, 'b H W 3']) -> Float[Array, 'b H W 3']:
        return (images + 1) / 2 if self.unit_range else images


class ControlGICSimVQ(ControlGIC):
    """Control-GIC with SimVQ's codebook, which leaves no codeword unused.

    The paper's codebook is learned by gradient, and in a short training most of its codewords are never met.
    """

    def make_codebook(self) -> Codebook:
        return make_gaussian_codebook(self.codebook_size, self.codebook_dim)
