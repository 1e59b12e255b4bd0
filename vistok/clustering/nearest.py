"""Nearest-codeword search without the matrix of all distances.

Two passes over the codebook, cut into small tiles.  The first keeps only each tile's best score; the second looks
inside the winning tile of each row.  A maximum vectorises where an argmax over K does not, and no buffer grows with
n * K.
"""

import math
from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vistok.errors import UserError

CODEBOOK_AXIS = 'model'  # as the rules of vistok/training/sharding.py split the rows of codebooks

_SCORES_AT_ONCE = 2**22  # float32 scores alive in the first pass
_GATHERED_AT_ONCE = 2**20  # float32 numbers of codewords gathered in the second pass: small, to stay in the cache
_FAR = 1e30  # squared norm that no codeword has: padding never wins


@flax.struct.dataclass
class CodeTiles:
    """Codebook cut into equal tiles, the last one padded with zeros that are far from everything.

    Attributes:
      codewords: the rows.
      half_norms: half of each row's squared norm; 1e30 for padding.
    """

    codewords: Float[Array, '*tiles tile d']
    half_norms: Float[Array, '*tiles tile']


def code_tiles(codebook: Float[Array, 'K d'], tile: int) -> CodeTiles:
    """Cuts `codebook` into tiles of `tile` rows."""
    size, dim = codebook.shape
    padding = -size % tile
    half_norms = 0.5 * jnp.sum(codebook**2, axis=-1)
    return CodeTiles(
        codewords=jnp.pad(codebook, ((0, padding), (0, 0))).reshape(-1, tile, dim),
        half_norms=jnp.pad(half_norms, (0, padding), constant_values=_FAR).reshape(-1, tile),
    )


@jax.jit
def nearest_codeword(z: Float[Array, 'n d'], codebook: Float[Array, 'K d']) -> Int[Array, 'n']:
    """Finds the row of `codebook` at the smallest Euclidean distance from each row of `z`.

    Maximises `z.c - |c|^2 / 2`: the missing `|z|^2` does not change the winner, and leaving it out is more exact.
    Scores are float32 at full matmul precision whatever the inputs are.  No gradient flows.  Where a mesh with an axis
    'model' is set (`jax.set_mesh`), each of its devices searches its own part of the codebook.

    Args:
      z: vectors.
      codebook: codewords, at least one.

    Returns:
      int32 row numbers in [0, K); the lowest one where codewords are equal.

    Raises:
      UserError: the codebook is empty.
    """
    size = codebook.shape[0]
    if size == 0:
        raise UserError(f'a codebook has at least one codeword, got shape {codebook.shape}')
    mesh = jax.sharding.get_abstract_mesh()
    parts = mesh.shape[CODEBOOK_AXIS] if CODEBOOK_AXIS in mesh.auto_axes else 1
    if parts > 1 and size % parts == 0:
        return nearest_codeword_sharded(z, codebook, mesh, CODEBOOK_AXIS)
    return _search(z, codebook)


