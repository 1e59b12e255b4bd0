"""VQ-DDM against numbers recorded from the official code: schedules, posteriors, bounds, chains, the U-Net."""

import dataclasses
import fnmatch

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_packs import load_pack

from vistok.generators.convert.official import OFFICIAL
from vistok.generators.diffusion import discrete_diffusion as diffusion
from vistok.generators.diffusion.timestep_sampling import update_statistics
from vistok.generators.diffusion.vq_ddm import VQDDM
from vistok.tokenizers.tokenizer import TokenSpec

K = 16  # of the cases without a network
MASKS = {'masks': False}


@pytest.fixture(scope='module')
def pack():
    return load_pack('vq_ddm')


def last(x):
    """Classes last instead of second."""
    return jnp.asarray(np.moveaxis(x, -3, -1))


def gumbel(uniform):
    return -jnp.log(-jnp.log(last(uniform) + 1e-30) + 1e-30)


@pytest.fixture(scope='module', params=[4000, 100])
def quantities(request, pack):
    """Everything that was recorded for a length of the schedule, at its five steps."""
    steps = diffusion.noise_steps('cos', request.param, 0.0)
    prefix = f'd{request.param}_'
    x_0, x_t, noise = jnp.asarray(pack['d_x0']), jnp.asarray(pack['d_xt']), gumbel(pack['d_uniform'])
    soft, denoised = (jax.nn.log_softmax(last(pack[name])) for name in ('d_soft_x0_logits', 'd_denoise_logits'))

    def at_step(t):
        at, one_hot = steps.at(t), diffusion.log_one_hot(x_0, K)
        q_pred = diffusion.transition_distribution(one_hot, at.after, **MASKS)
        noised = (q_pred + noise).argmax(-1)

        def bound(state):
            log_q, log_p = (diffusion.posterior(known, state, at, **MASKS) for known in (one_hot, denoised))
            return diffusion.variational_term(log_q, log_p, x_0, jnp.broadcast_to(t, (2,))).sum((1, 2))

        p_pred = diffusion.posterior(denoised, x_t, at, **MASKS)
        return {
            'q_pred': q_pred,
            'q_pred_one': diffusion.likelihood(x_t, at.step, K, **MASKS),
            'q_post': diffusion.posterior(one_hot, x_t, at, **MASKS),
            'q_post_soft': diffusion.posterior(soft, x_t, at, **MASKS),
            'p_pred': p_pred,
            'Lt': bound(x_t),
            'vb': -request.param * bound(noised) - 16 * diffusion.prior_divergence(steps, K),
            'xt_sampled': noised,
            'p_sampled': (p_pred + noise).argmax(-1),
        }

    found = jax.jit(jax.vmap(at_step))(jnp.asarray(pack[prefix + 't']))
    return prefix, steps, jax.device_get(found)


