"""The perceptual distance that comes with the package behaves like one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vistok.data.images.embedded import Photographs
from vistok.pretrained.frozen_network import load_frozen_network
from vistok.pretrained.stand_in import WEIGHTS


def held_out_crops(offset=0):
    """The middle of every held-out photograph, 96 pixels."""
    source = Photographs('validation')
    images = [source[i].image for i in range(len(source)) if ' crop ' not in source[i].name]
    crops = []
    for image in images:
        top, left = image.shape[0] // 2 - 48, image.shape[1] // 2 - 48 + offset
        crops.append(image[top : top + 96, left : left + 96])
    return jnp.asarray(np.stack(crops).astype(np.float32) / 127.5 - 1)


def blurred(images, times):
    for _ in range(times):
        for axis in (1, 2):
            images = (jnp.roll(images, 1, axis) + 2 * images + jnp.roll(images, -1, axis)) / 4
    return images


@pytest.fixture(scope='module')
def distance():
    network = load_frozen_network('stand_in_perceptual')
    apply = jax.jit(network.module.apply)
    return lambda a, b: np.asarray(apply(network.variables, a, b))


def test_weights_are_small():
    assert WEIGHTS.stat().st_size < 500_000
    network = load_frozen_network('stand_in_teacher')
    assert 100_000 < sum(x.size for x in jax.tree.leaves(network.variables)) < 200_000


def test_distance_is_zero_symmetric_and_bounded(distance):
    a, b = held_out_crops(), held_out_crops(30)
    np.testing.assert_array_equal(distance(a, a), np.zeros(len(a)))
    np.testing.assert_allclose(distance(a, b), distance(b, a), rtol=1e-5)
    assert (distance(a, -a) < 2).all()


@pytest.mark.parametrize('kind', ['noise', 'blur'])
def test_distance_grows_with_the_disturbance_of_unseen_images(distance, kind):
    a = held_out_crops()
    noise = jax.random.normal(jax.random.key(0), a.shape)
    worse = [a + s * noise if kind == 'noise' else blurred(a, int(40 * s)) for s in (0.05, 0.1, 0.2, 0.4)]
    distances = np.stack([distance(a, b) for b in worse])
    assert (np.diff(distances, axis=0) > 0).all()
    assert (distances[0] > 0.001).all()


def test_distance_weighs_structure_more_than_brightness(distance):
    """At the same squared error, unlike PSNR."""
    a = 0.8 * held_out_crops()
    soft = blurred(a, 8)
    error = jnp.sqrt(jnp.square(soft - a).mean((1, 2, 3), keepdims=True))
    assert (distance(a, soft) > 2 * distance(a, a + error)).all()


def test_distance_pulls_a_image_towards_its_target(distance):
    network = load_frozen_network('stand_in_perceptual')
    target = held_out_crops()[:1]

    @jax.jit
    def descend(x, variables):
        value, slope = jax.value_and_grad(lambda x: network.module.apply(variables, target, x).sum())(x)
        return x - 0.02 * jnp.sign(slope), value

    x, first = descend(blurred(target, 8), network.variables)
    for _ in range(10):
        x, last = descend(x, network.variables)
    assert last < 0.8 * first


def test_teacher_recognises_places_it_has_not_seen():
    network = load_frozen_network('stand_in_teacher')
    a, b = (network(x) for x in (held_out_crops(), held_out_crops(16)))
    a, b = (x / jnp.linalg.norm(x, axis=-1, keepdims=True) for x in (a, b))
    np.testing.assert_array_equal((a @ b.T).argmax(-1), np.arange(len(a)))


def test_teacher_takes_images_of_any_size():
    network = load_frozen_network('stand_in_teacher')
    assert network(jnp.zeros((2, 48, 80, 3))).shape == (2, 64)
