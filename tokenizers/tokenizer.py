"""The interface between images and tokens: `Tokens`, `TokenSpec`, `Tokenizer`.

`Tokens` is the only thing that tokenizers, generators and compression share.
"""

import abc
import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import flax.struct
import numpy as np
from jaxtyping import Array, Float, Int

from vistok.training.initialization import Initializer


@flax.struct.dataclass
class Tokens:
    """A batch of token grids.

    The grid is dense: a token of a coarse grain is repeated over its block, so that shapes stay static.

    Attributes:
      ids: codeword numbers, one per sub-codebook (k = 1 unless factorized), in the order of the decoder's input.
      grain: side of the block that a position belongs to, in grid cells; None means 1 everywhere.
    """

    ids: Int[Array | np.ndarray, 'b h w k']
    grain: Int[Array | np.ndarray, 'b h w'] | None = None


@dataclasses.dataclass(frozen=True)
class TokenSpec:
    """Codebook sizes and grid of a tokenizer, all that a generator or a bitstream needs to know of it.

    Attributes:
      codebook_sizes: number of codewords, one entry per sub-codebook, in the order of `Tokens.ids`.
      downsample_factor: pixels per grid cell along one side.
      codebook_names: name of each sub-codebook in metrics ('vis', 'sem'); same length as `codebook_sizes`.
      grains: block sides that `Tokens.grain` may take.
    """

    codebook_sizes: tuple[int, ...]
    downsample_factor: int
    codebook_names: tuple[str, ...] = ('code',)
    grains: tuple[int, ...] = (1,)

    @property
    def cell(self) -> int:
        """Pixels along one side of the coarsest grain's block; the sides of images are multiples of it."""
        return self.downsample_factor * max(self.grains)


@flax.struct.dataclass
class TokenizerOutput:
    """Result of a forward pass of a tokenizer.

    Attributes:
      reconstruction: images in the range of the input, not clipped.
      tokens: the ids the reconstruction was made from.
      losses: the model's own terms ('commitment', 'codebook', 'entropy', 'disentangle', ...), scalars that already
        carry their weights; a factorized model writes 'commitment/vis'.  Their sum is added to the objective.
      metrics: other scalars worth logging.
      predictions: features predicted from the tokens, by the name of the frozen network (teacher) that they imitate,
        `[b, d]`.
    """

    reconstruction: Float[Array, 'b H W c']
    tokens: Tokens
    losses: dict[str, Float[Array, '']]
    metrics: dict[str, Float[Array, '']] = flax.struct.field(default_factory=dict)
    predictions: dict[str, Any] = flax.struct.field(default_factory=dict)


def fit_to_grid(images: Float[np.ndarray, 'b h w 3'], spec: TokenSpec) -> Float[np.ndarray, 'b H W 3']:
    """Extends images to the right and below by reflection, to the next multiple of `spec.cell`.

    The decoded images are cut back to the true size: `decoded[:, :h, :w]`.
    """
    for axis in (1, 2):
        size = images.shape[axis]
        period = max(2 * (size - 1), 1)  # a line of one pixel is repeated
        place = np.arange(-(-size // spec.cell) * spec.cell) % period
        images = np.take(images, np.minimum(place, period - place) if size > 1 else 0 * place, axis)
    return images


class Tokenizer(nn.Module, abc.ABC):
    """Base class of tokenizers, which encode images as tokens and decode them.

    Images are float32 `[b, h, w, 3]` in [-1, 1]; sides are multiples of `spec.cell`.  Tokenizers with grains also take
    the shares of the grains, `encode(images, grain_ratios=(0.1, 0.4, 0.5))`, from coarse to fine; those whose decoder
    needs the grains take them as `decode_latents(latents, grain)`.

    Attributes:
      initializers: makers of the arrays that a fresh run starts from instead of random ones.
    """

    initializers: ClassVar[tuple[Initializer, ...]] = ()

    @property
    @abc.abstractmethod
    def spec(self) -> TokenSpec:
        """Codebook sizes and grid of this tokenizer."""

    @property
    def last_layer(self) -> tuple[str, ...]:
        """Path, below `params`, of the kernel that makes the pixels (the adaptive GAN weight is measured there)."""
        return ('decoder', 'conv_out', 'kernel')

    @property
    def teacher_kinds(self) -> tuple[str, ...]:
        """Kinds of the frozen networks whose features the tokenizer learns to predict: keys of `predictions`."""
        return ()

    @abc.abstractmethod
    def __call__(self, images: Float[Array, 'b H W 3'], *, train: bool = False) -> TokenizerOutput:
        """Reconstructs `images` through the tokens and returns the model's own losses."""

    @abc.abstractmethod
    def encode(self, images: Float[Array, 'b H W 3']) -> Tokens:
        """Encodes images in [-1, 1] as tokens."""

    @abc.abstractmethod
    def embed(self, tokens: Tokens) -> Float[Array, 'b h w d']:
        """Returns the codewords of `tokens`, as the decoder expects them."""

    @abc.abstractmethod
    def decode_latents(self, latents: Float[Array, 'b h w d']) -> Float[Array, 'b H W 3']:
        """Decodes codewords, which may be soft (mixtures), into images, not clipped."""

    def decode(self, tokens: Tokens) -> Float[Array, 'b H W 3']:
        """Decodes tokens into images, not clipped."""
        return self.decode_latents(self.embed(tokens))
