"""The GAN losses, their weights and LeCAM equal the official values and pull where they should."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_packs import assert_close, load_pack

from vistok.collectives import name_replica_axis
from vistok.experiments.config_files import load_config
from vistok.losses.adversarial import (
    ADVERSARIAL_LOSSES,
    LeCam,
    adaptive_weight,
    adversarial_weight,
    hinge_discriminator_loss,
    image_non_saturating_generator_loss,
    linear_generator_loss,
    logistic_discriminator_loss,
    non_saturating_generator_loss,
)
from vistok.pretrained.convert import LPIPS_IGNORED, lpips_rules
from vistok.pretrained.lpips import LPIPS
from vistok.tokenizers.convert.discriminators import PATCHGAN_IGNORED, patchgan_rules
from vistok.tokenizers.networks.patchgan import PatchGAN
from vistok.weights.rules import to_ours, variable_shapes

SOME = jnp.array([-2.0, -0.5, 0.0, 0.5, 3.0])


def swapped_cross_entropy(logit, target):
    """Binary cross-entropy of `logit` taken as the target and `target` as the logit, as LlamaGen calls it."""
    return (jax.nn.softplus(target) - logit * target).mean()


@pytest.mark.parametrize('prefix', ['', 'n2_'])
def test_losses_equal_the_official_values(prefix):
    golden = load_pack('patchgan')
    real, fake = (jnp.asarray(golden[f'{prefix}eval_logits_{name}']) for name in ('real', 'fake'))
    assert_close(hinge_discriminator_loss(real, fake), golden[f'{prefix}eval_hinge_d_loss'])
    assert_close(logistic_discriminator_loss(real, fake), golden[f'{prefix}eval_vanilla_d_loss'])
    assert_close(linear_generator_loss(fake), golden[f'{prefix}eval_hinge_g_loss'])


@pytest.mark.parametrize('prefix', ['', 'n2_'])
def test_official_non_saturating_losses_have_their_arguments_swapped(prefix):
    """With the arguments in order they would be ours."""
    golden = load_pack('patchgan')
    real, fake = (jnp.asarray(golden[f'{prefix}eval_logits_{name}']) for name in ('real', 'fake'))
    swapped = 0.5 * (swapped_cross_entropy(real, jnp.ones(())) + swapped_cross_entropy(fake, jnp.zeros(())))
    swapped_generator = swapped_cross_entropy(fake, jnp.ones(()))
    assert_close(swapped, golden[f'{prefix}eval_nonsat_d_loss'])
    assert_close(swapped_generator, golden[f'{prefix}eval_nonsat_g_loss'])
    # So the official generator loss is, up to a constant, the linear one ...
    assert_close(swapped_generator, jax.nn.softplus(1.0) + linear_generator_loss(fake))
    # ... and neither is what the paper defines.
    assert abs(swapped - logistic_discriminator_loss(real, fake)) > 0.1
    assert abs(swapped_generator - non_saturating_generator_loss(fake)) > 0.1


def test_each_player_wants_the_other_side():
    for loss in ADVERSARIAL_LOSSES.values():
        real, fake = jax.grad(lambda logits, loss=loss: loss.discriminator(logits[0], logits[1]))(jnp.zeros((2, 3)))
        assert (real < 0).all()
        assert (fake > 0).all()
        assert (jax.grad(loss.generator)(jnp.zeros(3)) < 0).all()


def test_logistic_losses_are_cross_entropies():
    probability = jax.nn.sigmoid(SOME)
    expected = -0.5 * (jnp.log(probability).mean() + jnp.log(1 - probability).mean())
    np.testing.assert_allclose(logistic_discriminator_loss(SOME, SOME), expected, rtol=1e-6)
    np.testing.assert_allclose(non_saturating_generator_loss(SOME), -jnp.log(probability).mean(), rtol=1e-6)


def test_simvqs_generator_loss_takes_each_images_mean_logit():
    """By hand: means 1 and -2; the loss of patches, by Jensen's inequality, is larger."""
    patches = jnp.array([[[3.0], [-1.0]], [[-2.0], [-2.0]]])
    expected = (np.log1p(np.exp(-1)) + np.log1p(np.exp(2))) / 2  # 1.22009497...
    loss = load_config('configs/simvq.py:imagenet128').objective.adversarial_loss
    assert ADVERSARIAL_LOSSES[loss].generator is image_non_saturating_generator_loss
    assert ADVERSARIAL_LOSSES[loss].discriminator is hinge_discriminator_loss
    np.testing.assert_allclose(image_non_saturating_generator_loss(patches), expected, rtol=1e-6)
    of_patches = (np.log1p(np.exp(-3)) + np.log1p(np.exp(1)) + 2 * np.log1p(np.exp(2))) / 4
    np.testing.assert_allclose(non_saturating_generator_loss(patches), of_patches, rtol=1e-6)
    gradient = jax.grad(image_non_saturating_generator_loss)(patches)
    np.testing.assert_allclose(gradient[0], -np.full((2, 1), 1 / (1 + np.exp(1)) / 4), rtol=1e-6)