@pytest.mark.parametrize('length', [4000, 1000, 100])
def test_schedules_are_the_official_ones(pack, length):
    steps, prefix = diffusion.noise_steps('cos', length, 0.0), f'schedule{length}_log_'
    for found, name in (
        (steps.step.keep, 'alpha'),
        (steps.step.redraw, '1_min_alpha'),
        (steps.after.keep, 'cumprod_alpha'),
        (steps.after.redraw, '1_min_cumprod_alpha'),
    ):
        np.testing.assert_allclose(found, pack[prefix + name], atol=1e-6, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize('name', ['q_pred', 'q_pred_one', 'q_post', 'q_post_soft', 'p_pred'])
def test_distributions_are_the_official_ones(pack, quantities, name):
    prefix, _, found = quantities
    np.testing.assert_allclose(found[name], last(pack[prefix + name]), atol=2e-4)


def test_terms_of_the_bound_are_the_official_ones(pack, quantities):
    prefix, steps, found = quantities
    np.testing.assert_allclose(found['Lt'], pack[prefix + 'Lt'], rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(found['vb'], pack[prefix + 'vb'], atol=0.03 if prefix == 'd4000_' else 2e-3)
    np.testing.assert_allclose(16 * diffusion.prior_divergence(steps, K), pack[prefix + 'kl_prior'], atol=2e-5)


@pytest.mark.parametrize('name', ['xt_sampled', 'p_sampled'])
def test_tokens_drawn_with_the_official_noise_are_the_official_ones(pack, quantities, name):
    prefix, _, found = quantities
    sure = pack[prefix + 'sample_margin'] > 1e-3
    assert sure.all()
    np.testing.assert_array_equal(found[name], pack[prefix + name])


def test_a_whole_chain_is_the_official_one(pack):
    steps, table = diffusion.noise_steps('cos', 100, 0.0), jnp.asarray(pack['chain_table'])
    noise = gumbel(pack['chain_uniform'])

    def back(x, element):
        at, noise = element
        log_p = diffusion.posterior(jax.nn.log_softmax(table[x]), x, at, **MASKS)
        return (log_p + noise).argmax(-1), None

    x, _ = jax.lax.scan(back, noise[0].argmax(-1), (steps, noise[:0:-1]), reverse=True)
    np.testing.assert_array_equal(x, pack['chain_sample'])


def test_steps_are_drawn_and_remembered_as_in_the_official_training(pack):
    generator = VQDDM(TokenSpec((K,), 16), (4, 4), 0, timesteps=100)
    history = jnp.asarray(pack['d_Lt_history'])
    variables = {'diffusion_stats': {'mean_square': history, 'visits': jnp.full(100, 11.0)}}
    t, chance = jnp.asarray(pack['d_importance_t']), pack['d_importance_pt']
    np.testing.assert_allclose(generator.time_probabilities(variables)[t], chance, rtol=1e-5)
    prior = 16 * diffusion.prior_divergence(generator.steps(), K)
    bound = (-jnp.asarray(pack['d_train_log_prob']) - prior) * chance
    after = update_statistics(variables['diffusion_stats'], t, bound)
    np.testing.assert_allclose(after['mean_square'], pack['d_train_Lt_history_after'], rtol=1e-4)
    assert after['visits'].sum() == 1100 + len(t)


@dataclasses.dataclass(frozen=True)
class Network:
    """The model at full size, and what it says to the recorded inputs."""

    state_dict: dict
    back: dict
    parameters: int
    trained: object
    found: dict


@pytest.fixture(scope='module')
def network(pack):
    state_dict = pack.state_dict()
    official = OFFICIAL['vq_ddm']
    trained = official.read(state_dict)
    generator, steps = trained.generator, trained.generator.steps()
    x, x_0, t = (jnp.asarray(pack[name]) for name in ('n_x', 'n_x0', 'n_t'))

    @jax.jit
    def run(variables):
        logits, kept = generator.network.apply(
            {'params': variables['params']},
            x[..., None],
            steps.at(t).time,
            jnp.zeros(2, jnp.int32),
            capture_intermediates=lambda module, _: module.name == 'condition' and module.path == ('condition',),
        )
        log_x0 = jax.nn.log_softmax(logits)
        log_p = diffusion.posterior(log_x0, x, steps.at(t), **MASKS)
        log_q = diffusion.posterior(diffusion.log_one_hot(x_0, 1024), x, steps.at(t), **MASKS)
        drawn = (log_p[1:] + gumbel(pack['n_uniform'])).argmax(-1)
        bound = diffusion.variational_term(log_q, log_p, x_0, t).sum((1, 2))
        time = kept['intermediates']['condition']['__call__'][0]
        return {'time': time, 'logits': logits, 'p_pred': log_p, 'Lt': bound, 'p_sample': drawn}

    with jax.default_matmul_precision('highest'):
        found = jax.device_get(run(trained.variables))
    back = official.write(trained.variables)
    count = sum(leaf.size for leaf in jax.tree.leaves(trained.variables['params']))
    return Network(state_dict, back, count, trained, found)


def test_official_weights_are_all_used_and_come_back_bit_for_bit(pack, network):
    pack.check_weights(network.state_dict)
    assert network.parameters == pack.manifest['n_params']
    assert network.trained.ignored == ()
    assert set(network.back) == {*network.state_dict, '_denoising.Lt_history', '_denoising.Lt_count'}
    assert all(np.array_equal(network.back[name], x) for name, x in network.state_dict.items())


def test_what_a_whole_checkpoint_holds_besides_is_known(pack, network):
    official = OFFICIAL['vq_ddm']
    names = {name for name, _, _ in pack.manifest['state_dict']}
    ignored = official.ignored(network.trained.generator)
    others = names - set(network.back)
    assert others
    assert all(any(fnmatch.fnmatchcase(name, pattern) for pattern in ignored) for name in others)


def test_the_network_computes_the_official_numbers(pack, network):
    np.testing.assert_allclose(network.found['time'], pack['n_time_mlp'], atol=2e-4)
    np.testing.assert_allclose(network.found['logits'], last(pack['n_logits']), atol=2e-4)
    np.testing.assert_allclose(
        network.found['p_pred'][..., pack['n_channels']], last(pack['n_p_pred']), atol=2e-4
    )  # fmt: skip
    np.testing.assert_allclose(network.found['Lt'], pack['n_Lt'], rtol=1e-5, atol=1e-3)
    np.testing.assert_array_equal(network.found['p_sample'], pack['n_p_sample'])
