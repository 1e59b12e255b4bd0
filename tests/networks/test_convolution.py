"""Initial weights of convolutions, against PyTorch's rule: kernels U(+-1/sqrt(fan_in)) in effect, biases likewise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vistok.experiments.config_files import load_config
from vistok.experiments.registry import build_tokenizer
from vistok.networks.convolution import Conv, ConvTranspose, Dense


@pytest.mark.parametrize(
    ('layer', 'fan_in'),
    [
        (Conv(64, (3, 3)), 9 * 32),
        (Dense(512), 32),
        # torch.nn.init counts the second axis of a weight, which of a transposed convolution are the outputs.
        (ConvTranspose(64, (4, 4)), 16 * 64),
    ],
)
def test_kernels_and_biases_are_uniform_within_the_inverse_root_of_the_fan_in(layer, fan_in):
    params = layer.init(jax.random.key(0), jnp.zeros((1, 4, 4, 32)))['params']
    bound = fan_in**-0.5
    for name in ('kernel', 'bias'):
        values = np.asarray(params[name])
        assert np.abs(values).max() <= bound
        assert np.abs(values).max() > 0.9 * bound
    assert np.std(params['kernel']) == pytest.approx(bound / 3**0.5, rel=0.02)  # 0.577 of fan_in^-0.5


def test_a_given_initializer_of_the_bias_is_kept():
    params = Conv(8, (1, 1), bias_init=jax.nn.initializers.ones).init(jax.random.key(0), jnp.zeros((1, 2, 2, 4)))
    np.testing.assert_array_equal(params['params']['bias'], 1)


@pytest.mark.parametrize('config', ['vqgan:tiny', 'simvq:tiny', 'dq_vae:tiny'])
def test_convolutional_tokenizers_start_so(config):
    loaded = load_config(config)
    side = loaded.data.image_size
    images = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    model = build_tokenizer(loaded.model)
    params = model.lazy_init(jax.random.key(0), images, train=True)['params']
    found = 0
    for path, kernel in jax.tree_util.tree_leaves_with_path(params):
        if path[-1].key == 'kernel' and kernel.ndim == 4:
            found += 1
            assert np.abs(kernel).max() <= np.prod(kernel.shape[:3]) ** -0.5, path
    assert found > 10
