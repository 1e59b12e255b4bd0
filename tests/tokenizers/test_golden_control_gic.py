"""Control-GIC with official weights against numbers recorded from the official code, stage by stage."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_packs import Pack, assert_close, load_pack

import vistok
from vistok.experiments import official_models
from vistok.tokenizers.routing.density import information_density
from vistok.tokenizers.routing.grains import merge_grains
from vistok.tokenizers.routing.routers import RatioRouter
from vistok.tokenizers.tokenizer import Tokens
from vistok.tokenizers.trained import TrainedTokenizer

RUNS = {'r0': (0.1, 0.4, 1 - 0.1 - 0.4), 'r1': (0.4, 0.3, 1 - 0.4 - 0.3)}
CASES = [
    (0.1, 0.4), (0.5, 0.3), (0.0, 0.4), (0.3, 0.0), (0.5, 0.5), (1.0, 0.0), (0.0, 1.0), (0.0, 0.0), (0.7, 0.3),
]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Case:
    """The pack, the model made of it, and what the model says to the recorded inputs."""

    pack: Pack
    state_dict: dict
    model: TrainedTokenizer
    stages: dict


def recorded_grain(pack, prefix):
    """Recorded masks as one map of block sides."""
    coarse, medium, fine = (pack[f'{prefix}{name}'][:, 0] for name in ('coarse', 'medium', 'fine'))
    double = lambda x, times: x.repeat(times, axis=1).repeat(times, axis=2)  # noqa: E731
    return (4 * double(coarse, 4) + 2 * double(medium, 2) + fine).astype(np.int32)


def run_stages(module, variables, arrays):
    def stages(model):
        made = {'branches': model.encoder(model._to_networks(arrays['input']))}
        for run, shares in RUNS.items():
            grain = arrays[f'{run}_grain']
            quantized = model.quantizer(arrays[f'{run}_z'], train=True)
            tokens = Tokens(arrays[f'{run}_indices'], grain)
            made[run] = {
                'grain': model.route(arrays['input'], shares),
                'z': model.quant_conv(merge_grains(made['branches'], grain)),
                'ids': quantized.ids,
                'quant': quantized.z_q,
                'losses': quantized.losses,
                'dec': model.decode_latents(arrays[f'{run}_quant'], grain),
                'decoded': model.decode(tokens),
                'encoded': model.encode(arrays['input'], grain_ratios=shares),
            }
        return made

    return module.apply(variables, method=stages)


@pytest.fixture(scope='module')
def case():
    pack = load_pack('control_gic')
    counters = {f'quantize.embedding_counter.{i}': np.float32([n]) for i, n in enumerate(pack['freq'])}
    state_dict = pack.state_dict(kept=counters)
    model = vistok.from_official('control_gic', state_dict, strict_thresholds=True)
    arrays = {'input': 2 * pack.nhwc('input') - 1}  # recorded in [0, 1], as the official inference has it
    for run in RUNS:
        arrays[f'{run}_grain'] = recorded_grain(pack, f'{run}_mask_')
        arrays[f'{run}_z'], arrays[f'{run}_quant'] = pack.nhwc(f'{run}_z'), pack.nhwc(f'{run}_quant')
        arrays[f'{run}_indices'] = pack[f'{run}_indices'].reshape(1, 32, 32, 1)
    with jax.default_matmul_precision('highest'):
        stages = jax.jit(functools.partial(run_stages, model.module))(model.variables, arrays)
    return Case(pack, state_dict, model, jax.device_get(stages))


def nchw(x):
    return np.asarray(x).transpose(0, 3, 1, 2)


def test_generated_weights_are_the_recorded_ones(case):
    case.pack.check_weights(case.state_dict)


def test_branches_are_the_official_ones(case):
    for branch, name in zip(case.stages['branches'], ('h_coarse', 'h_medium', 'h_fine'), strict=True):
        assert_close(nchw(branch), case.pack[name], name=name)


@pytest.mark.parametrize('patch', [8, 16])
def test_information_density_is_the_official_one(case, patch):
    for name, images in (
        ('entropy', case.pack.nhwc('input')),
        ('photo_entropy', case.pack.nhwc('photo')),
    ):
        assert_close(information_density(jnp.asarray(images), patch), case.pack[f'{name}_p{patch}'])
    signed = information_density(jnp.asarray(2 * case.pack.nhwc('input') - 1), patch)
    assert_close(signed, case.pack[f'entropy_p{patch}_pm1'])


@pytest.mark.parametrize('number', range(len(CASES)))
def test_one_rule_gives_the_masks_of_all_official_modes(case, number):
    coarse, medium = CASES[number]
    densities = [jnp.asarray(case.pack[f'photo_entropy_p{patch}']) for patch in (16, 8)]
    # The last case has a fine share of 5.6e-17, by the official subtraction: not 0.
    grain = RatioRouter(strict_thresholds=True)(densities, (coarse, medium, 1 - coarse - medium))
    np.testing.assert_array_equal(grain, recorded_grain(case.pack, f'mask{number}_'))


@pytest.mark.parametrize('run', RUNS)
def test_both_runs_give_the_official_numbers(case, run):
    stages, pack = case.stages[run], case.pack
    np.testing.assert_array_equal(stages['grain'], recorded_grain(pack, f'{run}_mask_'))
    assert_close(nchw(stages['z']), pack[f'{run}_z'])
    sure = pack[f'{run}_margin_rel'] > 1e-3
    for tokens in (stages['ids'], stages['encoded'].ids):
        np.testing.assert_array_equal(tokens.ravel()[sure], pack[f'{run}_indices'][sure])
    np.testing.assert_array_equal(stages['encoded'].grain, stages['grain'])
    assert_close(nchw(stages['quant']), pack[f'{run}_quant'])
    loss = stages['losses']['codebook'] + stages['losses']['commitment']
    np.testing.assert_allclose(loss, pack[f'{run}_codebook_loss'], rtol=1e-4)
    for images in (stages['dec'], stages['decoded']):
        assert_close((nchw(images) + 1) / 2, pack[f'{run}_dec'])


def test_official_weights_come_back_bit_for_bit(case):
    back = official_models.export_variables('control_gic', case.model.variables)
    assert set(back) == set(case.state_dict) - set(case.model.ignored)
    assert all(np.array_equal(back[name], case.state_dict[name]) for name in back)
    assert all(name.startswith('quantize.embedding_counter.') for name in case.model.ignored)
