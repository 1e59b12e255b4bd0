"""VQGAN-LC with official weights against numbers recorded from the official code: codebook, stages, whole objective."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_packs import Pack, assert_close, load_pack

import vistok
from vistok.experiments import official_models
from vistok.pretrained.frozen_network import FrozenNetwork
from vistok.tokenizers.objective import AdversarialGame, TokenizerObjective
from vistok.tokenizers.quantizers.vector import QuantizerOutput
from vistok.tokenizers.tokenizer import Tokens
from vistok.tokenizers.trained import TrainedTokenizer


@dataclasses.dataclass(frozen=True)
class Case:
    """A pack, the model made of it, and what its quantizer says to the recorded vectors."""

    pack: Pack
    state_dict: dict
    model: TrainedTokenizer
    rows: np.ndarray
    quantized: QuantizerOutput


@functools.cache
def made(name):
    pack = load_pack(name)
    state_dict = pack.state_dict()
    model = vistok.from_official('vqgan_lc', state_dict)

    def quantize(variables, z):
        return model.module.apply(
            variables, z, method=lambda m, z: (m.quantizer.codewords(), m.quantizer(z, train=True))
        )

    rows, quantized = jax.jit(quantize)(model.variables, pack.nhwc('z'))
    return Case(pack, state_dict, model, np.asarray(rows), quantized)


@pytest.fixture(params=['vqgan_lc', 'vqgan_lc_1000'])
def case(request):
    return made(request.param)


def test_generated_weights_are_the_recorded_ones(case):
    case.pack.check_weights(case.state_dict)


def test_projected_codewords_are_the_official_ones(case):
    stride = len(case.rows) // len(case.pack['proj_codebook_rows'])
    assert_close(case.rows[::stride], case.pack['proj_codebook_rows'])


def test_nearest_codewords_are_the_official_ones(case):
    assert (case.pack['margin_rel'] > 1e-3).all()
    np.testing.assert_array_equal(case.quantized.ids.ravel(), case.pack['indices'])
    assert_close(case.quantized.z_q, case.pack.nhwc('quant'))


def test_the_weighted_losses_are_a_tenth_of_the_official_one(case):
    losses = case.quantized.losses
    np.testing.assert_allclose(10 * sum(losses.values()), case.pack['codebook_loss'], rtol=1e-4)
    np.testing.assert_allclose(losses['codebook'] / losses['commitment'], 0.33, rtol=1e-5)


def test_the_table_is_frozen_and_the_projector_trained(case):
    assert case.model.variables['frozen']['quantizer']['codebook']['table']['codewords'].shape == (len(case.rows), 768)
    assert set(case.model.variables['params']['quantizer']['codebook']) == {'projector'}


def test_official_weights_come_back_bit_for_bit(case):
    back = official_models.export_variables('vqgan_lc', case.model.variables)
    assert set(back) == set(case.state_dict) - set(case.model.ignored)
    assert all(np.array_equal(back[name], case.state_dict[name]) for name in back)


def test_only_judge_and_discriminator_are_ignored(case):
    assert {name.split('.')[0] for name in case.model.ignored} == {'discriminator', 'perceptual_loss'}


class WithRunningStatistics(nn.Module):
    """The discriminator as the pack was recorded: in evaluation mode."""

    patchgan: nn.Module

    def __call__(self, images, train):
        return self.patchgan(images, False)


@pytest.fixture(scope='module')
def whole():
    """Stages and objective of the model with 1000 codewords; the networks of the other one are the same."""
    case = made('vqgan_lc_1000')
    model, pack = case.model, case.pack
    images = jnp.asarray(pack.nhwc('input'))
    patchgan = vistok.from_official('patchgan', pack.state_dict(prefix='discriminator.'))
    lpips = vistok.from_official('lpips', pack.state_dict(prefix='perceptual_loss.'))
    objective = TokenizerObjective(
        model.module,
        AdversarialGame(
            WithRunningStatistics(patchgan.module), weight=0.1, adaptive=True, discriminator_weight=1.0, start=0
        ),
        perceptual=FrozenNetwork('lpips', lpips.module, lpips.variables),
        pixel_loss='l1',
    )
    params = {'tokenizer': model.variables['params'], 'discriminator': {'patchgan': patchgan.variables['params']}}
    state = {
        'tokenizer': {'frozen': model.variables['frozen']},
        'discriminator': {'batch_stats': {'patchgan': patchgan.variables['batch_stats']}},
    }

    def stages(vqgan):
        return {
            'enc': vqgan.encoder(images),
            'z': vqgan.quant_conv(jnp.asarray(pack.nhwc('enc'))),
            'dec': vqgan.decode_latents(jnp.asarray(pack.nhwc('quant'))),
            'decoded': vqgan.decode(Tokens(pack['indices'].reshape(2, 4, 4, 1))),
        }

    @jax.jit
    def everything(params, state, frozen):
        variables = {'params': params['tokenizer'], **state['tokenizer']}
        losses = objective.losses(params, state, frozen, {'image': images}, jax.random.key(0), jnp.int32(1))
        return model.module.apply(variables, method=stages), losses

    with jax.default_matmul_precision('highest'):
        found, (losses, (new_state, report)) = everything(params, state, objective.frozen)
    return pack, found, losses, report.metrics, (state, new_state)


@pytest.mark.parametrize(('stage', 'recorded'), [('enc', 'enc'), ('z', 'z'), ('dec', 'dec'), ('decoded', 'dec')])
def test_each_stage_computes_the_official_numbers(whole, stage, recorded):
    assert_close(whole[1][stage], whole[0].nhwc(recorded), name=stage)


def test_the_objective_is_the_official_one(whole):
    pack, _, losses, metrics, _ = whole
    for ours, recorded in (
        (metrics['terms/pixel'], pack['val_rec_l1']),
        (metrics['terms/perceptual'], pack['val_lpips']),
        (metrics['terms/codebook'] + metrics['terms/commitment'], 0.1 * pack['val_q']),
        (-metrics['logits/fake'], pack['val_g']),
        (losses['tokenizer'] - metrics['terms/adversarial'], pack['val_total']),
        (losses['discriminator'], pack['val_d_hinge']),
    ):
        np.testing.assert_allclose(ours, recorded, rtol=1e-4)
    np.testing.assert_allclose(0.1 * metrics['adaptive_weight'], pack['d_weight'], rtol=1e-3)
    np.testing.assert_allclose(losses['tokenizer'], pack['gen_total_adaptive'], rtol=1e-3)


def test_a_step_leaves_the_table_as_it_is(whole):
    before, after = whole[4]
    jax.tree.map(np.testing.assert_array_equal, before['tokenizer'], after['tokenizer'])
