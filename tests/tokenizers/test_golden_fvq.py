"""FVQ with official weights against numbers recorded from the official code: the bridge, its quantizer, the model."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_packs import Pack, assert_close, load_pack

import vistok
from vistok.experiments import official_models
from vistok.tokenizers.codebooks.bridge import sin_cos_positions
from vistok.tokenizers.fvq import FVQ, PRESETS
from vistok.tokenizers.tokenizer import Tokens
from vistok.tokenizers.trained import TrainedTokenizer

DIT = {'bridge_positions': True, 'bridge_conditioned': True}
PACKS = {'fvq': PRESETS['16384'], 'fvq_65536': PRESETS['65536'], 'fvq_dit': PRESETS['16384'] | DIT}


@dataclasses.dataclass(frozen=True)
class Case:
    """A pack, the model made of it, and what its bridge and quantizer say to the recorded vectors."""

    pack: Pack
    state_dict: dict
    model: TrainedTokenizer
    codewords: np.ndarray
    quantized: dict
    gradients: dict


def codewords(fvq):
    return fvq.quantizer.codewords()


def quantize(fvq, z):
    return fvq.quantizer(z, train=True)


def quantizer_loss(params, module, variables, z):
    quantized = module.apply(variables | {'params': params}, z, method=quantize)
    return quantized.losses['codebook'] + quantized.losses['commitment'], quantized


@pytest.fixture(scope='module', params=PACKS)
def case(request):
    pack = load_pack(request.param)
    positions = np.asarray(sin_cos_positions(32, 32, 256))
    state_dict = pack.state_dict(kept={'quantize.qbridge.pos_embed': positions})
    model = vistok.from_official('fvq', state_dict, entropy_weight=0.1)
    # The gradients of the image's error pass the quantizer by: the bridge learns from the codebook loss alone.
    gradient = jax.jit(jax.value_and_grad(quantizer_loss, has_aux=True), static_argnames='module')
    (_, quantized), gradients = gradient(
        model.variables['params'], model.module, model.variables, jnp.asarray(pack.nhwc('z'))
    )
    return Case(
        pack, state_dict, model,
        np.asarray(jax.jit(functools.partial(model.module.apply, method=codewords))(model.variables)),
        {'ids': np.asarray(quantized.ids), 'z_q': np.asarray(quantized.z_q), 'losses': quantized.losses},
        official_models.export_variables('fvq', {'params': jax.device_get(gradients)}),
    )  # fmt: skip


def sure(pack):
    return pack['margin_rel'] > 1e-3


def test_sizes_and_bridge_are_read_from_the_weights(case):
    assert case.model.module == FVQ(**PACKS[case.pack.name], entropy_weight=0.1)
    recorded = case.pack.manifest['n_params']
    fixed = 0 if case.pack.name != 'fvq_dit' else 1024 * 256  # PyTorch counts the fixed positions as parameters
    assert sum(x.size for x in jax.tree.leaves(case.model.variables['params'])) == recorded - fixed


def test_generated_weights_are_the_recorded_ones(case):
    case.pack.check_weights(case.state_dict)


def test_codewords_are_the_official_ones(case):
    step = len(case.codewords) // len(case.pack['bridged_rows'])
    assert_close(case.codewords[::step], case.pack['bridged_rows'])
    assert_close(case.codewords[:64], case.pack['bridged_first64'])
    assert_close(case.codewords.mean(axis=0), case.pack['bridged_col_mean'])
    assert_close(case.codewords.std(axis=0), case.pack['bridged_col_std'])


def test_positions_are_the_official_ones():
    recorded = load_pack('fvq_dit')['pos_embed_rows']
    assert_close(np.asarray(sin_cos_positions(32, 32, 256))[0, ::64], recorded, 1e-6)


def test_nearest_codewords_are_the_official_ones(case):
    np.testing.assert_array_equal(case.quantized['ids'].ravel()[sure(case.pack)], case.pack['indices'][sure(case.pack)])
    assert_close(case.quantized['z_q'], case.pack.nhwc('quant'))


def test_losses_are_the_official_ones(case):
    losses = case.quantized['losses']
    np.testing.assert_allclose(losses['codebook'], case.pack['train_vq_loss'], rtol=1e-4)
    np.testing.assert_allclose(losses['commitment'], case.pack['train_commit_loss'], rtol=1e-4)
    np.testing.assert_allclose(losses['entropy'], case.pack['train_entropy_loss_r0p1'], rtol=1e-3)


def test_gradients_of_bridge_and_table_are_the_official_ones(case):
    recorded = [name for name in case.pack.arrays if name.startswith('grad:')]
    assert len(recorded) == 3
    for name in recorded:
        assert_close(case.gradients[name.removeprefix('grad:')], case.pack[name], 1e-3, name)
    rows = case.pack['grad_rows:quantize.embedding.weight']
    assert_close(case.gradients['quantize.embedding.weight'][: len(rows)], rows, 1e-3, 'table')


def test_official_weights_come_back_bit_for_bit(case):
    back = official_models.export_variables('fvq', case.model.variables)
    assert set(back) == set(case.state_dict) - set(case.model.ignored)
    assert all(np.array_equal(back[name], case.state_dict[name]) for name in back)
    assert case.model.ignored == ()


def baked(case):
    """The layout of the released files: no bridge, the codewords in the place of its table."""
    state_dict = {name: x for name, x in case.state_dict.items() if 'qbridge' not in name}
    return state_dict | {'quantize.embedding.weight': case.codewords}


def test_the_whole_model_computes_the_official_numbers(case):
    """Of one pack: the networks are the same in all."""
    if case.pack.name != 'fvq':
        pytest.skip('the same networks')
    pack, model = case.pack, vistok.from_official('fvq', baked(case))
    images, enc = (jnp.asarray(pack.nhwc(name)) for name in ('input', 'enc'))
    indices = pack['indices'].reshape(*pack.nhwc('z').shape[:3], 1)

    def stages(vqgan):
        output = vqgan(images, train=True)
        error = jnp.mean((output.reconstruction - images) ** 2)
        return {
            'enc': vqgan.encoder(images),
            'z': vqgan.quant_conv(enc),
            'dec': vqgan.decode(Tokens(indices)),
            'ids': output.tokens.ids,
            'total': error + sum(output.losses.values()),
        }

    with jax.default_matmul_precision('highest'):
        result = jax.jit(functools.partial(model.module.apply, method=stages))(model.variables)
    for name in ('enc', 'z', 'dec'):
        assert_close(result[name], pack.nhwc(name), name=name)
    np.testing.assert_array_equal(np.ravel(result['ids'])[sure(pack)], pack['indices'][sure(pack)])
    np.testing.assert_allclose(result['total'], pack['train_total'], rtol=1e-4)


def test_released_weights_make_a_plain_vqgan_without_unit_norm(case):
    model = vistok.from_official('fvq', baked(case))
    assert type(model.module).__name__ == 'VQGAN'
    assert not model.module.normalize
    quantized = jax.jit(functools.partial(model.module.apply, method=quantize))(
        model.variables, jnp.asarray(case.pack.nhwc('z'))
    )
    np.testing.assert_array_equal(quantized.ids, case.quantized['ids'])
    back = official_models.export_variables('fvq', model.variables)
    np.testing.assert_array_equal(back['quantize.embedding.weight'], case.codewords)
    assert set(back) == set(baked(case))
