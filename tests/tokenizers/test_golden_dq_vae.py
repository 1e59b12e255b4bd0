"""DQ-VAE with official weights against numbers recorded from the official code, stage by stage."""

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
from vistok.tokenizers.codebooks.ema import EMACodebook
from vistok.tokenizers.dq_vae import DQVAE, Routing
from vistok.tokenizers.objective import AdversarialGame, TokenizerObjective
from vistok.tokenizers.routing.density import information_density
from vistok.tokenizers.routing.routers import EntropyRouter, budget_loss, hard_gumbel_softmax
from vistok.tokenizers.tokenizer import Tokens
from vistok.tokenizers.trained import TrainedTokenizer

CODEBOOK = 'quantize.codebook.weight'


@dataclasses.dataclass(frozen=True)
class Case:
    """The pack, the model made of it, and what the model says to the recorded inputs."""

    pack: Pack
    state_dict: dict
    model: TrainedTokenizer
    stages: dict


def run_stages(module, variables, images, noise):
    def stages(dq_vae):
        branches = dq_vae.encoder(images)
        logits = dq_vae.gate(branches)
        gate = hard_gumbel_softmax(logits, noise)
        noisy = Routing(jnp.argmax(gate, axis=-1).astype(jnp.int32), gate)
        routings = {'': dq_vae.route(images, branches), 'gumbel_': noisy}
        made = {'h_coarse': branches[0], 'h_fine': branches[1], 'gate_logits': logits, 'gumbel_gate': gate}
        for run, routing in routings.items():
            quantized = dq_vae.quantize(branches, routing)
            made |= {
                f'{run}grain_indices': routing.choice,
                f'{run}z': dq_vae.latents(branches, routing),
                f'{run}codes': quantized.ids,
                f'{run}quant': quantized.z_q,
                f'{run}loss': quantized.losses['codebook'] + quantized.losses['commitment'],
                f'{run}dec': dq_vae.decode_latents(quantized.z_q),
            }
        tokens = dq_vae.encode(images)
        return made | {'encoded': tokens, 'decoded': dq_vae.decode(tokens)}

    return module.apply(variables, method=stages)


@pytest.fixture(scope='module')
def case():
    pack = load_pack('dq_vae')
    rows = pack.state_dict(prefix=CODEBOOK)['']
    kept = {'quantize.codebook.cluster_size_ema': np.zeros(len(rows) - 1, np.float32)}
    state_dict = pack.state_dict(kept=kept | {'quantize.codebook.embed_ema': rows[:-1]})
    model = vistok.from_official('dq_vae', state_dict)
    with jax.default_matmul_precision('highest'):
        stages = jax.jit(functools.partial(run_stages, model.module))(
            model.variables, pack.nhwc('input'), pack['gumbel_noise']
        )
    return Case(pack, state_dict, model, jax.device_get(stages))


def nchw(x):
    return np.asarray(x).transpose(0, 3, 1, 2)


def test_generated_weights_are_the_recorded_ones(case):
    case.pack.check_weights(case.state_dict)


def test_branches_and_gate_are_the_official_ones(case):
    assert_close(nchw(case.stages['h_coarse'])[:, ::8], case.pack['h_coarse_c8'])
    assert_close(nchw(case.stages['h_fine'])[:, ::16], case.pack['h_fine_c16'])
    assert_close(case.stages['gate_logits'], case.pack['gate_logits'])
    assert_close(nchw(case.stages['gumbel_gate']), case.pack['gumbel_gate'])


@pytest.mark.parametrize('run', ['', 'gumbel_'])
def test_both_runs_give_the_official_numbers(case, run):
    stages, pack = case.stages, case.pack
    np.testing.assert_array_equal(stages[f'{run}grain_indices'], pack[f'{run}grain_indices'])
    assert_close(nchw(stages[f'{run}z'])[:, ::16], pack[f'{run}z_c16'])
    sure = pack[f'{run}margin_rel'].reshape(pack[f'{run}codes'].shape) > 1e-3
    np.testing.assert_array_equal(stages[f'{run}codes'][sure], pack[f'{run}codes'][sure])
    np.testing.assert_array_equal(stages[f'{run}codes'], pack[f'{run}codes'])  # here even where it is close
    assert_close(nchw(stages[f'{run}quant'])[:, ::16], pack[f'{run}quant_c16'])
    np.testing.assert_allclose(stages[f'{run}loss'], pack[f'{run}codebook_loss'], rtol=1e-4)
    dec = nchw(stages[f'{run}dec'])
    if run:
        assert_close(dec[:, :, ::4, ::4], pack['gumbel_dec_s4'])
    else:
        assert_close(dec, pack['dec'])
    assert_close(np.stack([dec.mean((0, 2, 3)), dec.std((0, 2, 3))]), pack[f'{run}dec_mean_std'])


def test_tokens_hold_the_codes_and_the_grains(case):
    tokens = case.stages['encoded']
    assert isinstance(tokens, Tokens)
    np.testing.assert_array_equal(tokens.ids[..., 0], case.pack['codes'])
    fine = case.pack['grain_indices'].repeat(2, axis=1).repeat(2, axis=2)
    np.testing.assert_array_equal(tokens.grain, np.where(fine, 1, 2))
    assert_close(nchw(case.stages['decoded']), case.pack['dec'])


