"""Residual and multi-scale quantizers: what adds up, what the ids mean, who is pulled by which loss."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_packs import random_variables

from vistok.tokenizers.codebooks.codebook import LearnedCodebook
from vistok.tokenizers.quantizers.multiscale import MultiScaleQuantizer, _area, _bicubic, _recover_ids, _repeat_ids
from vistok.tokenizers.quantizers.residual import ResidualQuantizer
from vistok.weights.rules import variable_shapes

Z = jax.random.normal(jax.random.key(1), (2, 8, 6, 4))
QUANTIZERS = {
    'residual': ResidualQuantizer(LearnedCodebook(30, 4), depth=3),
    'multiscale': MultiScaleQuantizer(LearnedCodebook(30, 4), dim=4, scales=(1, 3, 8)),
}


@functools.cache
def made(kind):
    return QUANTIZERS[kind], random_variables(variable_shapes(QUANTIZERS[kind], Z))


@functools.cache
def quantized(kind):
    module, variables = made(kind)
    return jax.jit(module.apply)(variables, Z)


@pytest.mark.parametrize('kind', QUANTIZERS)
def test_ids_alone_give_the_quantized_vectors(kind):
    module, variables = made(kind)
    out = quantized(kind)
    assert out.ids.shape == (2, 8, 6, 3)
    assert out.ids.dtype == jnp.int32
    embedded = jax.jit(functools.partial(module.apply, method='embed'))(variables, out.ids)
    np.testing.assert_allclose(embedded, out.z_q, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize('kind', QUANTIZERS)
def test_gradient_passes_straight_through(kind):
    module, variables = made(kind)
    weights = jax.random.normal(jax.random.key(3), Z.shape)
    gradient = jax.jit(jax.grad(lambda z: jnp.sum(weights * module.apply(variables, z).z_q)))(Z)
    np.testing.assert_array_equal(gradient, weights)


@pytest.mark.parametrize('kind', QUANTIZERS)
def test_each_loss_pulls_only_its_own_side(kind):
    module, variables = made(kind)

    def loss(z, variables, term):
        return module.apply(variables, z).losses[term]

    gradient = jax.jit(jax.grad(loss, argnums=(0, 1)), static_argnums=2)
    dz, dv = gradient(Z, variables, 'codebook')
    assert not np.any(dz)
    assert all(np.any(x) for name, x in dv['params'].items() if name == 'codebook' for x in jax.tree.leaves(x))
    dz, dv = gradient(Z, variables, 'commitment')
    assert np.any(dz)
    assert not any(np.any(x) for x in jax.tree.leaves(dv))


def test_each_depth_takes_the_codeword_nearest_to_what_is_left():
    _, variables = made('residual')
    rows = np.asarray(variables['params']['codebook']['codewords'])
    rest, sums, errors = np.asarray(Z), np.zeros_like(Z), []
    for i in range(3):
        nearest = ((rest[..., None, :] - rows) ** 2).sum(-1).argmin(-1)
        np.testing.assert_array_equal(quantized('residual').ids[..., i], nearest)
        rest, sums = rest - rows[nearest], sums + rows[nearest]
        errors.append(((sums - Z) ** 2).mean())
    losses = quantized('residual').losses
    np.testing.assert_allclose(losses['codebook'], np.mean(errors), rtol=1e-5)
    np.testing.assert_allclose(losses['commitment'], 0.25 * np.mean(errors), rtol=1e-5)


def test_a_depth_below_one_is_refused():
    with pytest.raises(ValueError, match='at least 1, got 0'):
        ResidualQuantizer(LearnedCodebook(4, 4), depth=0).init(jax.random.key(0), Z)


def test_the_coarsest_scale_sees_the_mean_and_speaks_for_all_positions():
    _, variables = made('multiscale')
    ids = np.asarray(quantized('multiscale').ids[..., 0])
    assert (ids == ids[:, :1, :1]).all()
    rows = np.asarray(variables['params']['codebook']['codewords'])
    mean = np.asarray(Z).mean(axis=(1, 2))
    np.testing.assert_array_equal(ids[:, 0, 0], ((mean[:, None] - rows) ** 2).sum(-1).argmin(-1))


def test_grids_are_in_proportion_to_the_image():
    module = MultiScaleQuantizer(LearnedCodebook(4, 4), dim=4, scales=(1, 2, 3, 4, 5, 6, 8, 10, 13, 16))
    assert module.grids((16, 16)) == [(s, s) for s in module.scales]
    assert module.grids((32, 8)) == [
        (2, 1),
        (4, 1),
        (6, 2),
        (8, 2),
        (10, 3),
        (12, 3),
        (16, 4),
        (20, 5),
        (26, 7),
        (32, 8),
    ]


@pytest.mark.parametrize('scales', [(), (2, 1), (1, 1), (0, 2)])
def test_scales_that_do_not_rise_are_refused(scales):
    with pytest.raises(ValueError, match='positive and rising'):
        MultiScaleQuantizer(LearnedCodebook(4, 4), dim=4, scales=scales).init(jax.random.key(0), Z)


@pytest.mark.parametrize('grid', [(1, 1), (3, 5), (7, 2), (8, 6)])
def test_repeated_ids_can_be_read_back(grid):
    ids = jnp.arange(2 * grid[0] * grid[1]).reshape(2, *grid)
    dense = _repeat_ids(ids, (8, 6))
    assert dense.shape == (2, 8, 6)
    np.testing.assert_array_equal(_recover_ids(dense, grid), ids)


def test_area_weights_are_means_of_the_touched_cells():
    np.testing.assert_allclose(_area(5, 2), [[1 / 3, 1 / 3, 1 / 3, 0, 0], [0, 0, 1 / 3, 1 / 3, 1 / 3]])
    np.testing.assert_array_equal(_area(4, 4), np.eye(4))


def test_bicubic_weights_are_those_of_cubic_convolution():
    # By hand, for a = -0.75 and a cell at a quarter between two old ones.
    weights = _bicubic(4, 8)
    np.testing.assert_allclose(weights[3], [-0.10546875, 0.87890625, 0.26171875, -0.03515625], atol=1e-12)
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-12)
    np.testing.assert_allclose(_bicubic(1, 3), np.ones((3, 1)), atol=1e-12)
    ramp = _bicubic(16, 32) @ np.arange(16.0)
    assert (np.diff(ramp)[4:-4] > 0).all()
