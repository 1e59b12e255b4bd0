"""VQGAN with official weights against numbers recorded from the official code, stage by stage."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_packs import Pack, assert_close, load_pack

import vistok
from vistok.experiments import official_models
from vistok.tokenizers.tokenizer import Tokens
from vistok.tokenizers.trained import TrainedTokenizer

PACKS = {
    'llamagen_vq16': {'entropy_weight': 0.1},
    'llamagen_vq8': {'entropy_weight': 0.1},
    'taming_vqgan_f16_1024': {},
}


@dataclasses.dataclass(frozen=True)
class Case:
    """A pack, the model made of it, and what the model says to the recorded inputs of each stage."""

    pack: Pack
    state_dict: dict
    model: TrainedTokenizer
    stages: dict
    loss: float
    gradients: dict


def run_stages(module, variables, arrays):
    def stages(vqgan):
        from_z = vqgan.quantizer(arrays['z'], train=True)
        return {
            'enc': vqgan.encoder(arrays['input']),
            'z': vqgan.quant_conv(arrays['enc']),
            'ids': from_z.ids,
            'quant': from_z.z_q,
            'losses': from_z.losses,
            'post_quant': vqgan.post_quant_conv(arrays['quant']),
            'dec': vqgan.decode_latents(arrays['quant']),
            'encoded': vqgan.encode(arrays['input']).ids[..., 0],
            'decoded': vqgan.decode(Tokens(arrays['indices'])),
        }

    return module.apply(variables, method=stages)


def total_loss(params, module, images, pixel_loss):
    output = module.apply({'params': params}, images, train=True)
    error = output.reconstruction - images
    pixels = jnp.mean(error**2) if pixel_loss == 'l2' else jnp.mean(jnp.abs(error))
    return pixels + sum(output.losses.values())


# VQ-8 is VQ-16 with a level less.
@pytest.fixture(
    scope='module',
    params=[pytest.param(name, marks=pytest.mark.slow if name == 'llamagen_vq8' else ()) for name in PACKS],
)
def case(request):
    pack = load_pack(request.param)
    state_dict = pack.state_dict()
    model = vistok.from_official(request.param, state_dict, **PACKS[request.param])
    z = pack.nhwc('z')
    arrays = {name: pack.nhwc(name) for name in ('input', 'enc', 'quant')} | {
        'z': z,
        'indices': pack['indices'].reshape(*z.shape[:3], 1),
    }
    with jax.default_matmul_precision('highest'):
        stages = jax.jit(functools.partial(run_stages, model.module))(model.variables, arrays)
        pixel_loss = 'l1' if 'taming' in request.param else 'l2'
        gradient = jax.jit(jax.value_and_grad(total_loss), static_argnames=('module', 'pixel_loss'))
        loss, gradients = gradient(
            model.variables['params'], module=model.module, images=arrays['input'], pixel_loss=pixel_loss
        )
    return Case(
        pack, state_dict, model, jax.device_get(stages), float(loss),
        official_models.export_variables(request.param, {'params': jax.device_get(gradients)}),
    )  # fmt: skip


def nchw(x):
    return np.asarray(x).transpose(0, 3, 1, 2)


def sure(pack):
    return pack['margin_rel'] > 1e-3


def test_generated_weights_are_the_recorded_ones(case):
    case.pack.check_weights(case.state_dict)


@pytest.mark.parametrize('stage', ['enc', 'z', 'quant', 'post_quant', 'dec'])
def test_each_stage_computes_the_official_numbers(case, stage):
    if stage not in case.pack.arrays:
        pytest.skip('not recorded')
    assert_close(nchw(case.stages[stage]), case.pack[stage], name=stage)


def test_nearest_codewords_are_the_official_ones(case):
    np.testing.assert_array_equal(case.stages['ids'].ravel()[sure(case.pack)], case.pack['indices'][sure(case.pack)])


def test_encoding_images_gives_the_official_indices(case):
    np.testing.assert_array_equal(
        case.stages['encoded'].ravel()[sure(case.pack)], case.pack['indices'][sure(case.pack)]
    )


def test_decoding_indices_gives_the_official_images(case):
    name = 'dec_code' if 'dec_code' in case.pack.arrays else 'dec_from_indices'
    assert_close(nchw(case.stages['decoded']), case.pack[name])


def test_losses_are_the_official_ones(case):
    losses = case.stages['losses']
    if 'codebook_loss' in case.pack.arrays:
        np.testing.assert_allclose(losses['codebook'] + losses['commitment'], case.pack['codebook_loss'], rtol=1e-4)
    else:
        np.testing.assert_allclose(losses['codebook'], case.pack['train_vq_loss'], rtol=1e-4)
        np.testing.assert_allclose(losses['commitment'], case.pack['train_commit_loss'], rtol=1e-4)
        np.testing.assert_allclose(losses['entropy'], case.pack['train_entropy_loss_r0p1'], rtol=1e-3)


def test_the_whole_training_loss_is_the_official_one(case):
    np.testing.assert_allclose(case.loss, case.pack['train_total'], rtol=1e-4)


def test_gradients_are_the_official_ones(case):
    recorded = [name for name in case.pack.arrays if name.startswith('grad:')]
    assert recorded
    for name in recorded:
        assert_close(case.gradients[name.removeprefix('grad:')], case.pack[name], 1e-3, name)
    rows = case.pack['grad_rows:quantize.embedding.weight']
    used = np.unique(case.pack['indices'])[: len(rows)]
    assert_close(case.gradients['quantize.embedding.weight'][used], rows, 1e-3, 'codewords')


def test_official_weights_come_back_bit_for_bit(case):
    back = official_models.export_variables(case.pack.name, case.model.variables)
    assert set(back) == set(case.state_dict) - set(case.model.ignored)
    assert all(np.array_equal(back[name], case.state_dict[name]) for name in back)


def test_only_what_is_no_weight_is_ignored(case):
    assert all(name.startswith('loss.') for name in case.model.ignored)
