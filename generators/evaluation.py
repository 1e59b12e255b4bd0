"""Evaluation of generators: mean loss over held-out images."""

from collections.abc import Callable, Iterable, Mapping

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Float

from vistok.errors import UserError

Batch = Mapping[str, np.ndarray]


def evaluate_generator(
    losses: Callable[[Batch], Mapping[str, Float[np.ndarray, ' b']]], batches: Iterable[Batch]
) -> dict[str, float]:
    """Averages 'loss' and metrics over all images of `batches`, each counted once, and counts the 'images'.

    With several processes, each calls this with its own share of the images, in equally many batches; all get the
    means over the whole set.

    Args:
      losses: computes values for each image of a batch, see `GeneratorObjective.losses_by_image`; the batch gets the
        entry 'index', the number of each image.
      batches: batches of images or tokens, with 'label' and 'mask' (False on padding, which does not count).

    Raises:
      UserError: there are no images.
    """
    sums: dict[str, float] = {}
    count, position = 0.0, 0
    for batch in batches:
        mask = batch['mask']
        local = len(mask)
        # Rows of process 0 come first in a global batch, then those of process 1, and so on.
        index = position + jax.process_index() * local + np.arange(local, dtype=np.int32)
        position += local * jax.process_count()
        found = losses({**{name: x for name, x in batch.items() if name != 'mask'}, 'index': index.astype(np.int32)})
        for name, values in found.items():
            sums[name] = sums.get(name, 0.0) + float(np.asarray(values, np.float64)[mask].sum())
        count += float(mask.sum())
    totals = np.asarray([count, *sums.values()], np.float64)
    if jax.process_count() > 1:  # as 32-bit words, because JAX would round 64-bit numbers
        gathered = np.asarray(multihost_utils.process_allgather(totals.view(np.uint32)))
        totals = gathered.view(np.float64).sum(axis=0)
    if not totals[0]:
        raise UserError('there are no images to evaluate on')
    return dict(zip(sums, (totals[1:] / totals[0]).tolist(), strict=True)) | {'images': float(totals[0])}
