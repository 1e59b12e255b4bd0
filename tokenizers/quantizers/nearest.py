"""Nearest codeword without the matrix of all distances.

Two passes over the codebook, cut into tiles of about sqrt(K) codewords.  The first keeps only each tile's best score;
the second looks inside the winning tile of each row.  A maximum vectorises where an argmax over K does not, and no
buffer grows with n * K.
"""

import math

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

_SCORES_AT_ONCE = 2**22  # float32 scores alive in the first pass
_GATHERED_WIDTH = 64  # floats gathered per row and step of the second pass
_FAR = 1e30  # squared norm that no codeword has: padding never wins


@flax.struct.dataclass
class CodeTiles:
    """A codebook cut into equal tiles, the last one padded with zeros that are far from everything.

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
    """The row of `codebook` at the smallest Euclidean distance from each row of `z`.

    Maximises `z.c - |c|^2 / 2`: the missing `|z|^2` does not change the winner, and leaving it out is more exact.
    Scores are float32 at full matmul precision whatever the inputs are.  No gradient flows.

    Args:
      z: vectors.
      codebook: codewords, at least one.

    Returns:
      int32 row numbers in [0, K); the lowest one where codewords are equal.

    Raises:
      ValueError: the codebook is empty.
    """
    size, dim = codebook.shape
    if size == 0:
        raise ValueError(f'a codebook has at least one codeword, got shape {codebook.shape}')
    z = jax.lax.stop_gradient(z).astype(jnp.float32)
    codebook = jax.lax.stop_gradient(codebook).astype(jnp.float32)

    group = max(1, _GATHERED_WIDTH // dim)
    tile = group * math.ceil(math.sqrt(size) / group)
    tiles = code_tiles(codebook, tile)
    winner = _best_tile(z, tiles)
    return jnp.minimum(_best_inside(z, tiles, winner, group), size - 1)


def _best_tile(z: jax.Array, tiles: CodeTiles) -> jax.Array:
    """Tile that holds the best codeword of each row, `[n]`."""

    def of_rows(rows: jax.Array) -> jax.Array:
        def best_score(tile: CodeTiles) -> jax.Array:
            scores = jnp.matmul(rows, tile.codewords.T, precision=jax.lax.Precision.HIGHEST)
            return jnp.max(scores - tile.half_norms, axis=-1)

        return jnp.argmax(jax.lax.map(best_score, tiles), axis=0).astype(jnp.int32)

    n, dim = z.shape
    chunks = _number_of_chunks(n, tiles.half_norms.shape[1])
    if chunks == 1:
        return of_rows(z)
    # Chunk j takes the rows j, j + chunks, ...: a batch that is sharded over devices stays where it is, because every
    # chunk has rows of every shard.  Chunks of neighbouring rows would make each step wait for a single device.
    padding = -n % chunks
    interleaved = jnp.pad(z, ((0, padding), (0, 0))).reshape(-1, chunks, dim)
    return jax.lax.map(of_rows, jnp.moveaxis(interleaved, 1, 0)).T.reshape(-1)[:n]


def _number_of_chunks(n: int, tile: int) -> int:
    """The smallest power of two whose chunks fit the budget (batches of images divide by it: no padding)."""
    return 1 << max(0, math.ceil(math.log2(max(1, n * tile / _SCORES_AT_ONCE))))


def _best_inside(z: jax.Array, tiles: CodeTiles, winner: jax.Array, group: int) -> jax.Array:
    """Best codeword of each row inside its winning tile, `[n]`; the tile is read `group` codewords at a time."""
    tile, dim = tiles.codewords.shape[1:]
    codewords = tiles.codewords.reshape(-1, group, dim)
    half_norms = tiles.half_norms.reshape(-1, group)
    steps = tile // group

    def step(i: jax.Array, best: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        best_score, best_id = best
        at = winner * steps + i
        scores = jnp.sum(z[:, None] * codewords[at], axis=-1) - half_norms[at]
        score = jnp.max(scores, axis=-1)
        first = at * group + jnp.argmax(scores, axis=-1).astype(jnp.int32)
        better = score > best_score
        return jnp.where(better, score, best_score), jnp.where(better, first, best_id)

    start = (jnp.full(z.shape[:1], -jnp.inf), winner * tile)
    return jax.lax.fori_loop(0, steps, step, start)[1]