@pytest.mark.parametrize(('run', 'gate'), [('', 'gate'), ('gumbel_', 'gumbel_gate')])
def test_budget_loss_is_the_official_one_even_of_raw_logits(case, run, gate):
    # The official code adds the same term twice, so its gamma of 10 is a weight of 20.
    loss = 20 * budget_loss(jnp.asarray(case.pack.nhwc(gate)), (0.5, 0.5))
    np.testing.assert_allclose(loss, case.pack[f'{run}budget_loss'], rtol=1e-4)


def test_information_density_and_its_thresholds_are_the_official_ones(case):
    images = jnp.asarray(case.pack.nhwc('input'))
    assert_close(information_density(images, 16), case.pack['entropy_map'])
    for percent, ratios in ((50, (0.5, 0.5)), (30, (0.7, 0.3))):
        router = EntropyRouter(ratios, (case.pack.manifest[f'entropy_threshold_r{percent}'],))
        choice, _ = router.init_with_output(jax.random.key(0), images, 16)
        np.testing.assert_array_equal(choice, case.pack[f'entropy_gate_fine_r{percent}'])


def test_moving_averages_of_the_codebook_are_the_official_ones(case):
    codebook, rows = EMACodebook(64, 16), case.pack['ema_weight_before'][:-1]
    stats = {'codewords': rows, 'sums': rows, 'counts': np.ones(64, np.float32)}
    _, changed = codebook.apply(
        {'codebook_stats': stats},
        jnp.asarray(case.pack['ema_vectors'][0]),
        jnp.asarray(case.pack['ema_codes'][0]),
        method='update',
        mutable='codebook_stats',
    )
    after = changed['codebook_stats']
    assert_close(after['codewords'], case.pack['ema_weight_after'][:-1], 1e-6)
    assert_close(after['counts'], case.pack['ema_cluster_size_after'], 1e-6)
    assert_close(after['sums'], case.pack['ema_embed_after'], 1e-6)


def test_official_weights_come_back_bit_for_bit(case):
    back = official_models.export_variables('dq_vae', case.model.variables)
    assert set(back) == set(case.state_dict) - set(case.model.ignored)
    assert all(name.startswith('loss.') for name in case.model.ignored)
    for name, value in back.items():
        # The last row is padding that tokenizers have no use for.
        expected = case.state_dict[name][:-1] if name == CODEBOOK else case.state_dict[name]
        np.testing.assert_array_equal(value[: len(expected)], expected, err_msg=name)


class WithRunningStatistics(nn.Module):
    """The discriminator as the pack was recorded: in evaluation mode."""

    patchgan: nn.Module

    def __call__(self, images, train):
        return self.patchgan(images, False)


class InEvaluation(DQVAE):
    """The tokenizer as the pack was recorded: in evaluation mode, where the official budget is one of raw logits."""

    def __call__(self, images, *, train=False):
        output = super().__call__(images)
        budget = self.budget_weight * budget_loss(self.gate(self.encoder(images)), self.grain_ratios)
        return output.replace(losses=output.losses | {'grain_budget': budget})


def test_the_whole_objective_is_the_official_one(case):
    pack, state_dict = case.pack, case.state_dict
    fields = {f.name: getattr(case.model.module, f.name) for f in dataclasses.fields(DQVAE) if f.init}
    patchgan = vistok.from_official('patchgan', pack.state_dict(prefix='loss.discriminator.'))
    lpips = vistok.from_official('lpips', pack.state_dict(prefix='loss.perceptual_loss.'))
    assert any(name.startswith('loss.') for name in state_dict)
    objective = TokenizerObjective(
        InEvaluation(**{name: x for name, x in fields.items() if name not in ('parent', 'name')}),
        AdversarialGame(
            WithRunningStatistics(patchgan.module),
            weight=1.0, discriminator_weight=1.0, adaptive=True, adaptive_maximum=0.75, start=0,
        ),
        perceptual=FrozenNetwork('lpips', lpips.module, lpips.variables),
        pixel_loss='l1',
    )  # fmt: skip
    variables = dict(case.model.variables)
    params = {'tokenizer': variables.pop('params'), 'discriminator': {'patchgan': patchgan.variables['params']}}
    state = {'tokenizer': variables, 'discriminator': {'batch_stats': {'patchgan': patchgan.variables['batch_stats']}}}
    batch = {'image': jnp.asarray(pack.nhwc('input'))}
    with jax.default_matmul_precision('highest'):
        losses, (_, report) = jax.jit(objective.losses)(
            params, state, objective.frozen, batch, jax.random.key(0), jnp.asarray(0)
        )
    terms = {name.removeprefix('terms/'): float(x) for name, x in report.metrics.items() if name.startswith('terms/')}
    for ours, recorded in (
        (terms['pixel'] + terms['perceptual'], 'loss_nll_loss'),
        (terms['perceptual'], 'loss_p_loss'),
        (report.metrics['adaptive_weight'], 'loss_d_weight'),
        (-report.metrics['logits/fake'], 'loss_g_loss'),
        (terms['grain_budget'], 'loss_budget_loss'),
        (losses['tokenizer'], 'loss_gen'),
        (losses['discriminator'], 'loss_disc'),
    ):
        np.testing.assert_allclose(float(ours), float(pack[recorded]), rtol=1e-4, err_msg=recorded)
