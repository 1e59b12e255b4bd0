"""FQGAN with official weights against numbers recorded from the official code, stage by stage."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from golden_packs import Pack, assert_close, load_pack

import vistok
from vistok.experiments import official_models
from vistok.tokenizers.quantizers.factorized import disentangle_loss
from vistok.tokenizers.tokenizer import Tokens
from vistok.tokenizers.trained import TrainedTokenizer

# Factor -> what the pack calls its feature predictor.
PREDICTED = {
    'fqgan_dual': {'sem': 'semantic'},
    'fqgan_triple': {'sem_mid': 'mid', 'sem_high': 'high'},
}


@dataclasses.dataclass(frozen=True)
class Case:
    """A pack, the model made of it, and what the model says to the recorded inputs of each stage."""

    pack: Pack
    state_dict: dict
    model: TrainedTokenizer
    stages: dict

    @property
    def factors(self):
        return self.model.spec.codebook_names

    def sure(self, factor):
        return self.pack[f'{factor}_margin_rel'] > 1e-3


def run_stages(module, variables, arrays):
    def stages(fqgan):
        shared = fqgan.trunk(arrays['input'])
        features = {name: fqgan.features(shared, name) for name in fqgan.factors}
        z = {name: fqgan.quant_conv[name](features[name]) for name in fqgan.factors}
        from_z = fqgan.quantizer(arrays['z'], train=True)
        parts = fqgan.quantizer.split(arrays['quant'])
        return {
            'features': features,
            'z': z,
            'encoded': fqgan.quantizer(z).ids,
            'ids': from_z.ids,
            'quant': from_z.z_q,
            'losses': from_z.losses,
            'disentangle': fqgan.disentangle_weight * disentangle_loss(tuple(parts.values())),
            'dec': fqgan.decode_latents(arrays['quant']),
            'embedded': fqgan.embed(Tokens(arrays['indices'])),
            'predicted': {name: predictor(parts[name]) for name, predictor in fqgan.predictor.items()},
        }

    return module.apply(variables, method=stages)


# The triple one is the dual one with a factor more.
@pytest.fixture(
    scope='module',
    params=[pytest.param(name, marks=pytest.mark.slow if name == 'fqgan_triple' else ()) for name in PREDICTED],
)
def case(request):
    pack = load_pack(request.param)
    state_dict = pack.state_dict()
    model = vistok.from_official(request.param, state_dict)
    factors = model.spec.codebook_names
    grid = pack.nhwc('quant').shape[:3]
    arrays = {name: pack.nhwc(name) for name in ('input', 'quant')} | {
        'z': {name: pack.nhwc(f'z_{name}') for name in factors},
        'indices': np.stack([pack[f'indices_{name}'].reshape(grid) for name in factors], axis=-1),
    }
    with jax.default_matmul_precision('highest'):
        stages = jax.jit(functools.partial(run_stages, model.module))(model.variables, arrays)
    return Case(pack, state_dict, model, jax.device_get(stages))


def nchw(x):
    return np.asarray(x).transpose(0, 3, 1, 2)


def test_generated_weights_are_the_recorded_ones(case):
    case.pack.check_weights(case.state_dict)


def test_factors_come_in_the_order_of_the_decoder(case):
    assert case.factors == {
        'fqgan_dual': ('vis', 'sem'),
        'fqgan_triple': ('vis', 'sem_mid', 'sem_high'),
    }[case.pack.name]  # fmt: skip


def test_each_branch_of_the_encoder_computes_the_official_numbers(case):
    for factor in case.factors:
        assert_close(nchw(case.stages['features'][factor])[:, ::8], case.pack[f'enc_{factor}_c8'], name=factor)
        assert_close(nchw(case.stages['z'][factor]), case.pack[f'z_{factor}'], name=factor)


@pytest.mark.parametrize('stage', ['ids', 'encoded'])
def test_indices_are_the_official_ones(case, stage):
    for i, factor in enumerate(case.factors):
        sure = case.sure(factor)
        np.testing.assert_array_equal(
            case.stages[stage][..., i].ravel()[sure], case.pack[f'indices_{factor}'][sure], err_msg=factor
        )


def test_codewords_are_concatenated_as_officially(case):
    assert_close(nchw(case.stages['quant']), case.pack['quant'])
    assert_close(nchw(case.stages['embedded']), case.pack['quant'])


def test_decoder_makes_the_official_images(case):
    assert_close(nchw(case.stages['dec']), case.pack['dec'])


def test_losses_are_the_official_ones(case):
    losses, pack = case.stages['losses'], case.pack
    for factor in case.factors:
        np.testing.assert_allclose(losses[f'codebook/{factor}'], pack[f'train_{factor}_vq'], rtol=1e-4)
        np.testing.assert_allclose(losses[f'commitment/{factor}'], pack[f'train_{factor}_commit'], rtol=1e-4)
        np.testing.assert_allclose(losses[f'entropy/{factor}'], pack[f'train_{factor}_entropy_r0p03'], rtol=1e-3)
    np.testing.assert_allclose(case.stages['disentangle'], pack['disentangle_loss'], rtol=1e-4)


def test_predicted_features_are_the_official_ones(case):
    for factor, name in PREDICTED[case.pack.name].items():
        tokens = case.stages['predicted'][factor]
        assert_close(tokens[:, :1], case.pack[f'feat_{name}_cls'], name=name)
        assert_close(tokens[:, 1::16], case.pack[f'feat_{name}_t16'], name=name)


def test_official_weights_come_back_bit_for_bit(case):
    back = official_models.export_variables(case.pack.name, case.model.variables)
    assert set(back) == set(case.state_dict) - set(case.model.ignored)
    assert all(np.array_equal(back[name], case.state_dict[name]) for name in back)
    assert case.model.ignored == ()
