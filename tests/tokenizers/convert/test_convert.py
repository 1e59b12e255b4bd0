"""Conversion of small models: sizes read from shapes, both directions, and answers to weights that do not fit."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_packs import load_pack, random_variables

import vistok
from vistok.experiments import official_models
from vistok.experiments.official_models import OFFICIAL
from vistok.pretrained.lpips import LPIPS
from vistok.tokenizers.control_gic import ControlGIC
from vistok.tokenizers.dq_vae import DQVAE
from vistok.tokenizers.dq_vae import PRESETS as DQ_PRESETS
from vistok.tokenizers.fqgan import FQGAN
from vistok.tokenizers.fvq import FVQ
from vistok.tokenizers.networks.patchgan import PatchGAN
from vistok.tokenizers.networks.stylegan_discriminator import StyleGANDiscriminator
from vistok.tokenizers.simvq import SimVQ
from vistok.tokenizers.vqgan import PRESETS, VQGAN
from vistok.tokenizers.vqgan_lc import VQGANLC
from vistok.weights.rules import ConversionError, variable_shapes

SIZES = {
    'channels': 128,
    'channel_multipliers': (1, 2),
    'res_blocks': 1,
    'latent_channels': 16,
    'codebook_size': 24,
    'codebook_dim': 4,
}
TAMING = {**PRESETS['taming_f16'], **SIZES}
BRIDGE = {'bridge_patch': 2, 'bridge_width': 8, 'bridge_depth': 1}
BRIDGE_DIT = {**BRIDGE, 'bridge_positions': True, 'bridge_conditioned': True}
FACTORS = {
    'fqgan_dual': {'teachers': ('', 'clip_l14'), 'teacher_widths': (0, 16)},
    'fqgan_triple': {
        'factors': ('vis', 'sem_mid', 'sem_high'),
        'teachers': ('', 'dinov2_s', 'clip_b16'),
        'teacher_widths': (0, 8, 16),
    },
}
MODELS = {
    'llamagen_vq16': VQGAN(**SIZES),
    'llamagen_vq8': VQGAN(**SIZES | {'channel_multipliers': (1, 1, 2), 'res_blocks': 2}),
    'taming_vqgan_f16_1024': VQGAN(**TAMING, attention_levels=()),
    'vqgan_lc': VQGANLC(**SIZES, attention_levels=(), table_width=12, projector='mlp'),
    'simvq': SimVQ(**{key: size for key, size in SIZES.items() if key != 'latent_channels'}),
    **{
        name: FQGAN(**SIZES, **factors, image_size=8, adapter_layers=2, head_layers=1)
        for name, factors in FACTORS.items()
    },
    'fvq': FVQ(**SIZES, **BRIDGE),
    'dq_vae': DQVAE(**SIZES, attention_levels=(0,), image_size=8),
    'control_gic': ControlGIC(**SIZES | {'channel_multipliers': (1, 1, 2)}, attention_levels=(2,), unit_range=True),
}
IMAGE = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)


@functools.cache
def made(name):
    """A small model's variables, and its official weights."""
    variables = random_variables(variable_shapes(MODELS[name], IMAGE))
    return variables, types.MappingProxyType(official_models.export_variables(name, variables))


def assert_equal_trees(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize('name', MODELS)
def test_sizes_are_read_from_the_shapes(name):
    _, state_dict = made(name)
    assert vistok.from_official(name, state_dict).module == MODELS[name]


@pytest.mark.parametrize('name', MODELS)
def test_weights_come_back_from_the_official_layout(name):
    variables, state_dict = made(name)
    assert_equal_trees(vistok.from_official(name, state_dict).variables, variables)


def test_grains_and_router_of_a_dq_vae_are_read_from_the_names():
    triple = DQVAE(
        **SIZES | DQ_PRESETS['triple'] | {'channel_multipliers': (1, 1, 2)}, attention_levels=(), image_size=8
    )
    released = {'router': 'entropy', 'entropy_thresholds': (1.6777750253677368,)}
    for module in (triple, DQVAE(**SIZES, **released, attention_levels=(), image_size=8)):
        variables = random_variables(variable_shapes(module, IMAGE))
        state_dict = official_models.export_variables('dq_vae', variables)
        model = vistok.from_official('dq_vae', state_dict)
        assert model.module == module
        assert_equal_trees(model.variables, variables)
    # Released weights hold no thresholds: the released ones are put in, unless others are given.
    bare = {name: x for name, x in state_dict.items() if not name.startswith('encoder.router.')}
    for options, threshold in (({}, 1.6777750253677368), ({'entropy_thresholds': (2.0,)}, 2.0)):
        stored = vistok.from_official('dq_vae', bare, **options).variables['frozen']['density']
        np.testing.assert_allclose(stored['thresholds'], [threshold])
        np.testing.assert_array_equal(stored['bin_range'], [-1, 1])


def test_sizes_of_other_networks_are_read_from_the_shapes():
    for name, module, inputs, options in (
        ('patchgan', PatchGAN(channels=8, layers=2), (IMAGE,), {'train': True}),
        ('stylegan_disc', StyleGANDiscriminator(image_size=8), (IMAGE,), {}),
        ('lpips', LPIPS(), (jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32),) * 2, {}),
    ):
        variables = random_variables(variable_shapes(module, *inputs, **options))
        network = vistok.from_official(name, official_models.export_variables(name, variables))
        assert network.module == module, name
        assert_equal_trees(network.variables, variables)


