"""DQ-VAE: one code for a smooth region, four or sixteen for a detailed one, all from one codebook.

Huang et al., "Towards Accurate Image Coding: Improved Autoregressive Image Generation with Dynamic Vector Quantization"
(2023).  Each cell of the coarsest grid is written at one grain.  Dual: 1 or 4 codes; triple: 1, 4 or 16.
"""

from collections.abc import Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vistok.collectives import replica_draw
from vistok.errors import UserError
from vistok.networks.convolution import Dense
from vistok.tokenizers.codebooks.ema import EMACodebook
from vistok.tokenizers.networks.autoencoder import ConvDecoder
from vistok.tokenizers.networks.grain_encoder import GrainEncoder
from vistok.tokenizers.networks.grid_positions import GridPositions
from vistok.tokenizers.quantizers.vector import QuantizerOutput, VectorQuantizer
from vistok.tokenizers.routing.density import information_density
from vistok.tokenizers.routing.grains import check_grain_ratios, grain_shares, merge_grains, repeat_cells
from vistok.tokenizers.routing.routers import (
    EntropyRouter,
    FeatureRouter,
    budget_loss,
    hard_gumbel_softmax,
    quota_choice,
)
from vistok.tokenizers.routing.thresholds import ShareThresholds
from vistok.tokenizers.tokenizer import Tokenizer, TokenizerOutput, Tokens, TokenSpec

ROUTERS = ('feature', 'entropy', 'quota')

PRESETS: dict[str, dict[str, Any]] = {
    'dual': {},
    'triple': {
        'channel_multipliers': (1, 1, 2, 2, 4, 4),
        'grain_ratios': (0.4, 0.3, 0.3),
        'budget_weight': 1.0,
    },
}
"""Arguments of the published recipes, over the defaults below."""


@flax.struct.dataclass
class Routing:
    """Decision of a router for a batch of images.

    Attributes:
      choice: number of the grain of each coarsest cell, 0 is the coarsest.
      gate: one-hot of `choice`; a feature router in training adds the gradient of its probabilities.
    """

    choice: Int[Array, 'b h w']
    gate: Float[Array, 'b h w s']


