"""DQ-VAE: routers of every kind, gradients that reach them, positions on grids of other sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_packs import random_variables

from vistok.tokenizers.dq_vae import DQVAE
from vistok.tokenizers.networks.grid_positions import GridPositions
from vistok.weights.rules import variable_shapes

SIZES = {
    'channels': 8, 'channel_multipliers': (1, 1, 2), 'res_blocks': 1, 'attention_levels': (), 'latent_channels': 8,
    'codebook_size': 16, 'codebook_dim': 4, 'image_size': 16,
}  # fmt: skip
IMAGES = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (2, 16, 16, 3)), jnp.float32)
NOISE = {'sampling': jax.random.key(0)}


def made(**arguments):
    module = DQVAE(**SIZES | arguments)
    return module, random_variables(variable_shapes(module, IMAGES))


def test_the_router_learns_from_the_reconstruction_and_from_its_budget():
    module, variables = made(router='feature')

    def losses(params):
        output, _ = module.apply(
            {**variables, 'params': params}, IMAGES, train=True, rngs=NOISE, mutable='codebook_stats'
        )
        return jnp.mean((output.reconstruction - IMAGES) ** 2), output.losses['grain_budget']

    jacobian = jax.jit(jax.jacrev(losses))(variables['params'])
    for tree in jacobian:
        assert np.abs(tree['gate']['dense1']['kernel']).max() > 0
    assert np.abs(jacobian[1]['decoder']['conv_out']['kernel']).max() == 0


def test_noise_routes_in_training_and_never_in_evaluation():
    module, variables = made(router='feature')
    train = jax.jit(lambda key: module.apply(variables, IMAGES, train=True, rngs={'sampling': key}).tokens.grain)
    first, second = train(jax.random.key(0)), train(jax.random.key(1))
    assert (first != second).any()
    still = jax.jit(lambda: module.apply(variables, IMAGES, rngs={'sampling': jax.random.key(1)}).tokens.grain)()
    quiet = jax.jit(lambda: module.apply(variables, IMAGES, method='encode').grain)()
    np.testing.assert_array_equal(still, quiet)


@pytest.mark.parametrize('ratios', [(0.25, 0.75), (1.0, 0.0), (0.0, 1.0)])
def test_shares_can_be_asked_for_whatever_the_router(ratios):
    module, variables = made(router='feature')
    tokens = jax.jit(lambda: module.apply(variables, IMAGES, grain_ratios=ratios, method='encode'))()
    assert [np.mean(tokens.grain == side) for side in (2, 1)] == pytest.approx(list(ratios))


def test_quotas_are_the_models_shares_and_thresholds_are_kept():
    module, variables = made(router='quota', grain_ratios=(0.25, 0.75))
    tokens = module.apply(variables, IMAGES, method='encode')
    assert np.mean(tokens.grain == 2) == 0.25
    module, variables = made(router='entropy', entropy_thresholds=(1.5,))
    assert set(variables['frozen']['density']) == {'thresholds', 'bin_range'}
    for threshold, side in ((9.0, 2), (-1.0, 1)):
        frozen = {'density': {'thresholds': jnp.asarray([threshold]), 'bin_range': jnp.asarray([-1.0, 1.0])}}
        assert (module.apply({**variables, 'frozen': frozen}, IMAGES, method='encode').grain == side).all()


def test_each_code_counts_once_in_the_losses():
    module, variables = made(router='quota', grain_ratios=(1.0, 0.0))
    coarse = module.apply(variables, IMAGES).losses['commitment']
    branches = module.apply(variables, IMAGES, method=lambda m, x: m.quant_conv(m.encoder(x)[0]))
    codewords = variables['codebook_stats']['quantizer']['codebook']['codewords']
    distances = ((branches[..., None, :] - codewords) ** 2).sum(-1).min(-1)
    np.testing.assert_allclose(coarse, 0.25 * distances.mean() / branches.shape[-1] / 4, rtol=1e-4)


def test_other_sizes_are_served_by_interpolating_positions():
    module, variables = made(router='quota')
    images = jnp.concatenate([IMAGES, IMAGES, IMAGES], axis=2)
    output = module.apply(variables, images)
    assert output.reconstruction.shape == images.shape
    positions = GridPositions(4)
    x = jnp.zeros((1, 4, 4, 8))
    out, params = positions.init_with_output(jax.random.key(0), x)
    large = positions.apply(params, jnp.zeros((1, 8, 8, 8)))
    assert np.abs(large[:, ::7, ::7] - out[:, ::3, ::3]).max() < 1e-5  # corners stay corners
    assert np.abs(out[0, 0] - out[0, 1]).max() > 0.1
    assert np.abs(out[0, :, 0] - out[0, :, 1]).max() > 0.1


def test_wrong_arguments_are_refused():
    for arguments, message in (
        ({'router': 'random'}, "unknown router 'random'; known: feature, entropy, quota"),
        ({'grain_ratios': (0.5, 0.6)}, 'add up to 1'),
        ({'router': 'entropy', 'entropy_thresholds': (1.0, 2.0)}, '2 grains need 1 thresholds'),
    ):
        with pytest.raises(ValueError, match=message):
            variable_shapes(DQVAE(**SIZES | arguments), IMAGES)
    module, variables = made()
    with pytest.raises(ValueError, match='expected 2 shares'):
        module.apply(variables, IMAGES, grain_ratios=(0.1, 0.4, 0.5), method='encode')