def test_official_discriminators_of_several_depths_are_recognised():
    for variant, layers in (('', 3), ('n2', 2)):
        network = vistok.from_official('patchgan', load_pack('patchgan').state_dict(variant))
        assert network.module == PatchGAN(layers=layers)
    for variant, size in (('', 256), ('s64', 64)):
        network = vistok.from_official('stylegan_disc', load_pack('stylegan_disc').state_dict(variant))
        assert network.module == StyleGANDiscriminator(image_size=size)


def test_the_decoder_of_taming_is_turned_round():
    variables, state_dict = made('taming_vqgan_f16_1024')
    np.testing.assert_array_equal(
        state_dict['decoder.up.1.upsample.conv.bias'], variables['params']['decoder']['level_0_upsample']['bias']
    )


@pytest.mark.parametrize(
    'module',
    [
        FVQ(**SIZES, **BRIDGE_DIT),
        FVQ(**SIZES, **BRIDGE, bridge_positions=True),
        VQGAN(**SIZES | {'codebook_dim': 32}, normalize=False),
    ],
    ids=['both', 'positions', 'baked'],
)
def test_other_bridges_and_baked_ones_are_recognised(module):
    variables = random_variables(variable_shapes(module, IMAGE))
    model = vistok.from_official('fvq', official_models.export_variables('fvq', variables))
    assert model.module == module
    assert_equal_trees(model.variables, variables)


def test_short_codewords_without_a_bridge_are_not_taken_for_those_of_fvq():
    with pytest.raises(ConversionError, match=r"codewords of 4 channels are LlamaGen's"):
        vistok.from_official('fvq', made('llamagen_vq16')[1])


def test_histories_and_judges_are_ignored_by_name():
    _, state_dict = made('llamagen_vq16')
    model = vistok.from_official('llamagen_vq16', state_dict | {'quantize.codebook_used': np.zeros(65536)})
    assert model.ignored == ('quantize.codebook_used',)
    _, state_dict = made('taming_vqgan_f16_1024')
    model = vistok.from_official('taming_vqgan_f16_1024', state_dict | {'loss.discriminator.main.0.bias': np.zeros(1)})
    assert model.ignored == ('loss.discriminator.main.0.bias',)
    _, state_dict = made('fqgan_dual')
    model = vistok.from_official('fqgan_dual', state_dict | {'quantize_sem.codebook_used': np.zeros(65536)})
    assert model.ignored == ('quantize_sem.codebook_used',)


@pytest.mark.parametrize(('projector', 'width'), [('linear', 12), ('none', 4)])
def test_each_projector_of_vqgan_lc_is_recognised(projector, width):
    module = VQGANLC(**SIZES, table_width=width, projector=projector)
    variables = random_variables(variable_shapes(module, IMAGE))
    model = vistok.from_official('vqgan_lc', official_models.export_variables('vqgan_lc', variables))
    assert model.module == module
    assert_equal_trees(model.variables, variables)


def test_a_tuned_table_has_the_official_name_too():
    module = VQGANLC(**SIZES, table_width=12, table_trained=True)
    variables = random_variables(variable_shapes(module, IMAGE))
    rows = variables['params']['quantizer']['codebook']['table']['codewords']
    np.testing.assert_array_equal(
        official_models.export_variables('vqgan_lc', variables)['tok_embeddings.weight'], rows
    )


