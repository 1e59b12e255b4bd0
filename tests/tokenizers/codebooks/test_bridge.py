"""The bridge: its image of codewords, its beginning at zero, and gradients that reach every row."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_packs import random_variables

from vistok.tokenizers.codebooks.bridge import BridgedCodebook, VQBridge, code_grid, sin_cos_positions
from vistok.tokenizers.codebooks.codebook import LearnedCodebook
from vistok.weights.rules import variable_shapes

SIZES = {'patch': 2, 'width': 8, 'depth': 1, 'num_heads': 2}
BRIDGES = {'vit': VQBridge(**SIZES), 'dit': VQBridge(**SIZES, positions=True, conditioned=True)}


def codebook(kind: str, **kwargs) -> BridgedCodebook:
    return BridgedCodebook(LearnedCodebook(24, 3), BRIDGES[kind].copy(**kwargs))


@pytest.mark.parametrize(
    ('size', 'patch', 'grid'),
    [(16_384, 4, (128, 128)), (65_536, 8, (256, 256)), (32, 4, (4, 8)), (48, 2, (6, 8)), (4 * 7, 2, (2, 14))],
)
def test_codewords_make_the_squarest_image_that_can_be_cut_into_patches(size, patch, grid):
    assert code_grid(size, patch) == grid


@pytest.mark.parametrize(('size', 'patch'), [(1000, 4), (8, 4), (0, 2)])
def test_codebooks_that_cannot_be_cut_into_patches_are_refused(size, patch):
    with pytest.raises(ValueError, match=f'{size} codewords cannot be cut .* a multiple of {patch**2}'):
        code_grid(size, patch)


@pytest.mark.parametrize('kind', BRIDGES)
def test_all_codewords_are_zero_at_first(kind):
    module = codebook(kind)
    rows, _ = jax.jit(module.init_with_output)(jax.random.key(0))
    assert rows.shape == (24, 3)
    assert not np.any(rows)


def test_compressing_starts_as_a_matrix_of_the_whole_patch_would():
    shapes = jax.jit(VQBridge(patch=4, width=256, depth=0).init)(jax.random.key(0), jnp.zeros((16, 256)))
    kernel = np.asarray(shapes['params']['compress']['kernel'])
    assert np.abs(kernel).max() == pytest.approx((6 / (16 * 256 + 256)) ** 0.5, rel=1e-3)


@pytest.mark.parametrize('kind', BRIDGES)
def test_one_codeword_moves_the_whole_table_and_every_layer(kind):
    module = codebook(kind)
    variables = random_variables(variable_shapes(module))

    def one(params):
        return jnp.sum(module.apply({**variables, 'params': params})[5])

    gradient = jax.jit(jax.grad(one))(variables['params'])
    assert np.all(np.any(gradient['table']['codewords'] != 0, axis=-1))
    assert all(np.any(x != 0) for x in jax.tree.leaves(gradient))


def test_patches_lie_where_they_were():
    """Without blocks each patch answers for itself, so a row of the table moves its own patch and nothing else."""
    bridge = VQBridge(**SIZES | {'depth': 0})
    table = jnp.asarray(np.random.default_rng(0).standard_normal((24, 3)), jnp.float32)
    variables = random_variables(variable_shapes(bridge, table))
    moved = np.any(bridge.apply(variables, table) != bridge.apply(variables, table.at[7].add(1)), axis=-1)
    rows, columns = np.divmod(np.flatnonzero(moved), 6)  # 4 rows of 6 codewords
    assert set(zip(rows.tolist(), columns.tolist(), strict=True)) == {(0, 0), (0, 1), (1, 0), (1, 1)}


def test_closed_gates_pass_the_blocks_by():
    bridge, table = BRIDGES['dit'], jnp.ones((24, 3))
    variables = random_variables(variable_shapes(bridge, table))
    params = dict(variables['params'])
    params['block_0'] = params['block_0'] | {
        'modulation': jax.tree.map(jnp.zeros_like, params['block_0']['modulation'])
    }
    apply = functools.partial(bridge.apply, variables | {'params': params})
    without = {name: x for name, x in params.items() if name != 'block_0'}
    expected = bridge.copy(depth=0).apply(variables | {'params': without}, table)
    np.testing.assert_allclose(apply(table), expected, rtol=1e-5, atol=1e-6)


def test_positions_are_fixed_and_not_parameters():
    shapes = variable_shapes(BRIDGES['dit'], jnp.zeros((24, 3)))
    assert shapes['frozen']['positions'].shape == (1, 6, 8)
    assert not any('positions' in name for name in shapes['params'])
    assert 'frozen' not in variable_shapes(BRIDGES['vit'], jnp.zeros((24, 3)))


def test_positions_tell_columns_and_rows_apart():
    positions = np.asarray(sin_cos_positions(2, 3, 8))[0].reshape(2, 3, 8)
    np.testing.assert_array_equal(positions[0, :, :4], positions[1, :, :4])
    np.testing.assert_array_equal(positions[:, 0, 4:], positions[:, 2, 4:])
    assert len(np.unique(positions.reshape(6, 8).round(5), axis=0)) == 6
    with pytest.raises(ValueError, match='multiple of 4, got 6'):
        sin_cos_positions(2, 2, 6)


def test_computing_blocks_again_changes_nothing():
    module = codebook('dit')
    variables = random_variables(variable_shapes(module))

    def gradient(module):
        return jax.jit(jax.grad(lambda v: jnp.sum(module.apply({**variables, 'params': v}) ** 2)))(variables['params'])

    for a, b in zip(
        jax.tree.leaves(gradient(module)), jax.tree.leaves(gradient(codebook('dit', remat=True))), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6 * np.abs(b).max())
