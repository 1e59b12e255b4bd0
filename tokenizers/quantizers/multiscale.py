"""Multi-scale residual quantization: a grid of codewords per scale, from one cell up to the full grid.

Tian et al., "Visual Autoregressive Modeling: Scalable Image Generation via Next-Scale Prediction" (VAR, 2024), with
one codebook for all scales.
"""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from vistok.clustering.nearest import nearest_codeword
from vistok.errors import UserError
from vistok.networks.convolution import Conv
from vistok.tokenizers.codebooks.codebook import Codebook
from vistok.tokenizers.quantizers.vector import QuantizerOutput, straight_through

_CONVOLUTIONS = 4  # neighbouring scales share one
_BLEND = 0.5  # weight of the convolution in the sum


class MultiScaleQuantizer(nn.Module):
    """Residual quantizer over scales: each scale quantizes, on its own grid, the residual of the coarser ones.

    Codewords of a scale are enlarged to the full grid (bicubic), blended with a 3x3 convolution of themselves, and
    added up.  Ids are dense, like all tokens: there is one id per position and scale, and the id of a coarse cell is
    repeated over the positions it covers (nearest neighbour), so that the grid of each scale can be read back.

    Attributes:
      codebook: module that returns the rows, `[K, d]`, when called without arguments.
      dim: width of the codewords, d.
      scales: sides of the grids, rising; the last is that of the full grid for which they are meant, and full grids of
        other sizes have scales in proportion.
      codebook_weight: weight of mean |partial sum - sg(z)|^2, averaged over scales.
      commitment_weight: weight of mean |z - sg(partial sum)|^2, averaged over scales.
    """

    codebook: Codebook
    dim: int
    scales: Sequence[int] = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
    codebook_weight: float = 1.0
    commitment_weight: float = 0.25

    def setup(self) -> None:
        """Builds the shared convolutions."""
        if not self.scales or list(self.scales) != sorted(set(self.scales)) or self.scales[0] < 1:
            raise UserError(f'scales must be positive and rising, got {tuple(self.scales)}')
        self.convolution = [Conv(self.dim, (3, 3)) for _ in range(_CONVOLUTIONS)]

    def codewords(self) -> Float[Array, 'K d']:
        """Returns the codewords that every scale chooses from."""
        return self.codebook().astype(jnp.float32)

    def __call__(self, z: Float[Array, 'b h w d'], *, train: bool = False) -> QuantizerOutput:
        """Quantizes a grid of vectors; losses 'codebook' and 'commitment'.

        Raises:
          UserError: the vectors are not as wide as the codewords.
        """
        codewords = self.codewords()
        if z.shape[-1] != codewords.shape[-1]:
            raise UserError(f'z has {z.shape[-1]} channels, the codewords have {codewords.shape[-1]}')
        z = z.astype(jnp.float32)
        fixed = jax.lax.stop_gradient(z)
        sides = z.shape[1:3]

        total, dense = jnp.zeros_like(z), []
        residuals, assigned = [], []
        losses = {'codebook': jnp.zeros(()), 'commitment': jnp.zeros(())}
        for i, grid in enumerate(self.grids(sides)):
            residual = _resample(fixed - jax.lax.stop_gradient(total), grid, _area)
            rows = residual.reshape(-1, residual.shape[-1])
            ids = nearest_codeword(rows, codewords).reshape(residual.shape[:-1])
            residuals.append(rows)
            assigned.append(ids.reshape(-1))
            total = total + self._upsample_codewords(codewords[ids], i, sides)
            dense.append(_repeat_ids(ids, sides))
            losses['codebook'] += jnp.mean((total - fixed) ** 2)
            losses['commitment'] += jnp.mean((z - jax.lax.stop_gradient(total)) ** 2)
        if train:
            self.codebook.update(jnp.concatenate(residuals), jnp.concatenate(assigned))
        weights = {'codebook': self.codebook_weight, 'commitment': self.commitment_weight}
        return QuantizerOutput(
            z_q=straight_through(z, total),
            ids=jnp.stack(dense, axis=-1),
            losses={name: weights[name] * loss / len(self.scales) for name, loss in losses.items()},
        )

    def embed(self, ids: Int[Array, 'b h w k']) -> Float[Array, 'b h w d']:
        """Sums the upsampled codewords of `ids` over the scales; the same values as `z_q`."""
        codewords, sides = self.codewords(), ids.shape[1:3]
        total = jnp.zeros((*ids.shape[:3], codewords.shape[-1]))
        for i, grid in enumerate(self.grids(sides)):
            total = total + self._upsample_codewords(codewords[_recover_ids(ids[..., i], grid)], i, sides)
        return total

    def grids(self, sides: Sequence[int]) -> list[tuple[int, int]]:
        """Returns the rows and columns of each scale, for a full grid of `sides`."""
        h, w = sides
        return [
            (_scale_side(scale, self.scales[-1], h), _scale_side(scale, self.scales[-1], w)) for scale in self.scales
        ]

    def _upsample_codewords(
        self, chosen: Float[Array, 'b p q d'], scale: int, sides: Sequence[int]
    ) -> Float[Array, 'b h w d']:
        """Computes the contribution of codewords of a scale to the full grid."""
        x = _resample(chosen, sides, _bicubic)
        # The convolution whose place among equally spaced ones is nearest to the scale's own.
        place = scale / max(len(self.scales) - 1, 1)
        margin = 1 / 3 / _CONVOLUTIONS
        places = np.linspace(margin, 1 - margin, _CONVOLUTIONS)
        convolution = self.convolution[int(np.argmin(np.abs(places - place)))]
        return (1 - _BLEND) * x + _BLEND * convolution(x)


