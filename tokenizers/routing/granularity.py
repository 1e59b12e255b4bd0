"""Where an image gets many tokens and where few: information density, and the routers that choose the grains.

Huang et al., "Towards Accurate Image Coding: Improved Autoregressive Image Generation with Dynamic Vector
Quantization" (DQ-VAE, 2023), and Li et al., "Once-for-All: Controllable Generative Image Compression with Dynamic
Granularity Adaptation" (Control-GIC, 2025).  Grains and shares of the area are always listed from coarse to fine.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from vistok.collectives import replica_mean
from vistok.errors import UserError
from vistok.tokenizers.networks.autoencoder import GroupNorm, check_sides

_LUMA = (0.2989, 0.5870, 0.1140)
_LEAST_DEVIATION = 1 / 255  # half a step of 8 bits where images are in [-1, 1]: less is not seen
_STEPS_PER_NAT = 4096  # densities are ranked as integers: differences of rounding hardly ever change the order


def information_density(
    images: Float[Array, 'b H W 3'],
    patch: int,
    bin_range: Sequence[float] | Float[Array, ' 2'] = (-1.0, 1.0),
    bins: int = 32,
    sigma: float = 0.01,
) -> Float[Array, 'b h w']:
    """Shannon entropy of the grey levels of each patch, in nats: 0 for a constant patch, at most log(bins).

    The histogram is soft: every pixel adds a Gaussian to all bins.  Bins without pixels contribute nothing.

    Args:
      images: in any range; the released models look at [0, 1] or [-1, 1].
      patch: side of the patches, in pixels.
      bin_range: centres of the first and the last bin.
      bins: number of bins.
      sigma: width of the Gaussian, in units of the images.

    Raises:
      UserError: the sides are no multiples of `patch`.
    """
    patches = _grey_patches(images, patch)
    centres = jnp.linspace(bin_range[0], bin_range[1], bins)
    histogram = jnp.mean(jnp.exp(-0.5 * ((patches[..., None] - centres) / sigma) ** 2), axis=-2)
    total = jnp.sum(histogram, axis=-1, keepdims=True)
    return jnp.sum(jax.scipy.special.entr(histogram / jnp.maximum(total, 1e-30)), axis=-1)


def spread_density(
    images: Float[Array, 'b H W 3'], patch: int, bin_range: Sequence[float] = (-1.0, 1.0)
) -> Float[Array, 'b h w']:
    """How many grey levels each patch has and how far they are apart, in nats.

    The sum of their entropy and of the logarithm of their deviation.  The published entropy does not see grey levels
    between its narrow bins, nor contrast; where this sum is large, coarse tokens err more.  A constant patch has 0.3 to
    0.75, by where its level lies between the bins.  Cells are averaged with their neighbours, which count 1, 10, 1
    along both axes: single ones stand out less, and a map of grains takes fewer bits.

    Args:
      images: in any range.
      patch: side of the patches, in pixels.
      bin_range: as in `information_density`.

    Raises:
      UserError: the sides are no multiples of `patch`.
    """
    deviation = jnp.std(_grey_patches(images, patch), axis=-1)
    density = information_density(images, patch, bin_range, sigma=0.03) + jnp.log1p(deviation / _LEAST_DEVIATION)
    padded = jnp.pad(density, ((0, 0), (1, 1), (1, 1)), mode='edge')
    rows = (padded[:, :-2] + 10 * padded[:, 1:-1] + padded[:, 2:]) / 12
    return (rows[..., :-2] + 10 * rows[..., 1:-1] + rows[..., 2:]) / 12


def _grey_patches(images: Float[Array, 'b H W 3'], patch: int) -> Float[Array, 'b h w p']:
    check_sides(images.shape[1:3], patch)
    b, height, width, _ = images.shape
    grey = jnp.einsum('bhwc,c->bhw', images, jnp.asarray(_LUMA), precision=jax.lax.Precision.HIGHEST)
    rows, columns = height // patch, width // patch
    return grey.reshape(b, rows, patch, columns, patch).transpose(0, 1, 3, 2, 4).reshape(b, rows, columns, patch**2)


def density_thresholds(
    batches: Iterable[Float[Array | np.ndarray, 'b H W 3']],
    patch: int,
    grain_ratios: Sequence[float],
    bin_range: Sequence[float] = (-1.0, 1.0),
) -> tuple[float, ...]:
    """Densities that separate the grains so that a data set has the given shares, for `EntropyRouter`.

    Args:
      batches: images of the data set (some thousands suffice for two digits).
      patch: side of the coarsest cell, in pixels.
      grain_ratios: shares of the area, from coarse to fine.
      bin_range: as in `information_density`; the router must be given the same.

    Returns:
      Ascending percentiles, one fewer than there are grains.
    """
    check_grain_ratios(grain_ratios)
    density = jax.jit(lambda x: information_density(x, patch, bin_range))
    values = np.concatenate([np.asarray(density(jnp.asarray(images))).ravel() for images in batches])
    return tuple(float(np.quantile(values, min(share, 1.0))) for share in np.cumsum(grain_ratios)[:-1])


def check_grain_ratios(grain_ratios: Sequence[float], count: int | None = None) -> None:
    """Raises UserError unless the shares are `count` numbers of at least 0 with the sum 1."""
    if count is not None and len(grain_ratios) != count:
        raise UserError(f'expected {count} shares, from coarse to fine, got {tuple(grain_ratios)}')
    if min(grain_ratios) < 0 or abs(sum(grain_ratios) - 1) > 1e-4:
        raise UserError(f'shares must be at least 0 and add up to 1, got {tuple(grain_ratios)}')


def repeat_cells(x: Array, side: int) -> Array:
    """`[b, h, w, ...]` with each cell repeated over a block of `side` by `side`."""
    return jnp.repeat(jnp.repeat(x, side, axis=1), side, axis=2)


def merge_grains(branches: Sequence[Float[Array, 'b _ _ d']], grain: Int[Array, 'b h w']) -> Float[Array, 'b h w d']:
    """At every position of the finest grid the vector of the branch whose grain is chosen there.

    Args:
      branches: latents, each with twice the resolution of the one before it.
      grain: side of the block that each position belongs to.
    """
    merged = branches[-1]
    for i, branch in enumerate(branches[:-1]):
        side = 2 ** (len(branches) - 1 - i)
        merged = jnp.where((grain == side)[..., None], repeat_cells(branch, side), merged)
    return merged


def grain_shares(grain: Int[Array, 'b h w'], grains: Sequence[int]) -> dict[str, Float[Array, '']]:
    """Realised shares of the area, as metrics 'grain/4'."""
    return {f'grain/{side}': jnp.mean(grain == side, dtype=jnp.float32) for side in grains}


class FeatureRouter(nn.Module):
    """Lets the features themselves decide: two dense layers on all branches, at the coarsest grid (DQ-VAE).

    Attributes:
      dtype: computation type; the result is float32.
    """

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, branches: Sequence[Float[Array, 'b _ _ d']]) -> Float[Array, 'b h w s']:
        """Logits of the grains for each cell of the coarsest grid, from branches from coarse to fine."""
        features = []
        for i, branch in enumerate(branches):
            normed, window = GroupNorm(dtype=self.dtype, name=f'norm_{i}')(branch), (2**i, 2**i)
            features.append(nn.avg_pool(normed, window, strides=window))
        x = jnp.concatenate(features, axis=-1)
        x = nn.silu(nn.Dense(x.shape[-1], dtype=self.dtype, name='dense1')(x))
        return nn.Dense(len(branches), dtype=self.dtype, name='dense2')(x).astype(jnp.float32)


def hard_gumbel_softmax(logits: Float[Array, '*shape s'], noise: Float[Array, '*shape s']) -> Float[Array, '*shape s']:
    """One-hot of the largest noisy logit, with the gradient of their softmax (Jang et al. 2017, temperature 1)."""
    soft = jax.nn.softmax(logits + noise, axis=-1)
    hard = jax.nn.one_hot(jnp.argmax(soft, axis=-1), soft.shape[-1])
    return jax.lax.stop_gradient(hard - soft) + soft


def budget_loss(
    gate: Float[Array, 'b h w s'], grain_ratios: Sequence[float], *, per_image: bool = False
) -> Float[Array, '']:
    """Squared distance of the shares of all grains but the coarsest from their targets, summed (DQ-VAE).

    Args:
      gate: weight of each grain in each coarsest cell; one-hot in training.  Weights that do not add up to 1 (the
        official code logs this loss of raw logits) count by the number of codes they stand for.
      grain_ratios: targets, from coarse to fine.
      per_image: whether each image must meet the targets; else only the batch as a whole.
    """
    cells = gate.shape[1] * gate.shape[2]
    sums = jnp.sum(gate, axis=(1, 2))
    sums = sums if per_image else replica_mean(jnp.mean(sums, axis=0, keepdims=True))
    surplus = jnp.sum(sums, axis=-1) - cells  # 0 where the weights of a cell add up to 1
    loss = jnp.zeros(())
    for i, target in enumerate(grain_ratios[1:], start=1):
        codes = 4**i - 1  # more than the coarsest grain has, per cell
        loss += jnp.mean(((sums[:, i] + surplus / codes) / cells - target) ** 2)
    return loss


class EntropyRouter(nn.Module):
    """Fine grains where the density of the coarsest cell is high (DQ-VAE, the variant of its released model).

    With thresholds the share of each grain depends on the image; they are variables of the collection 'frozen',
    together with the range of the bins that they were measured with.  Without, every image has the exact shares.

    Attributes:
      grain_ratios: shares of the area, from coarse to fine.
      thresholds: densities that separate the grains, ascending (`density_thresholds`); None: exact shares.
      bin_range: centres of the first and the last bin of the histogram.
    """

    grain_ratios: Sequence[float]
    thresholds: Sequence[float] | None = None
    bin_range: Sequence[float] = (-1.0, 1.0)

    @nn.compact
    def __call__(self, images: Float[Array, 'b H W 3'], patch: int) -> Int[Array, 'b h w']:
        """Number of the grain of each cell, 0 is the coarsest; `patch` is the cell's side in pixels."""
        if self.thresholds is None:
            return quota_choice(information_density(images, patch, self.bin_range), self.grain_ratios)
        if len(self.thresholds) != len(self.grain_ratios) - 1:
            raise UserError(
                f'{len(self.grain_ratios)} grains need {len(self.grain_ratios) - 1} thresholds, '
                f'got {tuple(self.thresholds)}'
            )
        given = {'thresholds': self.thresholds, 'bin_range': self.bin_range}
        stored = {name: self.variable('frozen', name, jnp.asarray, tuple(v)).value for name, v in given.items()}
        density = information_density(images, patch, stored['bin_range'])
        return jnp.sum(density[..., None] > stored['thresholds'], axis=-1, dtype=jnp.int32)


