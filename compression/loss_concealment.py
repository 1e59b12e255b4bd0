"""Ids that got lost, made up from those that have arrived: by the nearest of them, or by a masked-token transformer.

A transformer that predicts lost indices: "Extreme Image Compression using Fine-tuned VQGANs" (DCC 2024), which does not
publish it.  Ours is a MaskGIT (Chang et al. 2022), or another generator of that kind: it was trained with any share of
hidden tokens and needs nothing more.
"""

import dataclasses
import functools
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import scipy.ndimage
from jaxtyping import Array, Bool, Int, Integer

from vistok.compression.windows import spans
from vistok.errors import UserError
from vistok.generators.masked.mage import MAGE
from vistok.tokenizers.tokenizer import Tokens

_ROWS = 8  # windows at a time, so that one program serves all images


@runtime_checkable
class Restorer(Protocol):
    """Fills in lost ids."""

    def __call__(
        self, ids: Integer[np.ndarray, 'h w k'], known: Bool[np.ndarray, 'h w']
    ) -> Integer[np.ndarray, 'h w k']:
        """Ids of a whole grid.

        Args:
          ids: where they are not known, anything.
          known: some at least.
        """
        ...


def nearest_known(ids: Integer[np.ndarray, 'h w k'], known: Bool[np.ndarray, 'h w']) -> Integer[np.ndarray, 'h w k']:
    """A `Restorer` that repeats the id of the nearest cell that is known."""
    _, nearest = scipy.ndimage.distance_transform_edt(~known, return_indices=True)
    return ids[nearest[0], nearest[1]]


@dataclasses.dataclass(frozen=True, eq=False)
class MaskedRestorer:
    """A `Restorer` that takes the likeliest ids by a generator's account, the surest first.

    Grids larger than the generator's are cut into windows that overlap, and what is outside of a smaller one is as if
    it were lost.  Nothing is drawn: the same ids give the same result.

    Attributes:
      generator: trained on tokens of the same tokenizer; see `MAGE.complete`.
      variables: of the generator.
      steps: of its walk; 0: as the generator has them.
    """

    generator: MAGE
    variables: dict[str, Any]
    steps: int = 0

    def __call__(
        self, ids: Integer[np.ndarray, 'h w k'], known: Bool[np.ndarray, 'h w']
    ) -> Integer[np.ndarray, 'h w k']:
        """See `Restorer`.

        Raises:
          UserError: there are several ids for a cell.
        """
        if ids.shape[-1] != 1:
            raise UserError(f'{type(self.generator).__name__} restores one id for each cell, here are {ids.shape[-1]}')
        (rows, columns), grid = known.shape, self.generator.grid
        margins = [(0, max(0, side - length)) for side, length in zip(grid, known.shape, strict=True)]
        given, there = np.pad(ids[..., 0], margins), np.pad(known, margins)
        axes = [spans(length, side, side // 4) for length, side in zip(there.shape, grid, strict=True)]
        windows = [(y, x) for y in axes[0] for x in axes[1] if not there[y.core, x.core].all()]
        found = given.copy()
        for start in range(0, len(windows), _ROWS):
            some = windows[start : start + _ROWS]
            padded = [*some, *[some[-1]] * (_ROWS - len(some))]
            batch = np.stack([given[y.window, x.window] for y, x in padded])
            mask = np.stack([there[y.window, x.window] for y, x in padded])
            made = np.asarray(_complete(self.generator, self.steps, self.variables, batch, mask))
            for (y, x), whole in zip(some, made, strict=False):
                found[y.core, x.core] = whole[y.core_inside, x.core_inside]
        return found[:rows, :columns, None]


@functools.partial(jax.jit, static_argnums=(0, 1))
def _complete(
    generator: MAGE, steps: int, variables: Any, ids: Int[Array, 'b h w'], known: Bool[Array, 'b h w']
) -> Int[Array, 'b h w']:
    nothing = jnp.full(len(ids), generator.num_classes)
    return jnp.asarray(generator.inpaint(variables, Tokens(ids[..., None]), known, nothing, steps=steps).ids)[..., 0]