def _scale_side(scale: int, full: int, side: int) -> int:
    """Returns `scale` on a grid of `side` cells instead of `full`, at least 1."""
    return max(1, (2 * scale * side + full) // (2 * full))


def _repeat_ids(ids: Int[Array, 'b p q'], sides: Sequence[int]) -> Int[Array, 'b h w']:
    """Repeats each id over the positions that its cell covers."""
    rows, columns = (np.arange(side) * cells // side for side, cells in zip(sides, ids.shape[1:], strict=True))
    return ids[:, rows[:, None], columns]


def _recover_ids(dense: Int[Array, 'b h w'], grid: tuple[int, int]) -> Int[Array, 'b p q']:
    """Inverts `_repeat_ids`: takes the id at the first position that each cell covers."""
    rows, columns = (-(-np.arange(cells) * side // cells) for side, cells in zip(dense.shape[1:], grid, strict=True))
    return dense[:, rows[:, None], columns]


def _resample(
    x: Float[Array, 'b h w d'], sides: Sequence[int], weights: Callable[[int, int], np.ndarray]
) -> Float[Array, 'b p q d']:
    """Resamples `x` to another grid, axis by axis; `weights(old, new)` are `[new, old]`."""
    for axis, side in zip((1, 2), sides, strict=True):
        if x.shape[axis] != side:
            matrix = jnp.asarray(weights(x.shape[axis], side), x.dtype)
            x = jnp.moveaxis(jnp.tensordot(matrix, x, (1, axis), precision=jax.lax.Precision.HIGHEST), 0, axis)
    return x


def _area(old: int, new: int) -> np.ndarray:
    """Computes weights that average the old cells that each new one touches."""
    starts, ends = np.arange(new) * old // new, -(-(np.arange(new) + 1) * old // new)
    cells = np.arange(old)
    touched = (cells >= starts[:, None]) & (cells < ends[:, None])
    return touched / touched.sum(axis=1, keepdims=True)


def _bicubic(old: int, new: int) -> np.ndarray:
    """Computes weights of cubic convolution with a = -0.75 and repeated borders (PyTorch's bicubic, which VAR uses)."""
    a = -0.75
    places = (np.arange(new) + 0.5) * old / new - 0.5
    first = np.floor(places).astype(int)
    weights = np.zeros((new, old))
    for offset in range(-1, 3):
        t = np.abs(places - (first + offset))
        near, far = (a + 2) * t**3 - (a + 3) * t**2 + 1, a * (t**3 - 5 * t**2 + 8 * t - 4)
        np.add.at(weights, (np.arange(new), np.clip(first + offset, 0, old - 1)), np.where(t <= 1, near, far))
    return weights
