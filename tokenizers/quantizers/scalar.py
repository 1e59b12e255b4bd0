"""Scalar quantization without a codebook: each channel is rounded by itself, and the id encodes the results.

Mentzer et al., "Finite Scalar Quantization: VQ-VAE Made Simple" (FSQ, 2023); Yu et al., "Language Model Beats
Diffusion: Tokenizer is Key to Visual Generation" (LFQ, 2023); Zhao et al., "Image and Video Tokenization with Binary
Spherical Quantization" (BSQ, 2024).
"""

import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from vistok.collectives import replica_mean
from vistok.errors import UserError
from vistok.tokenizers.codebooks.codebook import unit_norm
from vistok.tokenizers.quantizers.entropy import entropy_loss
from vistok.tokenizers.quantizers.vector import QuantizerOutput, straight_through

MOST_BITS = 30  # of one id, which is an int32
MOST_BITS_TOGETHER = 20  # whose joint distribution an entropy loss can walk through


class FiniteScalarQuantizer(nn.Module):
    """FSQ: channel i is bounded by tanh and rounded to one of `levels[i]` values; there are no losses.

    Attributes:
      levels: values per channel, each at least 2; the vectors are as wide as there are levels, and the implicit
        codebook has the product of them.
    """

    levels: Sequence[int]

    def __call__(self, z: Float[Array, 'b h w d'], *, train: bool = False) -> QuantizerOutput:
        """Rounds a grid of vectors to values in [-1, 1].

        Raises:
          UserError: levels below 2, too many codewords for an id, or vectors of another width.
        """
        levels = self._check_levels(z.shape[-1])
        # An even number of levels is not symmetric around 0: the bounds move by half a step, 0 stays in its place.
        half = (levels - 1) * (1 + 1e-3) / 2
        offset = np.where(levels % 2 == 0, 0.5, 0.0)
        bounded = jnp.tanh(z.astype(jnp.float32) + np.arctanh(offset / half)) * half - offset
        steps = straight_through(bounded, jnp.round(bounded))
        digits = jax.lax.stop_gradient(steps).astype(jnp.int32) + levels // 2
        return QuantizerOutput(z_q=steps / (levels // 2), ids=_digits_to_ids(digits, levels), losses={})

    def embed(self, ids: Int[Array, 'b h w']) -> Float[Array, 'b h w d']:
        """Returns the vectors of `ids`, the same values as `z_q`."""
        levels = self._check_levels(len(self.levels))
        return (_ids_to_digits(ids, levels) - levels // 2).astype(jnp.float32) / (levels // 2)

    def _check_levels(self, width: int) -> np.ndarray:
        if min(self.levels, default=0) < 2:
            raise UserError(f'each channel needs at least 2 levels, got {tuple(self.levels)}')
        if math.prod(self.levels) > 2**MOST_BITS:
            raise UserError(f'levels {tuple(self.levels)} make more than 2^{MOST_BITS} codewords')
        if width != len(self.levels):
            raise UserError(f'z has {width} channels, there are {len(self.levels)} levels')
        return np.asarray(self.levels, np.int32)


class LookupFreeQuantizer(nn.Module):
    """LFQ: each channel becomes -1 or 1; the codebook is all 2^bits vectors of signs.

    Attributes:
      bits: width of the vectors.
      groups: ids per position, each of `bits / groups` bits.
      commitment_weight: weight of mean |z - sg(signs)|^2.
      entropy_weight: weight of the entropy loss, computed in training; over the joint distribution of the bits of each
        id.
      entropy_temperature: temperature of the entropy loss, for squared distances.
    """

    bits: int
    groups: int = 1
    commitment_weight: float = 0.25
    entropy_weight: float = 0.1
    entropy_temperature: float = 1.0

    def __call__(self, z: Float[Array, 'b h w d'], *, train: bool = False) -> QuantizerOutput:
        """Quantizes a grid of vectors; losses 'commitment' and, in training, 'entropy'.

        Raises:
          UserError: vectors of another width, groups that do not divide the bits, or too many bits in one.
        """
        self._check()
        if z.shape[-1] != self.bits:
            raise UserError(f'z has {z.shape[-1]} channels, there are {self.bits} bits')
        z = self.project(z.astype(jnp.float32))
        positive = z > 0
        chosen = jnp.where(positive, self.magnitude, -self.magnitude)
        losses = {}
        if self.commitment_weight:
            losses['commitment'] = self.commitment_weight * jnp.mean((z - chosen) ** 2)
        if train and self.entropy_weight:
            losses['entropy'] = self.entropy_weight * self.entropy(z.reshape(-1, self.bits))
        digits = positive.reshape(*z.shape[:-1], self.groups, -1).astype(jnp.int32)
        return QuantizerOutput(
            z_q=straight_through(z, chosen), ids=_digits_to_ids(digits, np.full(digits.shape[-1], 2)), losses=losses
        )

    def embed(self, ids: Int[Array, 'b h w k']) -> Float[Array, 'b h w d']:
        """Returns the vectors of `ids`, the same values as `z_q`."""
        self._check()
        digits = _ids_to_digits(ids, np.full(self.bits // self.groups, 2)).reshape(*ids.shape[:-1], self.bits)
        return jnp.where(digits > 0, self.magnitude, -self.magnitude).astype(jnp.float32)

    @property
    def magnitude(self) -> float:
        """Absolute value of each channel of a codeword."""
        return 1.0

    def project(self, z: Float[Array, '*shape d']) -> Float[Array, '*shape d']:
        """Maps vectors to where they are compared with the codewords."""
        return z

    def entropy(self, z: Float[Array, 'n d']) -> Float[Array, '']:
        """Computes the entropy loss over the codewords of each group, summed over groups.

        Raises:
          UserError: a group has too many bits to walk through their codewords.
        """
        bits = self.bits // self.groups
        if bits > MOST_BITS_TOGETHER:
            raise UserError(
                f'the entropy loss walks through all codewords of a group: {bits} bits are more than '
                f'{MOST_BITS_TOGETHER}; take more groups'
            )
        signs = self.magnitude * (2.0 * _ids_to_digits(jnp.arange(2**bits), np.full(bits, 2)) - 1)
        groups = [entropy_loss(part, signs, self.entropy_temperature) for part in jnp.split(z, self.groups, axis=-1)]
        return jnp.sum(jnp.stack(groups))

    def _check(self) -> None:
        if self.groups < 1 or self.bits % self.groups or not 1 <= self.bits // self.groups <= MOST_BITS:
            raise UserError(
                f'{self.bits} bits cannot be cut into {self.groups} ids of equally many bits, at most {MOST_BITS}'
            )


class BinarySphericalQuantizer(LookupFreeQuantizer):
    """BSQ: LFQ on the unit sphere, where the distance to a codeword is bounded and no commitment is needed.

    The entropy loss treats all bits as independent, which costs no walk through the codewords.

    Attributes:
      commitment_weight: weight of mean |z - sg(codeword)|^2, z of unit norm.
      entropy_temperature: temperature of the entropy loss; 2 / 100 is the paper's inverse temperature 100 for `2 z.c`.
    """

    commitment_weight: float = 0.0
    entropy_temperature: float = 0.02

    @property
    def magnitude(self) -> float:
        """Absolute value of each channel of a codeword, which has unit norm."""
        return self.bits**-0.5

    def project(self, z: Float[Array, '*shape d']) -> Float[Array, '*shape d']:
        """Scales vectors to unit norm."""
        return unit_norm(z)

    def entropy(self, z: Float[Array, 'n d']) -> Float[Array, '']:
        """Computes the entropy loss of independent bits, `mean_n H(p_n) - H(mean_n p_n)`, summed over bits.

        The first term is exact, the second an upper bound of the joint entropy.
        """
        p = nn.sigmoid(4 * self.magnitude / self.entropy_temperature * z)
        own = jnp.mean(jnp.sum(_binary_entropy(p), axis=-1))
        return own - jnp.sum(_binary_entropy(replica_mean(jnp.mean(p, axis=0))))


def _binary_entropy(p: Float[Array, '*shape']) -> Float[Array, '*shape']:
    """Computes the entropy of a coin in nats; its gradient is finite at 0 and 1."""
    p = jnp.clip(p, 1e-6, 1 - 1e-6)
    return -p * jnp.log(p) - (1 - p) * jnp.log1p(-p)


def _digits_to_ids(digits: Int[Array, '*shape d'], levels: np.ndarray) -> Int[Array, '*shape']:
    """Combines digits into ids, the first channel least significant; channel i has `levels[i]` values."""
    places = np.cumprod([1, *levels[:-1]]).astype(np.int32)
    return jnp.sum(digits * places, axis=-1, dtype=jnp.int32)


def _ids_to_digits(ids: Int[Array, '*shape'], levels: np.ndarray) -> Int[Array, '*shape d']:
    """Splits ids into digits, the inverse of `_digits_to_ids`."""
    places = np.cumprod([1, *levels[:-1]]).astype(np.int32)
    return ids[..., None] // places % levels.astype(np.int32)