def _search(z: Float[Array, 'n d'], codebook: Float[Array, 'K d']) -> Int[Array, 'n']:
    """Searches the nearest codewords on one device."""
    size, dim = codebook.shape
    z = jax.lax.stop_gradient(z).astype(jnp.float32)
    codebook = jax.lax.stop_gradient(codebook).astype(jnp.float32)
    tiles = code_tiles(codebook, _tile_size(size, dim))
    tile = tiles.half_norms.shape[1]

    def best_tile(rows: jax.Array) -> jax.Array:
        def best_score(part: CodeTiles) -> jax.Array:
            scores = jnp.matmul(rows, part.codewords.T, precision=jax.lax.Precision.HIGHEST)
            return jnp.max(scores - part.half_norms, axis=-1)

        return jnp.argmax(jax.lax.map(best_score, tiles), axis=0).astype(jnp.int32)

    def best_inside(rows: jax.Array, winner: jax.Array) -> jax.Array:
        products = jnp.einsum('rd,rtd->rt', rows, tiles.codewords[winner], precision=jax.lax.Precision.HIGHEST)
        return winner * tile + jnp.argmax(products - tiles.half_norms[winner], axis=-1).astype(jnp.int32)

    winner = _in_chunks(best_tile, _SCORES_AT_ONCE // tile, z)
    ids = _in_chunks(best_inside, _GATHERED_AT_ONCE // (tile * dim), z, winner)
    return jnp.minimum(ids, size - 1)  # rows that are not numbers could choose padding


def _tile_size(size: int, dim: int) -> int:
    """Balances the passes: the first has K / tile maxima per row to choose from, the second gathers tile * d numbers.

    Measured on CPU; below 32 the matrix products of the first pass become inefficient.
    """
    return min(size, max(32, math.ceil(math.sqrt(8 * size / dim))))


def _in_chunks(f: Callable[..., jax.Array], rows_at_once: int, *args: jax.Array) -> jax.Array:
    """Computes `f(*args)` for at most `rows_at_once` rows at a time.

    Chunk j takes the rows j, j + chunks, j + 2 * chunks, ...: every chunk has rows of every shard of the batch, and the
    rows stay on their devices.  Chunks of neighbouring rows would lie on one device each and be gathered by all.
    The number of chunks is a power of two, which divides most batches of grids, so that nothing is padded.
    """
    n = args[0].shape[0]
    chunks = 1 << max(0, math.ceil(math.log2(max(1, n / max(1, rows_at_once)))))
    if chunks == 1:
        return f(*args)

    def interleave(x: jax.Array) -> jax.Array:
        padded = jnp.pad(x, ((0, -n % chunks), *((0, 0),) * (x.ndim - 1)))
        return jnp.moveaxis(padded.reshape(-1, chunks, *x.shape[1:]), 1, 0)

    return jax.lax.map(lambda rows: f(*rows), tuple(map(interleave, args))).T.reshape(-1)[:n]


def nearest_codeword_sharded(
    z: Float[Array, 'n d'],
    codebook: Float[Array, 'K d'],
    mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh,
    axis: str,
) -> Int[Array, 'n']:
    """Finds nearest codewords in a codebook whose rows are split over a mesh axis and stay on their devices.

    Each device searches its own rows; what is exchanged are the best scores and their ids, two numbers per vector and
    device.  Other mesh axes may split z as they like.

    Args:
      z: vectors.
      codebook: codewords; K is a multiple of the axis's size.
      mesh: the devices.
      axis: name of the axis that the rows are split over.

    Returns:
      int32 row numbers in [0, K); the lowest one where codewords are equal.

    Raises:
      UserError: K is not a multiple of the axis's size.
    """
    size, parts = codebook.shape[0], mesh.shape[axis]
    if size % parts:
        raise UserError(f'{size} codewords cannot be split evenly over {parts} devices (mesh axis {axis!r})')
    z = jax.lax.stop_gradient(z).astype(jnp.float32)
    codebook = jax.lax.stop_gradient(codebook).astype(jnp.float32)

    def search(z: jax.Array, own: jax.Array) -> jax.Array:
        ids = _search(z, own)
        chosen = own[ids]
        scores = jnp.sum(z * chosen, axis=-1) - 0.5 * jnp.sum(chosen**2, axis=-1)
        best = jax.lax.pmax(scores, axis)
        first = jax.lax.axis_index(axis) * own.shape[0]
        # Not a number is never equal to the best; the lowest row is an answer as good as any.
        ids = jnp.where((scores == best) | jnp.isnan(best), ids + first, size - 1)
        return jax.lax.pmin(ids, axis)

    rows = jax.sharding.PartitionSpec(axis)
    everywhere = jax.sharding.PartitionSpec()
    split = jax.shard_map(search, mesh=mesh, in_specs=(everywhere, rows), out_specs=everywhere, axis_names={axis})
    return split(z, codebook)
