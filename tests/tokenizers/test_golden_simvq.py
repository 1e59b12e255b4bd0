"""SimVQ with official weights against numbers recorded from the official code: its quantizer, then its networks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_packs import assert_close, load_pack

import vistok
from vistok.experiments import official_models
from vistok.tokenizers.convert.simvq import codebook_rules
from vistok.tokenizers.quantizers.vector import VectorQuantizer
from vistok.tokenizers.simvq import SimVQ, make_gaussian_codebook
from vistok.weights.rules import to_official, to_ours, variable_shapes

RULES = codebook_rules('', 'codebook')
SIZES = {'': 1024, 'n65536': 65_536}


@functools.cache
def quantizer(variant):
    """The module, its variables and the official entries."""
    pack = load_pack('simvq')
    module = VectorQuantizer(make_gaussian_codebook(SIZES[variant], 128), codebook_weight=1.0, commitment_weight=0.25)
    state_dict = pack.state_dict(variant)
    shapes = variable_shapes(module, jax.ShapeDtypeStruct((1, 2, 2, 128), jnp.float32))
    return module, to_ours(RULES, state_dict, shapes).variables, state_dict


@pytest.fixture(scope='module', params=SIZES)
def case(request):
    """What the quantizer says to the recorded vectors, by the names of the recording."""
    variant = request.param
    pack = load_pack('simvq')
    module, variables, state_dict = quantizer(variant)

    def loss(params, z):
        bound = {'params': params, 'frozen': variables['frozen']}
        quantized = module.apply(bound, z, train=True)
        codewords = module.apply(bound, method='codewords')
        commitment = sum(quantized.losses.values())
        return commitment + jnp.mean(quantized.z_q**2), (quantized, codewords, commitment)

    with jax.default_matmul_precision('highest'):
        found = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(variables['params'], pack.nhwc('z'))
    (_, (quantized, codewords, commitment)), (gradients, gradient_of_z) = found
    gradients = to_official(RULES, {'params': gradients})
    prefix = f'{variant}_' if variant else ''
    recorded = {
        name.removeprefix(prefix): x
        for name, x in pack.arrays.items()
        if name.startswith(prefix) and (variant or not name.startswith('n65536_'))
    }
    return recorded, state_dict, variables, quantized, codewords, commitment, gradients, gradient_of_z


def test_official_weights_come_back_bit_for_bit(case):
    _, state_dict, variables, *_ = case
    back = to_official(RULES, variables)
    assert back.keys() == state_dict.keys()
    assert all(np.array_equal(back[name], state_dict[name]) for name in back)


def test_codewords_are_the_official_ones(case):
    recorded, _, _, _, codewords, *_ = case
    rows = recorded['codebook_rows']
    assert_close(codewords[:: len(codewords) // len(rows)], rows)


def test_nearest_codewords_are_the_official_ones(case):
    recorded, _, _, quantized, *_ = case
    sure = recorded['margin_rel'] > 1e-3
    assert sure.mean() > 0.95
    np.testing.assert_array_equal(np.asarray(quantized.ids).ravel()[sure], recorded['indices'][sure])
    channels_first = quantized.z_q.transpose(0, 3, 1, 2)
    if 'quant' in recorded:
        assert_close(channels_first, recorded['quant'])
    else:
        assert_close(channels_first[:, ::8], recorded['quant_c8'])


def test_the_loss_is_the_official_one(case):
    recorded, *_, commitment, _, _ = case
    np.testing.assert_allclose(commitment, recorded['commit_loss'], rtol=1e-4)
    if 'commit_loss_legacy_true' in recorded:
        np.testing.assert_allclose(commitment, recorded['commit_loss_legacy_true'], rtol=1e-4)


def test_gradients_are_the_official_ones(case):
    recorded, *_, gradients, gradient_of_z = case
    for name in ('embedding_proj.weight', 'embedding_proj.bias'):
        assert_close(gradients[name], recorded[f'grad:{name}'], 1e-3, name)
    if 'grad:z' in recorded:
        assert_close(gradient_of_z.transpose(0, 3, 1, 2), recorded['grad:z'], 1e-3, 'z')


@pytest.fixture(scope='module')
def networks():
    """The model of the recorded networks' weights and the small table's, and what its networks compute."""
    pack = load_pack('simvq_networks')
    state_dict = pack.state_dict()
    pack.check_weights(state_dict)
    state_dict |= {f'quantize.{name}': x for name, x in quantizer('')[2].items()}
    model = vistok.from_official('simvq', state_dict)
    latents = np.random.Generator(np.random.PCG64(7)).standard_normal((2, 128, 4, 6), dtype=np.float32)
    np.testing.assert_array_equal(latents[:, ::16], pack['latents_c16'])
    latents = jnp.asarray(latents.transpose(0, 2, 3, 1))

    def stages(simvq):
        return {'enc': simvq.encoder(jnp.asarray(pack.nhwc('input'))), 'dec': simvq.decode_latents(latents)}

    with jax.default_matmul_precision('highest'):
        found = jax.jit(functools.partial(model.module.apply, method=stages))(model.variables)
    return pack, state_dict, model, found


@pytest.mark.parametrize('stage', ['enc', 'dec'])
def test_the_networks_compute_the_official_numbers(networks, stage):
    pack, _, _, found = networks
    assert_close(found[stage], pack.nhwc(stage), name=stage)


def test_all_official_weights_come_back_bit_for_bit(networks):
    pack, state_dict, model, _ = networks
    assert model.module == SimVQ(codebook_size=1024)
    assert model.ignored == ()
    trained = sum(x.size for part in ('encoder', 'decoder') for x in jax.tree.leaves(model.variables['params'][part]))
    assert trained == pack.manifest['n_params']
    back = official_models.export_variables('simvq', model.variables)
    assert back.keys() == state_dict.keys()
    assert all(np.array_equal(back[name], state_dict[name]) for name in back)
