"""The whole objective on the official taming model: model, LPIPS, discriminator, adaptive weight, start step."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_packs import load_pack

import vistok
from vistok.pretrained.frozen_network import FrozenNetwork
from vistok.tokenizers.objective import AdversarialGame, TokenizerObjective


class WithRunningStatistics(nn.Module):
    """The discriminator as the pack was recorded: in evaluation mode."""

    patchgan: nn.Module

    def __call__(self, images, train):
        return self.patchgan(images, False)


@pytest.fixture(scope='module')
def golden():
    pack = load_pack('taming_vqgan_f16_1024')
    tokenizer = vistok.from_official('taming_vqgan_f16_1024', pack.state_dict())
    patchgan = vistok.from_official('patchgan', pack.state_dict(prefix='loss.discriminator.'))
    lpips = vistok.from_official('lpips', pack.state_dict(prefix='loss.perceptual_loss.'))
    objective = TokenizerObjective(
        tokenizer.module,
        AdversarialGame(
            WithRunningStatistics(patchgan.module), weight=0.8, discriminator_weight=1.0, adaptive=True, start=250_001
        ),
        perceptual=FrozenNetwork('lpips', lpips.module, lpips.variables),
        pixel_loss='l1',
    )
    params = {'tokenizer': tokenizer.variables['params'], 'discriminator': {'patchgan': patchgan.variables['params']}}
    state = {'tokenizer': {}, 'discriminator': {'batch_stats': {'patchgan': patchgan.variables['batch_stats']}}}

    @jax.jit
    def losses(params, state, frozen, step):
        return objective.losses(
            params, state, frozen, {'image': jnp.asarray(pack.nhwc('input'))}, jax.random.key(0), step
        )

    with jax.default_matmul_precision('highest'):
        results = {step: jax.device_get(losses(params, state, objective.frozen, step)) for step in (250_000, 250_001)}
    return pack, results


def close(ours, recorded, rtol=1e-4):
    np.testing.assert_allclose(ours, float(recorded), rtol=rtol)


def test_before_its_start_the_game_costs_nothing(golden):
    pack, results = golden
    losses, _ = results[250_000]
    close(losses['tokenizer'], pack['loss_before_start_gen'])
    assert losses['discriminator'] == 0 == float(pack['loss_before_start_disc'])


def test_from_its_start_the_adaptive_weight_is_the_official_one(golden):
    pack, results = golden
    losses, (_, report) = results[250_001]
    metrics = report.metrics
    close(metrics['terms/pixel'] + metrics['terms/perceptual'], pack['loss_nll_loss'])
    close(metrics['terms/perceptual'], pack['loss_p_loss'])
    close(0.8 * metrics['adaptive_weight'], pack['loss_d_weight'], 1e-3)
    close(-metrics['logits/fake'], pack['loss_g_loss'])
    close(losses['tokenizer'], pack['loss_after_start_gen'], 1e-3)
    close(losses['discriminator'], pack['loss_after_start_disc'])
