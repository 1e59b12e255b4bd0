"""The nearest codeword is the one that an exhaustive search finds."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from vistok.clustering import nearest
from vistok.clustering.nearest import nearest_codeword, nearest_codeword_sharded


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def search(z: np.ndarray, codebook: np.ndarray) -> np.ndarray:
    return np.asarray(nearest_codeword(jnp.asarray(z), jnp.asarray(codebook)))


def distances(z: np.ndarray, codebook: np.ndarray) -> np.ndarray:
    z, codebook = z.astype(np.float64), codebook.astype(np.float64)
    return ((z[:, None] - codebook[None]) ** 2).sum(-1)


def assert_nearest(ids: np.ndarray, z: np.ndarray, codebook: np.ndarray) -> None:
    d = distances(z, codebook)
    assert ids.dtype == np.int32
    assert ids.shape == z.shape[:1]
    assert ids.min() >= 0
    assert ids.max() < len(codebook)
    # Scores are rounded relative to |z|^2 and |c|^2, not to the distance.
    rounding = 1e-6 * ((z**2).sum(-1) + (codebook[ids] ** 2).sum(-1))
    assert (d[np.arange(len(z)), ids] <= d.min(-1) + rounding).all()


@pytest.mark.parametrize(
    ('n', 'size', 'dim'),
    [(1, 1, 1), (1, 1000, 8), (7, 1, 8), (300, 2, 8), (7, 63, 1), (300, 64, 8), (7, 65, 100), (300, 4096, 3)],
)
def test_equals_exhaustive_float64_search(n, size, dim):
    z, codebook = normal(n, n, dim), normal(size + 1, size, dim)
    assert_nearest(search(z, codebook), z, codebook)


@pytest.mark.parametrize('n', [2**17, 70001])
def test_chunks_of_rows_do_not_change_the_result(n):
    z, codebook = normal(0, n, 8), normal(1, 4096, 8)
    assert n * nearest._tile_size(4096, 8) > nearest._SCORES_AT_ONCE
    ids = search(z, codebook)
    assert ids.shape == (n,)
    rows = np.r_[0:50, n // 2 : n // 2 + 50, n - 50 : n]
    np.testing.assert_array_equal(ids[rows], search(z[rows], codebook))


@pytest.mark.parametrize('dim', [2, 8, 256])
def test_ties_go_to_the_lowest_id(dim):
    # Every codeword occurs several times, in one tile and in others.
    distinct = normal(0, 40, dim)
    copies = np.random.default_rng(1).integers(0, 40, 1003)
    z = normal(2, 200, dim)
    first = np.array([np.flatnonzero(copies == i)[0] for i in range(40)])
    np.testing.assert_array_equal(search(z, distinct[copies]), first[search(z, distinct)])


def test_equal_distances_to_different_codewords_go_to_the_lowest_id():
    codebook = np.array([[5, 5], [1, 0], [0, 1], [-1, 0], [0, -1]], np.float32)
    assert search(np.zeros((3, 2), np.float32), codebook).tolist() == [1, 1, 1]


def test_padding_never_wins():
    # Padding is made of zeros, which would be nearest here.
    codebook = 100 + normal(0, 67, 8)
    z = normal(1, 20, 8)
    assert_nearest(search(z, codebook), z, codebook)


def test_codewords_find_themselves_far_from_the_origin():
    codebook = 100 + normal(0, 300, 8)
    np.testing.assert_array_equal(search(codebook, codebook), np.arange(300))


def test_long_vectors_do_not_hide_short_codewords():
    # |z|^2 - 2 z.c + |c|^2 rounds the differences away; so does a bfloat16 product.
    codebook, z = normal(0, 256, 8) / 256, 30 * normal(1, 500, 8)
    d = distances(z, codebook)
    np.testing.assert_array_equal(search(z, codebook), d.argmin(-1))


def test_low_precision_input_is_searched_in_float32():
    z = jnp.asarray(normal(0, 50, 8), jnp.bfloat16)
    codebook = normal(1, 500, 8)
    np.testing.assert_array_equal(search(z, codebook), search(z.astype(jnp.float32), codebook))


def _product_in_passes(a, b, passes):
    """The product as matrix units make it of bfloat16 parts: 1, 3 or 6 products, summed in float32."""

    def parts(x):
        for _ in range(3):
            part = x.astype(jnp.bfloat16).astype(np.float32)
            yield part
            x = x - part

    a, b = list(parts(a)), list(parts(b))
    pairs = [(0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (2, 0)][:passes]
    return sum(a[i] @ b[j].T for i, j in pairs)


def test_the_search_needs_the_highest_precision():
    rng = np.random.default_rng(0)
    z, codewords = (rng.standard_normal((n, 8)).astype(np.float32) for n in (2048, 4096))
    z, codewords = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (z, codewords))
    exact = z.astype(np.float64) @ codewords.T.astype(np.float64)

    def lost(products):  # by the chosen codeword, against the nearest
        return (exact.max(1) - exact[np.arange(len(z)), products.argmax(1)]).max()

    # Of unit vectors, a codeword that is within 1e-6 of the nearest is as good; so decides `Precision.HIGHEST`.
    assert lost(_product_in_passes(z, codewords, 6)) < 1e-6  # HIGHEST on matrix units of bfloat16
    assert lost(_product_in_passes(z, codewords, 1)) > 1e-3  # DEFAULT
    assert (exact.max(1) - exact[np.arange(len(z)), search(z, codewords)]).max() < 1e-6


def test_vmap_over_factors_equals_a_loop():
    z, codebooks = normal(0, 3, 40, 8), normal(1, 3, 100, 8)
    together = jax.vmap(nearest_codeword)(z, codebooks)
    for ids, one_z, one_codebook in zip(together, z, codebooks, strict=True):
        np.testing.assert_array_equal(ids, search(one_z, one_codebook))


def test_nothing_is_differentiated():
    z, codebook = jnp.asarray(normal(0, 5, 4)), jnp.asarray(normal(1, 9, 4))
    grads = jax.grad(lambda z, c: (c[nearest_codeword(z, c)] * 0 + nearest_codeword(z, c)[:, None]).sum(), (0, 1))(
        z, codebook
    )
    assert not any(np.any(g) for g in grads)


def test_ids_stay_in_range_for_vectors_that_are_not_numbers():
    z = normal(0, 4, 8)
    z[0], z[1], z[2, 0], z[3, 0] = np.nan, np.inf, np.nan, np.inf
    ids = search(z, normal(1, 67, 8))
    assert ids.min() >= 0
    assert ids.max() < 67


def test_sharded_batch_needs_no_communication():
    mesh = jax.make_mesh((4, 2), ('data', 'fsdp'), axis_types=(AxisType.Auto,) * 2)
    batch, everywhere = NamedSharding(mesh, P(('data', 'fsdp'))), NamedSharding(mesh, P())
    z, codebook = normal(0, 512, 16, 16, 8), normal(1, 4096, 8)
    assert z.size // 8 * nearest._tile_size(4096, 8) > nearest._SCORES_AT_ONCE

    def grid(z, codebook):
        return nearest_codeword(z.reshape(-1, 8), codebook).reshape(z.shape[:-1])

    compiled = jax.jit(grid, in_shardings=(batch, everywhere)).lower(z, codebook).compile()
    assert not re.search(r'all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter', compiled.as_text())
    ids = compiled(jax.device_put(z, batch), jax.device_put(codebook, everywhere))
    assert ids.sharding.is_equivalent_to(batch, ids.ndim)
    np.testing.assert_array_equal(np.asarray(ids).ravel(), search(z.reshape(-1, 8), codebook))


def test_memory_does_not_grow_with_rows_times_codewords():
    shapes = jax.ShapeDtypeStruct((65536, 8), jnp.float32), jax.ShapeDtypeStruct((262144, 8), jnp.float32)
    compiled = nearest_codeword.lower(*shapes).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 64 * 2**20


def test_empty_codebook_is_refused():
    with pytest.raises(ValueError, match=r'at least one codeword, got shape \(0, 8\)'):
        nearest_codeword(jnp.zeros((3, 8)), jnp.zeros((0, 8)))


@pytest.fixture(scope='module')
def mesh():
    return jax.make_mesh((2, 4), ('data', 'model'), axis_types=(AxisType.Auto,) * 2)


def split_codebook(mesh):
    """Vectors and codewords on the devices; codewords of the third device also lie on the first."""
    z, codebook = normal(0, 512, 8), normal(1, 4096, 8)
    codebook[100:200] = codebook[3000:3100]
    z[:100] = codebook[3000:3100]
    put = jax.device_put(z, NamedSharding(mesh, P('data'))), jax.device_put(codebook, NamedSharding(mesh, P('model')))
    return z, codebook, put


def test_split_codebook_gives_the_same_ids_and_the_lowest_of_equals(mesh):
    z, codebook, put = split_codebook(mesh)
    ids = jax.jit(lambda z, c: nearest_codeword_sharded(z, c, mesh, 'model'))(*put)
    np.testing.assert_array_equal(ids, search(z, codebook))
    np.testing.assert_array_equal(ids[:100], np.arange(100, 200))


def test_rows_of_a_split_codebook_stay_on_their_devices(mesh):
    """What is exchanged grows with the vectors alone; without the mesh, all rows are gathered on every device."""
    _, codebook, put = split_codebook(mesh)

    def exchanged(compiled):
        lines = [line for line in compiled.as_text().splitlines() if re.search(r' all-[a-z]+\(', line)]
        shapes = re.findall(r'[fs]32\[([\d,]*)\]', ' '.join(line.split(' all-')[0] for line in lines))
        return max(int(np.prod([int(n) for n in shape.split(',')])) for shape in shapes)

    whole = jax.jit(nearest_codeword).lower(*put).compile()
    with jax.set_mesh(mesh):
        split = jax.jit(nearest_codeword).lower(*put).compile()
    assert exchanged(split) <= 512 < codebook.size <= exchanged(whole)
    assert split.memory_analysis().temp_size_in_bytes < 0.5 * whole.memory_analysis().temp_size_in_bytes
    np.testing.assert_array_equal(split(*put), whole(*put))


def test_vectors_that_are_not_numbers_get_ids_in_range_from_a_split_codebook(mesh):
    z = normal(0, 4, 8)
    z[0], z[1], z[2, 0], z[3, 0] = np.nan, np.inf, np.nan, np.inf
    ids = np.asarray(jax.jit(lambda z, c: nearest_codeword_sharded(z, c, mesh, 'model'))(z, normal(1, 64, 8)))
    assert ids.min() >= 0
    assert ids.max() < 64


def test_a_codebook_that_cannot_be_split_evenly_is_refused(mesh):
    with pytest.raises(ValueError, match=r"66 codewords cannot be split evenly over 4 devices \(mesh axis 'model'\)"):
        nearest_codeword_sharded(jnp.zeros((3, 8)), jnp.zeros((66, 8)), mesh, 'model')