class DQVAE(Tokenizer):
    """Tokenizer with encoder branches for every grain, a router and one EMA codebook.  The defaults are the dual one.

    Attributes:
      channels: width at the finest level.
      channel_multipliers: width of each level over `channels`; the finest grid is 2^(levels - grains) times smaller
        than the image, and the decoder has that many levels more than one.
      res_blocks: residual blocks per level of the encoder; the decoder has one more.
      attention_levels: levels (0 is the finest) with attention; None: those with branches.
      latent_channels: width between the networks and the 1x1 projections around the codebook.
      codebook_size: number of codewords.
      codebook_dim: width of the codewords.
      codebook_decay: decay rate of the moving averages that the codewords are.
      restart: whether a codeword without vectors becomes a random vector of the batch.
      grain_ratios: share of the area of each grain, from coarse to fine; two or three.
      router: 'feature' (learned; the shares are the targets of a budget), 'entropy' (by thresholds on the information
        density) or 'quota' (the densest cells of each image, exact shares).
      entropy_thresholds: densities between the grains for the router 'entropy'; (): those that give the training images
        the shares `grain_ratios`, measured when a run begins.
      entropy_range: centres of the first and the last bin of the density's histogram.
      budget_weight: weight of the squared distance from the targets, for 'feature'.
      budget_per_image: whether each image must meet the targets, instead of the batch.
      codebook_weight: weight of the distance of codewords from vectors, a metric without gradient.
      commitment_weight: weight of the loss that moves vectors to codewords.
      image_size: side of the images that positions are learned for; others are served by interpolation.
      dtype: computation type of the networks; parameters, router and quantizer stay float32.
      remat: whether blocks are computed again in the backward pass, to save memory.
    """

    channels: int = 128
    channel_multipliers: Sequence[int] = (1, 1, 2, 2, 4)
    res_blocks: int = 2
    attention_levels: Sequence[int] | None = None
    latent_channels: int = 256
    codebook_size: int = 1024
    codebook_dim: int = 256
    codebook_decay: float = 0.99
    restart: bool = True
    grain_ratios: Sequence[float] = (0.5, 0.5)
    router: str = 'feature'
    entropy_thresholds: Sequence[float] = ()
    entropy_range: Sequence[float] = (-1.0, 1.0)
    budget_weight: float = 20.0
    budget_per_image: bool = False
    codebook_weight: float = 1.0
    commitment_weight: float = 0.25
    image_size: int = 256
    dtype: Any = jnp.float32
    remat: bool = False

    initializers = (ShareThresholds('frozen/density/thresholds'),)

    def setup(self) -> None:
        check_grain_ratios(self.grain_ratios)
        if self.router not in ROUTERS:
            raise UserError(f'unknown router {self.router!r}; known: {", ".join(ROUTERS)}')
        levels, grains = len(self.channel_multipliers), len(self.grain_ratios)
        attended = range(levels - grains, levels) if self.attention_levels is None else self.attention_levels
        computing: dict[str, Any] = {'res_blocks': self.res_blocks, 'dtype': self.dtype, 'remat': self.remat}
        self.encoder = GrainEncoder(
            grains,
            self.channels,
            self.channel_multipliers,
            attention_levels=tuple(attended),
            latent_channels=self.latent_channels,
            **computing,
        )
        if self.router == 'feature':
            self.gate = FeatureRouter(self.dtype)
        else:
            thresholds = tuple(self.entropy_thresholds) if self.router == 'entropy' else None
            self.density = EntropyRouter(tuple(self.grain_ratios), thresholds, tuple(self.entropy_range))
        self.quant_conv = Dense(self.codebook_dim, dtype=self.dtype)
        self.quantizer = VectorQuantizer(
            EMACodebook(self.codebook_size, self.codebook_dim, self.codebook_decay, restart=self.restart, parent=None),
            codebook_weight=self.codebook_weight,
            commitment_weight=self.commitment_weight,
        )
        self.post_quant_conv = Dense(self.latent_channels, dtype=self.dtype)
        self.positions = GridPositions(self.image_size // self.spec.downsample_factor, self.dtype)
        finest = levels - grains + 1
        self.decoder = ConvDecoder(
            self.channels,
            self.channel_multipliers[:finest],
            attention_levels=tuple(level for level in attended if level < finest),
            **computing,
        )

    @property
    def spec(self) -> TokenSpec:
        """One codebook, two or three grains."""
        grains = len(self.grain_ratios)
        return TokenSpec(
            (self.codebook_size,),
            2 ** (len(self.channel_multipliers) - grains),
            grains=tuple(2**i for i in range(grains)),
        )

    def __call__(self, images: Float[Array, 'b H W 3'], *, train: bool = False) -> TokenizerOutput:
        """Reconstructs `images`; losses 'codebook', 'commitment' and, with a feature router, 'grain_budget'.

        In training a feature router draws noise from the random stream 'sampling'.
        """
        branches = self.encoder(images)
        routing = self.route(images, branches, train=train)
        grain = self.grain_map(routing)
        quantized = self.quantize(branches, routing, train=train)
        losses = dict(quantized.losses)
        if self.router == 'feature':
            loss = budget_loss(routing.gate, self.grain_ratios, per_image=self.budget_per_image)
            losses['grain_budget'] = self.budget_weight * loss
        return TokenizerOutput(
            reconstruction=self.decode_latents(quantized.z_q),
            tokens=Tokens(ids=quantized.ids[..., None], grain=grain),
            losses=losses,
            metrics=grain_shares(grain, self.spec.grains),
        )

    def route(
        self, images: Float[Array, 'b H W 3'], branches: Sequence[Float[Array, 'b _ _ d']], *, train: bool = False
    ) -> Routing:
        """Chooses the grain of each coarsest cell by the model's router."""
        count = len(self.grain_ratios)
        if self.router != 'feature':
            choice = self.density(images, self.spec.cell)
            return Routing(choice, jax.nn.one_hot(choice, count))
        logits = self.gate(branches)
        if train:
            key = self.make_rng('sampling')
            noise = replica_draw(lambda rows: jax.random.gumbel(key, (rows, *logits.shape[1:])), len(logits))
            gate = hard_gumbel_softmax(logits, noise)
            return Routing(jnp.argmax(gate, axis=-1).astype(jnp.int32), gate)
        choice = jnp.argmax(logits, axis=-1).astype(jnp.int32)
        return Routing(choice, jax.nn.one_hot(choice, count))

    def grain_map(self, routing: Routing) -> Int[Array, 'b h w']:
        """Returns the side of the block of each position of the finest grid."""
        coarsest = max(self.spec.grains)
        return repeat_cells(coarsest >> routing.choice, coarsest)

    def latents(self, branches: Sequence[Float[Array, 'b _ _ d']], routing: Routing) -> Float[Array, 'b h w e']:
        """Merges the branches into vectors before quantization, on the finest grid."""
        merged = merge_grains(branches, self.grain_map(routing))
        # The factor is 1; its gradient teaches the router from the reconstruction.
        chosen = jnp.max(routing.gate, axis=-1, keepdims=True)
        return self.quant_conv(merged * repeat_cells(chosen, max(self.spec.grains)))

    def quantize(
        self, branches: Sequence[Float[Array, 'b _ _ d']], routing: Routing, *, train: bool = False
    ) -> QuantizerOutput:
        """Quantizes the merged branches; in the losses each code counts once, however large its block is."""
        weights = 1 / self.grain_map(routing)[..., None].astype(jnp.float32) ** 2
        return self.quantizer(self.latents(branches, routing), train=train, weights=weights)

    def encode(
        self, images: Float[Array, 'b H W 3'], *, grain_ratios: Sequence[float] | Float[Array, ' s'] | None = None
    ) -> Tokens:
        """Encodes images in [-1, 1] as tokens with grains.

        Args:
          images: sides are multiples of the coarsest cell (`TokenSpec.cell`).
          grain_ratios: shares of the area from coarse to fine, realised exactly in each image by information
            density; None: the model's router decides.  An array is not checked.
        """
        branches = self.encoder(images)
        if grain_ratios is None:
            routing = self.route(images, branches)
        else:
            if not isinstance(grain_ratios, jax.Array):
                check_grain_ratios(grain_ratios, len(self.grain_ratios))
            density = information_density(images, self.spec.cell, self.entropy_range)
            choice = quota_choice(density, grain_ratios)
            routing = Routing(choice, jax.nn.one_hot(choice, len(grain_ratios)))
        ids = self.quantize(branches, routing).ids
        return Tokens(ids=ids[..., None], grain=self.grain_map(routing))

    def embed(self, tokens: Tokens) -> Float[Array, 'b h w d']:
        return self.quantizer.embed(jnp.asarray(tokens.ids[..., 0]))

    def decode_latents(self, latents: Float[Array, 'b h w d']) -> Float[Array, 'b H W 3']:
        """Decodes codewords into images, not clipped; the decoder does not see the grains."""
        return self.decoder(self.positions(self.post_quant_conv(latents))).astype(jnp.float32)