def test_moving_averages_of_simvq_take_the_place_of_the_weights():
    variables, state_dict = made('simvq')
    frozen = 'quantize.embedding.weight'
    last = {name: x if name == frozen else x + 1 for name, x in state_dict.items()}
    averages = {f'model_ema.{name.replace(".", "")}': x for name, x in state_dict.items() if name != frozen}
    beside = {'model_ema.decay': np.float32(0.999), 'model_ema.num_updates': np.int64(7), 'loss.a': np.zeros(1)}
    given = last | averages | beside
    model = vistok.from_official('simvq', given)
    assert_equal_trees(model.variables, variables)
    assert len(model.ignored) == len(averages) + len(beside)


def test_feature_predictors_are_kept_and_can_be_dropped():
    _, state_dict = made('fqgan_dual')
    assert 'predictor_sem' in vistok.from_official('fqgan_dual', state_dict).variables['params']
    dropped = vistok.from_official('fqgan_dual', state_dict, teachers=('', ''))
    assert 'predictor_sem' not in dropped.variables['params']
    assert 'feat_pred_head.upscale.0.weight' in dropped.ignored
    without = {name: x for name, x in state_dict.items() if not name.startswith('feat_pred_head')}
    assert vistok.from_official('fqgan_dual', without).module.teachers == ('', '')


def test_arguments_may_differ_from_what_the_weights_say():
    _, state_dict = made('llamagen_vq16')
    module = vistok.from_official('llamagen_vq16', state_dict, dtype=jnp.bfloat16, entropy_weight=0.5).module
    assert (module.dtype, module.entropy_weight) == (jnp.bfloat16, 0.5)


def test_half_precision_weights_become_float32():
    _, state_dict = made('llamagen_vq16')
    halves = {name: x.astype(np.float16) for name, x in state_dict.items()}
    variables = vistok.from_official('llamagen_vq16', halves).variables
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype('float32')}


@pytest.mark.parametrize('name', OFFICIAL)
@pytest.mark.parametrize(
    'foreign',
    [{}, {'a.weight': np.zeros((2, 2))}, {'model': np.zeros(3)}, {'encoder.conv_in.weight': np.zeros(())}],
    ids=['empty', 'foreign', 'wrapped', 'scalar'],
)
def test_foreign_weights_are_answered_in_a_sentence(name, foreign):
    with pytest.raises(ConversionError) as error:
        vistok.from_official(name, foreign)
    assert str(error.value)


@pytest.mark.parametrize('name', MODELS)
@pytest.mark.parametrize('other', MODELS)
def test_weights_of_one_model_are_not_taken_for_another(name, other):
    if OFFICIAL[name] is OFFICIAL[other]:
        pytest.skip('the same layout')
    with pytest.raises(ConversionError):
        vistok.from_official(name, made(other)[1])


def test_a_missing_a_strange_and_a_misshapen_entry_are_all_named():
    state_dict = dict(made('llamagen_vq16')[1])
    del state_dict['decoder.norm_out.bias']
    state_dict['decoder.new.weight'] = np.zeros(3, np.float32)
    state_dict['quant_conv.bias'] = np.zeros(7, np.float32)
    with pytest.raises(ConversionError) as error:
        vistok.from_official('llamagen_vq16', state_dict)
    for part in ('decoder/norm_out/bias', 'decoder.new.weight', 'quant_conv.bias [7]'):
        assert part in str(error.value)


def test_widths_at_which_the_norms_would_differ_are_refused():
    narrow = VQGAN(**SIZES | {'channels': 64})
    state_dict = official_models.export_variables('llamagen_vq16', random_variables(variable_shapes(narrow, IMAGE)))
    with pytest.raises(ConversionError, match='a layer has 64 channels'):
        vistok.from_official('llamagen_vq16', state_dict)


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(ConversionError, match=r"unknown name 'vq16'; known: llamagen_vq16"):
        vistok.from_official('vq16', {})


def test_a_trained_tokenizer_does_what_its_module_does():
    _, state_dict = made('fqgan_dual')
    model = vistok.from_official('fqgan_dual', state_dict)
    images = np.random.default_rng(0).uniform(-1, 1, (2, 8, 8, 3)).astype(np.float32)
    output = model(images)
    tokens = model.encode(images)
    np.testing.assert_array_equal(tokens.ids, output.tokens.ids)
    np.testing.assert_allclose(model.decode(tokens), output.reconstruction, atol=1e-5)
    np.testing.assert_allclose(model.decode_latents(model.embed(tokens)), output.reconstruction, atol=1e-5)
    assert model.spec == MODELS['fqgan_dual'].spec
    assert output.predictions == {}
