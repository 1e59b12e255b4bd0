"""Loss concealment: prediction of lost ids by their nearest neighbours or by a masked-token transformer.

A transformer that predicts lost indices is described in "Extreme Image Compression using Fine-tuned VQGANs" (DCC 2024),
but not published.  Here a MaskGIT (Chang et al. 2022), or another masked generator, predicts them without further
training, since it was trained with all shares of masked tokens.
"""

import dataclasses
import functools
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import scipy.ndimage
from jaxtyping import Array, Bool, Int, Integer

from vistok.compression.windows import WindowAxis
from vistok.errors import UserError
from vistok.generators.masked.mage import MAGE
from vistok.tokenizers.tokenizer import Tokens

_ROWS = 8  # batch of windows, always of one size, so that the generator is compiled once


@runtime_checkable
class Restorer(Protocol):
    """Function that replaces lost ids."""

    def __call__(
        self, ids: Integer[np.ndarray, 'h w k'], known: Bool[np.ndarray, 'h w']
    ) -> Integer[np.ndarray, 'h w k']:
        """Predicts lost ids and returns the ids of the whole grid.

        Args:
          ids: with arbitrary values where they are lost.
          known: False where ids are lost; True at least once.
        """
        ...


def copy_nearest_known(
    ids: Integer[np.ndarray, 'h w k'], known: Bool[np.ndarray, 'h w']
) -> Integer[np.ndarray, 'h w k']:
    """Replaces each lost id by that of the nearest known cell; a `Restorer`."""
    nearest = scipy.ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True)
    return ids[nearest[0], nearest[1]]


@dataclasses.dataclass(frozen=True, eq=False)
class MaskedRestorer:
    """`Restorer` that decodes the most probable ids of a masked generator, the most confident first.

    Larger grids than the generator's are cut into overlapping windows, and smaller ones are padded with masked cells.
    Decoding is deterministic.

    Attributes:
      generator: trained on tokens of the same tokenizer; see `MAGE.inpaint`.
      variables: of the generator.
      steps: number of decoding steps; 0 for the generator's default.
    """

    generator: MAGE
    variables: dict[str, Any]
    steps: int = 0

    def __call__(
        self, ids: Integer[np.ndarray, 'h w k'], known: Bool[np.ndarray, 'h w']
    ) -> Integer[np.ndarray, 'h w k']:
        """Predicts lost ids, one per cell.

        Raises:
          UserError: there are several ids per cell.
        """
        if ids.shape[-1] != 1:
            raise UserError(f'{type(self.generator).__name__} restores one id for each cell, here are {ids.shape[-1]}')
        (rows, columns), grid = known.shape, self.generator.grid
        margins = [(0, max(0, side - length)) for side, length in zip(grid, known.shape, strict=True)]
        padded_ids, padded_known = np.pad(ids[..., 0], margins), np.pad(known, margins)
        axes = [WindowAxis(length, side, side // 4) for length, side in zip(padded_known.shape, grid, strict=True)]
        windows = [(y, x) for y in axes[0] for x in axes[1] if not padded_known[y.core, x.core].all()]
        restored = padded_ids.copy()
        for start in range(0, len(windows), _ROWS):
            some = windows[start : start + _ROWS]
            padded = [*some, *[some[-1]] * (_ROWS - len(some))]
            batch = np.stack([padded_ids[y.window, x.window] for y, x in padded])
            mask = np.stack([padded_known[y.window, x.window] for y, x in padded])
            predicted = np.asarray(_predict(self.generator, self.steps, self.variables, batch, mask))
            for (y, x), whole in zip(some, predicted, strict=False):
                restored[y.core, x.core] = whole[y.core_inside, x.core_inside]
        return restored[:rows, :columns, None]


@functools.partial(jax.jit, static_argnums=(0, 1))
def _predict(
    generator: MAGE, steps: int, variables: Any, ids: Int[Array, 'b h w'], known: Bool[Array, 'b h w']
) -> Int[Array, 'b h w']:
    null_labels = jnp.full(len(ids), generator.num_classes)
    tokens = generator.inpaint(variables, Tokens(ids[..., None]), known, null_labels, steps=steps)
    return jnp.asarray(tokens.ids)[..., 0]
