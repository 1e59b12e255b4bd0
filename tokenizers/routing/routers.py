"""Routers: modules that choose the grain of each cell.

Huang et al., "Towards Accurate Image Coding: Improved Autoregressive Image Generation with Dynamic Vector
Quantization" (DQ-VAE, 2023): learned from features, or by thresholds on the information density.  Li et al.,
"Once-for-All: Controllable Generative Image Compression with Dynamic Granularity Adaptation" (Control-GIC, 2025): exact
shares of the area.  Grains and shares are always listed from coarse to fine.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vistok.collectives import replica_gather, replica_mean
from vistok.errors import UserError
from vistok.networks.convolution import Dense
from vistok.networks.norms import GroupNorm
from vistok.tokenizers.routing.density import information_density
from vistok.tokenizers.routing.grains import repeat_cells

_STEPS_PER_NAT = 4096  # densities are ranked as integers: differences of rounding hardly ever change the order


class FeatureRouter(nn.Module):
    """Router learned from features: two dense layers on all branches, at the coarsest grid (DQ-VAE).

    Attributes:
      dtype: computation type; the result is float32.
    """

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, branches: Sequence[Float[Array, 'b _ _ d']]) -> Float[Array, 'b h w s']:
        """Computes logits of the grains for each coarsest cell, from branches listed from coarse to fine."""
        features = []
        for i, branch in enumerate(branches):
            normed, window = GroupNorm(dtype=self.dtype, name=f'norm_{i}')(branch), (2**i, 2**i)
            features.append(nn.avg_pool(normed, window, strides=window))
        x = jnp.concatenate(features, axis=-1)
        x = nn.silu(Dense(x.shape[-1], dtype=self.dtype, name='dense1')(x))
        return Dense(len(branches), dtype=self.dtype, name='dense2')(x).astype(jnp.float32)


def hard_gumbel_softmax(logits: Float[Array, '*shape s'], noise: Float[Array, '*shape s']) -> Float[Array, '*shape s']:
    """Returns the one-hot of the largest noisy logit with the gradient of the softmax (Jang et al. 2017)."""
    soft = jax.nn.softmax(logits + noise, axis=-1)
    hard = jax.nn.one_hot(jnp.argmax(soft, axis=-1), soft.shape[-1])
    return jax.lax.stop_gradient(hard - soft) + soft


def budget_loss(
    gate: Float[Array, 'b h w s'], grain_ratios: Sequence[float], *, per_image: bool = False
) -> Float[Array, '']:
    """Computes the squared distance of the shares of all grains but the coarsest from their targets, summed (DQ-VAE).

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
    """Router by information density: fine grains where the coarsest cell is dense (DQ-VAE, its released variant).

    With thresholds the share of each grain depends on the image; they are variables of the collection 'frozen',
    together with the range of the bins that they were measured with.  Without, every image has the exact shares.

    Attributes:
      grain_ratios: shares of the area, from coarse to fine.
      thresholds: densities that separate the grains, ascending (`density_thresholds`); None: exact shares; (): those of
        the variable, which is infinite, all grains coarse, until it is measured (`thresholds.py`) or loaded.
      bin_range: centres of the first and the last bin of the histogram.
    """

    grain_ratios: Sequence[float]
    thresholds: Sequence[float] | None = None
    bin_range: Sequence[float] = (-1.0, 1.0)

    @nn.compact
    def __call__(self, images: Float[Array, 'b H W 3'], patch: int) -> Int[Array, 'b h w']:
        """Chooses the number of each cell's grain, 0 is the coarsest; `patch` is the cell's side in pixels."""
        if self.thresholds is None:
            return quota_choice(information_density(images, patch, self.bin_range), self.grain_ratios)
        thresholds = tuple(self.thresholds) or (float('inf'),) * (len(self.grain_ratios) - 1)
        if len(thresholds) != len(self.grain_ratios) - 1:
            raise UserError(
                f'{len(self.grain_ratios)} grains need {len(self.grain_ratios) - 1} thresholds, '
                f'got {tuple(self.thresholds)}'
            )
        given = {'thresholds': thresholds, 'bin_range': self.bin_range}
        stored = {name: self.variable('frozen', name, jnp.asarray, tuple(v)).value for name, v in given.items()}
        density = information_density(images, patch, stored['bin_range'])
        return jnp.sum(density[..., None] > stored['thresholds'], axis=-1, dtype=jnp.int32)


def quota_choice(
    density: Float[Array, 'b h w'], grain_ratios: Sequence[float] | Float[Array, ' s']
) -> Int[Array, 'b h w']:
    """Chooses each cell's grain by density, 0 for the least dense: exact shares per image, ties in raster order."""
    b, h, w = density.shape
    ranks = _ranks(_integer(density).reshape(b, h * w))
    bounds = jnp.round(h * w * jnp.cumsum(jnp.asarray(grain_ratios, jnp.float32)[:-1]))
    return jnp.sum(ranks[..., None] >= bounds, axis=-1, dtype=jnp.int32).reshape(b, h, w)


@dataclasses.dataclass(frozen=True)
class RatioRouter:
    """Router by exact shares of the area, the coarsest grain in the smoothest cells (Control-GIC).

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
        """Chooses the side of the block of each position of the finest grid.

        Args:
          densities: densities of the cells of every grain but the finest, from coarse to fine.
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
        """Selects the least dense free cells of each image, as many as are missing to `reached`."""
        b, h, w = density.shape
        keys = jnp.where(taken, jnp.iinfo(jnp.int32).max, _integer(density)).reshape(b, h * w)
        missing = jnp.round(h * w * reached).astype(jnp.int32) - jnp.sum(taken, axis=(1, 2), dtype=jnp.int32)
        return (_ranks(keys) < missing[:, None]).reshape(b, h, w)

    @staticmethod
    def _below(
        density: Float[Array, 'b h w'], taken: Bool[Array, 'b h w'], reached: Float[Array, '']
    ) -> Bool[Array, 'b h w']:
        """Selects cells below the density of the last of the missing cells, in the batch as a whole."""
        ordered = jnp.sort(replica_gather(jnp.where(taken, 0.0, density)).ravel())
        last = jnp.round(ordered.size * reached).astype(jnp.int32) - 1
        return density < ordered[jnp.maximum(last, 0)]


def _integer(density: Float[Array, '*shape']) -> Int[Array, '*shape']:
    return jnp.round(density * _STEPS_PER_NAT).astype(jnp.int32)


def _ranks(keys: Int[Array, 'b n']) -> Int[Array, 'b n']:
    """Ranks the entries of each row; equal entries keep their order."""
    return jnp.argsort(jnp.argsort(keys, axis=-1, stable=True), axis=-1)
