"""Density, routers and budgets: what is smooth gets few tokens, and shares are what was asked for."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from skimage import data

from vistok.collectives import name_replica_axis
from vistok.errors import UserError
from vistok.tokenizers.dq_vae import DQVAE
from vistok.tokenizers.routing.density import density_thresholds, information_density, spread_density
from vistok.tokenizers.routing.grains import check_grain_ratios, grain_shares, merge_grains, repeat_cells
from vistok.tokenizers.routing.routers import (
    EntropyRouter,
    FeatureRouter,
    RatioRouter,
    budget_loss,
    hard_gumbel_softmax,
    quota_choice,
)
from vistok.training.initialization import InitialData

SHARES = [
    (0.1, 0.4, 0.5), (0.5, 0.3, 0.2), (0.0, 0.4, 0.6), (0.3, 0.0, 0.7), (0.5, 0.5, 0.0),
    (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (0.7, 0.3, 1 - 0.7 - 0.3), (0.333, 0.333, 0.334),
]  # fmt: skip


def photograph():
    return (data.chelsea()[:192, :256] / 127.5 - 1).astype(np.float32)


def page():
    """A document: white, with a few lines of text."""
    image = np.ones((192, 256, 3), np.float32)
    image[80:112, 30:200] = (data.page()[40:72, :170, None] / 127.5 - 1).astype(np.float32)
    return image


def constant():
    return np.full((192, 256, 3), 0.3, np.float32)


def strip():
    """What padding makes of an image that is one pixel wide: rows of equal pixels."""
    return np.repeat(photograph()[:, :1], 16, axis=1)


IMAGES = {f.__name__: f for f in (photograph, page, constant, strip)}


@jax.jit
def densities(images):
    return [information_density(images, patch) for patch in (16, 8)]


def blocks_are_whole(grain):
    for side in (2, 4):
        first = [np.arange(n) // side * side for n in grain.shape[1:]]
        corner = grain[:, first[0]][:, :, first[1]]
        assert ((grain == side) <= (corner == side)).all() if side == 4 else True
        assert ((corner == side) == (grain == side)).all()


@pytest.mark.parametrize('image', IMAGES)
def test_requested_shares_are_realised_to_one_cell(image):
    images = jnp.asarray(IMAGES[image]())[None]
    found = densities(images)
    route = jax.jit(RatioRouter())
    for shares in SHARES:
        grain = np.asarray(route(found, jnp.asarray(shares)))
        assert grain.shape[1:] == tuple(n // 4 for n in images.shape[1:3])
        blocks_are_whole(grain)
        area = [(grain == side).sum() for side in (4, 2, 1)]
        missed = np.abs(np.subtract(area, np.multiply(shares, grain.size)))
        assert missed.max() < 16  # one cell of the coarsest grain
        assert missed[0] <= 16 / 2 + 1e-3
        assert shares[1] == 0 or missed[2] <= 4 / 2 + 1e-3  # medium cells make up for the rounding of coarse ones
        for count, share in zip(area, shares, strict=True):
            assert share > 1e-9 or count == 0


def test_each_image_of_a_batch_has_the_shares_whatever_the_others_are():
    images = jnp.stack([jnp.asarray(IMAGES[name]()) for name in ('photograph', 'page', 'constant')])
    together = RatioRouter()(densities(images), SHARES[0])
    for i in range(3):
        np.testing.assert_array_equal(together[i], RatioRouter()(densities(images[i : i + 1]), SHARES[0])[0])


def test_the_official_rule_misses_the_shares_of_a_page_and_ours_does_not():
    found = densities(jnp.asarray(page())[None])
    official = grain_shares(RatioRouter(strict_thresholds=True)(found, (0.3, 0.6, 0.1)), (1, 2, 4))
    exact = grain_shares(RatioRouter()(found, (0.3, 0.6, 0.1)), (1, 2, 4))
    assert official['grain/4'] == 0
    assert exact['grain/4'] == pytest.approx(0.3, abs=0.5 / 192)
    assert exact['grain/1'] == pytest.approx(0.1, abs=0.5 / 768)


def test_the_official_threshold_is_that_of_the_whole_batch_on_replicas_too():
    rng = np.random.default_rng(0)
    found = [jnp.asarray(rng.uniform(0, 3, (4, side, side)).astype(np.float32)) for side in (4, 8)]
    route = functools.partial(RatioRouter(strict_thresholds=True), grain_ratios=SHARES[0])
    with name_replica_axis('batch'):
        parts = jax.pmap(route, axis_name='batch', devices=jax.devices()[:2])(
            [x.reshape(2, 2, *x.shape[1:]) for x in found]
        )
    np.testing.assert_array_equal(parts.reshape(4, 16, 16), route(found))
    assert (parts[0] != jax.vmap(route)([x[:2, None] for x in found])[:, 0]).any()  # one image alone has another


def test_smooth_cells_are_coarse_and_busy_ones_fine():
    image = np.zeros((1, 64, 64, 3), np.float32)
    rng = np.random.default_rng(0)
    image[:, :, 32:] = rng.uniform(-1, 1, (1, 64, 32, 1))
    image[:, 16:32, :16] = np.linspace(-0.2, 0.2, 16)[:, None]
    grain = np.asarray(RatioRouter()(densities(jnp.asarray(image)), (0.375, 0.125, 0.5)))
    assert (grain[0, :, 8:] == 1).all()
    assert (grain[0, 4:8, :4] != 4).all()


def test_shares_change_without_compiling_again():
    route = jax.jit(RatioRouter())
    found = densities(jnp.asarray(photograph())[None])
    for shares in SHARES:
        np.testing.assert_array_equal(route(found, jnp.asarray(shares)), RatioRouter()(found, shares))
    assert route._cache_size() == 1


def test_density_is_the_entropy_of_a_histogram():
    levels = np.linspace(-1, 1, 32)
    two = np.where(np.arange(256).reshape(16, 16, 1) % 2, levels[3], levels[20]) * np.ones(3) / 0.9999
    many = levels[np.arange(256) % 32].reshape(16, 16, 1) * np.ones(3) / 0.9999
    one = np.full((16, 16, 3), levels[7] / 0.9999)
    images = jnp.asarray(np.stack([one, two, many]), jnp.float32)
    np.testing.assert_allclose(information_density(images, 16).ravel(), np.log([1, 2, 32]), atol=1e-3)


def test_spread_grows_with_contrast_and_is_shared_with_neighbours():
    stripes = np.full((8, 40, 40, 1), 1 / 31, np.float32)  # a bin
    stripes[:, 16:24, 16:24:2] += np.linspace(0.02, 0.9, 8)[:, None, None, None]  # only the cell in the middle
    density = np.asarray(spread_density(jnp.asarray(stripes * np.ones(3, np.float32)), 8))
    above = density - density[:, :1, :1]
    assert (np.diff(above[:, 2, 2]) > 0).all()
    np.testing.assert_allclose(above[:, 2, 1], above[:, 2, 2] / 10, rtol=1e-3)
    np.testing.assert_allclose(above[:, 1, 1], above[:, 2, 2] / 100, rtol=1e-2)
    np.testing.assert_allclose(above[:, :, 0], 0, atol=1e-5)


def test_pixels_outside_the_bins_leave_a_finite_density_and_gradient():
    images = jnp.asarray(np.random.default_rng(0).uniform(-9, 9, (1, 16, 16, 3)), jnp.float32)
    assert np.isfinite(information_density(images, 8)).all()
    assert np.isfinite(information_density(jnp.full((1, 8, 8, 3), 50.0), 8)).all()


def test_patches_that_do_not_fit_and_wrong_shares_are_refused():
    with pytest.raises(ValueError, match='multiples of 16'):
        information_density(jnp.zeros((1, 24, 32, 3)), 16)
    with pytest.raises(ValueError, match=r'expected 3 shares, from coarse to fine, got \(0.5, 0.5\)'):
        check_grain_ratios((0.5, 0.5), 3)
    for shares in ((0.5, 0.6), (-0.1, 1.1)):
        with pytest.raises(ValueError, match='at least 0 and add up to 1'):
            check_grain_ratios(shares)


def test_thresholds_give_a_data_set_its_shares_and_lie_with_their_range_in_a_frozen_collection():
    images = np.stack([IMAGES[name]() for name in ('photograph', 'photograph')])
    thresholds = density_thresholds([images[:1], images[1:]], 16, (0.5, 0.25, 0.25))
    router = EntropyRouter((0.5, 0.25, 0.25), thresholds, (-1.0, 1.0))
    choice, variables = router.init_with_output(jax.random.key(0), jnp.asarray(images), 16)
    assert [np.mean(choice == i) for i in range(3)] == pytest.approx([0.5, 0.25, 0.25], abs=0.01)
    np.testing.assert_allclose(variables['frozen']['thresholds'], thresholds)
    np.testing.assert_allclose(variables['frozen']['bin_range'], (-1, 1))
    # What was stored decides, not what the module was built with.
    stored = {'frozen': variables['frozen'] | {'thresholds': jnp.asarray([9.0, 10.0])}}
    assert (np.asarray(router.apply(stored, jnp.asarray(images), 16)) == 0).all()
    with pytest.raises(ValueError, match='3 grains need 2 thresholds'):
        EntropyRouter((0.5, 0.25, 0.25), (1.0,)).init(jax.random.key(0), jnp.asarray(images), 16)


def test_a_run_measures_its_thresholds_or_checks_those_it_is_given():
    page = np.stack([IMAGES['photograph'](), IMAGES['page']()])[:, :64, :64]
    data = InitialData(0, 64, lambda count: itertools.repeat({'image': np.resize(page, (count, 64, 64, 3))}))
    model = DQVAE(grain_ratios=(0.75, 0.25), router='entropy')
    (initializer,) = model.initializers
    found = initializer.arrays(model, None, data)['frozen/density/thresholds']
    np.testing.assert_allclose(found, density_thresholds([page], 16, (0.75, 0.25)), rtol=1e-3)
    assert initializer.arrays(model.clone(entropy_thresholds=tuple(found.tolist())), None, data) == {}
    assert initializer.arrays(model.clone(router='quota'), None, data) == {}
    with pytest.raises(UserError, match=r'\(99.0,\) give grains 100%, 0% .* ask for 75%, 25%; .* \(\) measures'):
        initializer.arrays(model.clone(entropy_thresholds=(99.0,)), None, data)


def test_quotas_are_exact_for_every_image():
    found = densities(jnp.stack([jnp.asarray(IMAGES[name]()) for name in ('photograph', 'page', 'constant')]))[0]
    choice = np.asarray(quota_choice(found, (0.25, 0.5, 0.25)))
    assert [[(image == i).sum() for i in range(3)] for image in choice] == [[48, 96, 48]] * 3
    assert found[0][choice[0] == 0].max() <= found[0][choice[0] == 2].min() + 1e-3


def test_hard_gumbel_softmax_is_one_hot_with_the_gradient_of_the_softmax():
    logits, noise = jax.random.normal(jax.random.key(0), (2, 5, 3))
    weights = jax.random.normal(jax.random.key(1), (5, 3))
    gate = hard_gumbel_softmax(logits, noise)
    np.testing.assert_allclose(gate, jax.nn.one_hot(jnp.argmax(logits + noise, -1), 3), atol=1e-6)
    hard = jax.grad(lambda x: jnp.sum(weights * hard_gumbel_softmax(x, noise)))(logits)
    soft = jax.grad(lambda x: jnp.sum(weights * jax.nn.softmax(x + noise)))(logits)
    np.testing.assert_allclose(hard, soft, atol=1e-6)
    assert np.abs(soft).max() > 0.01


@pytest.mark.parametrize('ratios', [(0.5, 0.5), (0.4, 0.3, 0.3)])
def test_budget_is_met_by_the_batch_or_by_each_image(ratios):
    grains = len(ratios)
    choice = np.random.default_rng(0).integers(0, grains, (3, 4, 4))
    gate = jax.nn.one_hot(jnp.asarray(choice), grains)
    shares = np.stack([(choice == i).mean((1, 2)) for i in range(1, grains)], -1)
    distance = ((shares - np.asarray(ratios[1:])) ** 2).sum(-1).mean()
    assert budget_loss(gate, ratios, per_image=True) == pytest.approx(distance, rel=1e-5)
    whole = ((shares.mean(0) - np.asarray(ratios[1:])) ** 2).sum()
    assert budget_loss(gate, ratios) == pytest.approx(whole, rel=1e-5)
    assert jnp.abs(jax.grad(lambda g: budget_loss(g, ratios))(gate)).max() > 0


def test_feature_router_sees_every_branch():
    branches = [jax.random.normal(jax.random.key(i), (2, 4 * 2**i, 4 * 2**i, 8)) for i in range(3)]
    router = FeatureRouter()
    logits, variables = router.init_with_output(jax.random.key(9), branches)
    assert logits.shape == (2, 4, 4, 3)
    for i in range(3):
        changed = [b.at[:, 0, 0].add(3.0) if i == j else b for j, b in enumerate(branches)]
        assert np.abs(router.apply(variables, changed) - logits).max() > 1e-3


def test_merging_takes_each_position_from_the_branch_of_its_grain():
    branches = [jnp.full((1, 2 * 2**i, 2 * 2**i, 1), float(4 >> i)) for i in range(3)]
    grain = repeat_cells(jnp.asarray([[[4, 1], [2, 4]]]), 4)
    np.testing.assert_array_equal(merge_grains(branches, grain)[..., 0], grain)