def test_weight_is_zero_before_the_start_and_rises_to_one():
    at_once = [float(adversarial_weight(step, 3)) for step in range(6)]
    assert at_once == [0, 0, 0, 1, 1, 1]
    ramped = [float(adversarial_weight(step, 3, 4)) for step in range(10)]
    np.testing.assert_allclose(ramped, [0, 0, 0, 0.2, 0.4, 0.6, 0.8, 1, 1, 1], rtol=1e-6)
    assert jax.jit(adversarial_weight, static_argnums=(1, 2))(jnp.int32(4), 3, 4) == pytest.approx(0.4)
    with pytest.raises(ValueError, match='got -1'):
        adversarial_weight(0, 0, -1)


def test_adaptive_weight_is_the_clipped_ratio_of_norms_and_a_constant():
    reconstruction, generator = jnp.full((2, 2), 3.0), jnp.full((2, 2), 0.5)
    np.testing.assert_allclose(adaptive_weight(reconstruction, generator), 6 / 1.0001, rtol=1e-6)
    assert adaptive_weight(1e9 * reconstruction, generator) == 1e4
    assert not jax.grad(adaptive_weight)(reconstruction, generator).any()


def test_adaptive_weight_on_replicas_takes_norms_of_mean_gradients():
    reconstruction, generator = jax.random.normal(jax.random.key(0), (2, 4, 3))

    def step(a, b):
        with name_replica_axis('data'):
            return adaptive_weight(a, b)

    weights = jax.pmap(step, axis_name='data', devices=jax.devices()[:4])(reconstruction, generator)
    np.testing.assert_allclose(weights, adaptive_weight(reconstruction.mean(0), generator.mean(0)), rtol=1e-5)


def test_whole_generator_loss_equals_the_official_one():
    """LlamaGen's VQLoss: squared error, LPIPS, hinge and the adaptive weight, through one stand-in decoder layer."""
    golden = load_pack('patchgan')
    real, fake = jnp.asarray(golden.nhwc('real')), jnp.asarray(golden.nhwc('fake'))
    last_layer = jnp.asarray(golden['vqloss_last_layer'].transpose(2, 3, 1, 0))
    discriminator, perceptual = PatchGAN(), LPIPS()
    discriminator_weights = golden.state_dict('vqloss', prefix='discriminator.')
    perceptual_weights = golden.state_dict('vqloss', prefix='perceptual_loss.')
    variables = to_ours(
        patchgan_rules(),
        discriminator_weights,
        variable_shapes(discriminator, real, train=False),
        PATCHGAN_IGNORED,
    ).variables
    lpips = to_ours(
        lpips_rules(perceptual_weights), perceptual_weights, variable_shapes(perceptual, real, real), LPIPS_IGNORED
    ).variables

    def decode(kernel):
        return jax.lax.conv_general_dilated(
            fake, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=('NHWC', 'HWIO', 'NHWC')
        )

    def reconstruction_loss(kernel):
        squared = jnp.square(real - decode(kernel)).mean()
        distance = perceptual.apply(lpips, real, decode(kernel)).mean()
        return squared + distance, (squared, distance)

    def generator_loss(kernel):
        return linear_generator_loss(discriminator.apply(variables, decode(kernel), train=False))

    (reconstruction, (squared, distance)), reconstruction_grad = jax.jit(
        jax.value_and_grad(reconstruction_loss, has_aux=True)
    )(last_layer)
    generator, generator_grad = jax.jit(jax.value_and_grad(generator_loss))(last_layer)
    weight = adaptive_weight(reconstruction_grad, generator_grad)
    logits = [discriminator.apply(variables, x, train=False) for x in (real, decode(last_layer))]
    assert_close(squared, golden['vqloss_rec'])
    assert_close(distance, golden['vqloss_lpips'])
    assert_close(generator, golden['vqloss_gen'])
    assert_close(weight, golden['vqloss_adaptive_weight'], 1e-3)
    codebook_terms = 0.3 + 0.07 + 0.01  # what the recording passed in
    assert_close(reconstruction + 0.5 * weight * generator + codebook_terms, golden['vqloss_total_gen'], 1e-3)
    assert_close(0.5 * hinge_discriminator_loss(*logits), golden['vqloss_total_disc'])


def test_lecam_means_follow_the_logits_of_all_replicas():
    real, fake = jax.random.normal(jax.random.key(0), (2, 4, 3)) + 1

    def step(r, f):
        with name_replica_axis('data'):
            return LeCam.zeros().update(r, f, decay=0.9)

    state = jax.pmap(step, axis_name='data', devices=jax.devices()[:4])(real, fake)
    np.testing.assert_allclose(state.real, 0.1 * real.mean(), rtol=1e-5)
    np.testing.assert_allclose(state.fake, 0.1 * fake.mean(), rtol=1e-5)


def test_lecam_charges_only_what_separates_real_from_fake():
    state = LeCam(real=jnp.float32(1.0), fake=jnp.float32(-1.0))
    assert state.penalty(jnp.array([-1.0]), jnp.array([1.0])) == 0
    assert state.penalty(jnp.array([2.0]), jnp.array([1.0])) == 9
    assert state.penalty(jnp.array([-1.0]), jnp.array([-1.0])) == 4
