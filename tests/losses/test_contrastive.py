"""InfoNCE equals the official value and is least where every prediction points at its own target."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_packs import load_pack

from vistok.collectives import name_replica_axis
from vistok.errors import UserError
from vistok.losses import contrastive
from vistok.losses.contrastive import info_nce


@pytest.mark.parametrize('pack', ['fqgan_dual', 'fqgan_triple'])
def test_equals_the_official_value(pack):
    golden = load_pack(pack)
    prediction, target = (jnp.asarray(golden[f'nce_{kind}_feat'][:, 0]) for kind in ('semantic', 'external'))
    np.testing.assert_allclose(info_nce(prediction, target), golden['nce_loss'], rtol=1e-6)
    assert abs(info_nce(target, prediction) - golden['nce_loss']) > 1e-5  # the direction matters


def test_is_least_where_predictions_point_at_their_own_targets():
    target = jax.random.normal(jax.random.key(0), (8, 16))
    own = info_nce(3 * target, target, temperature=0.07)
    shifted = info_nce(3 * jnp.roll(target, 1, axis=0), target, temperature=0.07)
    assert own < 0.01 < 5 < shifted


def test_equal_targets_give_chance():
    x = jnp.ones((8, 4))
    np.testing.assert_allclose(info_nce(x, x), np.log(8), rtol=1e-6)


def test_gradient_is_finite_at_zero():
    gradient = jax.grad(info_nce)(jnp.zeros((4, 3)), jnp.ones((4, 3)))
    assert np.isfinite(gradient).all()


def test_groups_compare_with_their_own_only():
    prediction, target = jax.random.normal(jax.random.key(2), (2, 6, 5))
    parts = [info_nce(prediction[i : i + 3], target[i : i + 3], 0.5) for i in (0, 3)]
    np.testing.assert_allclose(info_nce(prediction, target, 0.5, 3), np.mean(parts), rtol=1e-6)
    x = jnp.ones((8, 3))
    np.testing.assert_allclose(info_nce(x, x, 1.0, 2), np.log(2), rtol=1e-6)
    with pytest.raises(UserError, match='representation_group 4 does not divide the batch of 6 images'):
        info_nce(prediction, target, 0.5, 4)


# Groups of 4 reach over two replicas, those of 2 are one each.
@pytest.mark.parametrize('group', [0, 4, 2])
def test_replicas_share_negatives(group):
    prediction, target = jax.random.normal(jax.random.key(1), (2, 8, 5))
    info_nce = functools.partial(contrastive.info_nce, group=group)

    def step(p, t):
        with name_replica_axis('data'):
            loss, gradient = jax.value_and_grad(info_nce)(p, t, 0.5)
        return jax.lax.pmean(loss, 'data'), gradient / 4

    split = [x.reshape(4, 2, 5) for x in (prediction, target)]
    loss, gradient = jax.pmap(step, axis_name='data', devices=jax.devices()[:4])(*split)
    whole, whole_gradient = jax.value_and_grad(info_nce)(prediction, target, 0.5)
    np.testing.assert_allclose(loss[0], whole, rtol=1e-6)
    np.testing.assert_allclose(gradient.reshape(8, 5), whole_gradient, atol=1e-6)