def quota_choice(
    density: Float[Array, 'b h w'], grain_ratios: Sequence[float] | Float[Array, ' s']
) -> Int[Array, 'b h w']:
    """Number of each cell's grain, 0 for the least dense: exact shares of each image, ties in raster order."""
    b, h, w = density.shape
    ranks = _ranks(_integer(density).reshape(b, h * w))
    bounds = jnp.round(h * w * jnp.cumsum(jnp.asarray(grain_ratios, jnp.float32)[:-1]))
    return jnp.sum(ranks[..., None] >= bounds, axis=-1, dtype=jnp.int32).reshape(b, h, w)


@dataclasses.dataclass(frozen=True)
class RatioRouter:
    """Gives each grain its share of the area, the coarsest grain to the smoothest cells (Control-GIC).

    One rule for any number of grains, any of which may have the share 0: from coarse to fine each grain takes the
    least dense cells of its own grid that are still free; the finest grain takes the rest.

    Attributes:
      strict_thresholds: the official rule instead of exact shares: one threshold for the whole batch, and cells of
        exactly this density are not taken.  Images with constant areas then miss their shares by far.
    """

    strict_thresholds: bool = False

    def __call__(
        self, densities: Sequence[Float[Array, 'b _ _']], grain_ratios: Sequence[float] | Float[Array, ' s']
    ) -> Int[Array, 'b h w']:
        """Side of the block of each position of the finest grid.

        Args:
          densities: of the cells of every grain but the finest, from coarse to fine.
          grain_ratios: shares from coarse to fine; numbers or, to change them without compiling again, an array.
        """
        shares, choose = jnp.asarray(grain_ratios, jnp.float32), self._below if self.strict_thresholds else self._least
        reached = jnp.cumsum(shares)
        taken = jnp.zeros_like(densities[0], dtype=bool)
        grain = jnp.ones_like(repeat_cells(densities[-1], 2), dtype=jnp.int32)
        for i, density in enumerate(densities):
            side = 2 ** (len(densities) - i)
            # A grain of share 0 takes nothing, whatever is left by rounding; the last of the others takes all.
            chosen = jnp.where(jnp.all(shares[i + 1 :] == 0), ~taken, choose(density, taken, reached[i]))
            chosen &= ~taken & (shares[i] > 0)
            grain = jnp.where(repeat_cells(chosen, side), side, grain)
            taken = repeat_cells(taken | chosen, 2)
        return grain

    @staticmethod
    def _least(
        density: Float[Array, 'b h w'], taken: Bool[Array, 'b h w'], reached: Float[Array, '']
    ) -> Bool[Array, 'b h w']:
        """The least dense free cells of each image, as many as are missing to `reached`."""
        b, h, w = density.shape
        keys = jnp.where(taken, jnp.iinfo(jnp.int32).max, _integer(density)).reshape(b, h * w)
        missing = jnp.round(h * w * reached).astype(jnp.int32) - jnp.sum(taken, axis=(1, 2), dtype=jnp.int32)
        return (_ranks(keys) < missing[:, None]).reshape(b, h, w)

    @staticmethod
    def _below(
        density: Float[Array, 'b h w'], taken: Bool[Array, 'b h w'], reached: Float[Array, '']
    ) -> Bool[Array, 'b h w']:
        """Cells below the density that the last of the missing cells has, in the batch as a whole."""
        ordered = jnp.sort(jnp.where(taken, 0.0, density).ravel())
        last = jnp.round(density.size * reached).astype(jnp.int32) - 1
        return density < ordered[jnp.maximum(last, 0)]


def _integer(density: Float[Array, '*shape']) -> Int[Array, '*shape']:
    return jnp.round(density * _STEPS_PER_NAT).astype(jnp.int32)


def _ranks(keys: Int[Array, 'b n']) -> Int[Array, 'b n']:
    """Place of each entry in the order of its row; equal entries keep their order."""
    return jnp.argsort(jnp.argsort(keys, axis=-1, stable=True), axis=-1)
