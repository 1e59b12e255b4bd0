"""An autoregressive generator that is a table: the next id depends on the class and on the id before."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from vistok.generators.autoregressive.base import Autoregressive
from vistok.generators.autoregressive.decoding import DecodeStep


@dataclasses.dataclass(frozen=True)
class Markov(Autoregressive):
    """Logits are `sharpness * table[codebook_index][class, id before]`; the id before the first is 0."""

    sharpness: float = 1.0

    def init(self, rng):
        sizes = self.spec.codebook_sizes
        shapes = [(self.num_classes + 1, sizes[j - 1], size) for j, size in enumerate(sizes)]
        keys = jax.random.split(rng, len(sizes))
        tables = [3 * jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True)]
        return {'params': {f'table_{j}': np.asarray(table) for j, table in enumerate(tables)}}

    def null_condition(self, variables, cond):
        return jnp.full_like(cond, self.num_classes)

    def cross_entropies(self, variables, ids, cond, rng, *, train):
        raise NotImplementedError

    def init_cache(self, variables, cond):
        return cond

    def step(self, variables, cache, ids, codebook_index=0):
        table = variables['params'][f'table_{codebook_index}']
        return DecodeStep(cache, self.sharpness * jnp.asarray(table)[cache, ids[:, codebook_index - 1]])

    def visits(self, shape):
        """Places of a tile block by block, each with whether it is the first of its block."""
        rows, columns = self.grid
        for top in range(0, shape[0], rows):
            for left in range(0, shape[1], columns):
                for y in range(top, min(top + rows, shape[0])):
                    for x in range(left, min(left + columns, shape[1])):
                        yield y, x, (y, x) == (top, left)

    def drawn(self, variables, label, shape, seed=0):
        """Ids `[h, w, k]` of one class; sides are multiples of the grid's."""
        rng = np.random.default_rng(seed)
        sizes = self.spec.codebook_sizes
        ids, before = np.zeros((*shape, len(sizes)), np.int32), 0
        for y, x, first in self.visits(shape):
            before = 0 if first else before
            for j, size in enumerate(sizes):
                logits = self.sharpness * variables['params'][f'table_{j}'][label, before]
                before = ids[y, x, j] = np.argmax(logits + rng.gumbel(size=size))
        return ids

    def bits(self, variables, label, ids):
        """-log2 of the probability of all ids, in floating point."""
        total, before = 0.0, 0
        for y, x, first in self.visits(ids.shape):
            before = 0 if first else before
            for j in range(ids.shape[-1]):
                logits = self.sharpness * variables['params'][f'table_{j}'][label, before].astype(np.float64)
                before = ids[y, x, j]
                total += np.log2(np.exp(logits - logits[before]).sum())
        return total
