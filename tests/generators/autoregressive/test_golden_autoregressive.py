"""Autoregressive generators with official weights against numbers recorded from the official code."""

import dataclasses
import gc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_packs import Pack, load_pack

import vistok
from vistok.experiments import official_models
from vistok.generators.autoregressive.rotary import rotary_table
from vistok.generators.generator import SampleConfig, TextFeatures
from vistok.generators.trained import TrainedGenerator
from vistok.tokenizers.tokenizer import Tokens

GREEDY = {
    'greedy_nocfg': SampleConfig(temperature=0.0),
    'greedy': SampleConfig(temperature=0.0),
    'greedy_cfg2': SampleConfig(temperature=0.0, guidance_scale=2.0),
    'greedy_cfg4': SampleConfig(temperature=0.0, guidance_scale=4.0),
    'greedy_cfg7p5': SampleConfig(temperature=0.0, guidance_scale=7.5),
    # The official interval counts decoding steps after the first token, and includes its end.
    'greedy_cfg4_interval7': SampleConfig(
        temperature=0.0, guidance_scale=4.0, guidance_schedule='interval', guidance_interval=9
    ),
}
LARGE = pytest.mark.slow
PACKS = [
    'llamagen_gpt_b',
    'llamagen_t2i',
    pytest.param('fqgan_far', marks=LARGE),
    pytest.param('vqgan_lc_gpt', marks=LARGE),
    pytest.param('llamagen_gpt_l', marks=LARGE),
    pytest.param('fqgan_far_triple', marks=LARGE),
]


@dataclasses.dataclass(frozen=True)
class Case:
    """A pack, and what the model made of it says; the model itself is gone."""

    pack: Pack
    parameters: int
    frozen: int
    ignored: tuple
    numbers: dict
    greedy: dict
    gradients: dict


def condition(pack, rows):
    """The conditions of the first rows, and of the greedy samples."""
    if 'caption_features' in pack.arrays:
        features, mask = np.zeros((rows, 120, 2048), np.float32), np.zeros((rows, 120), bool)
        ends = np.cumsum(pack['caption_lengths'])
        for row, (end, length) in enumerate(zip(ends, pack['caption_lengths'], strict=True)):
            features[row, -length:] = pack['caption_features'][end - length : end]
            mask[row, -length:] = True
        return TextFeatures(jnp.asarray(features), jnp.asarray(mask))
    return jnp.asarray(pack['labels'] if 'labels' in pack.arrays else pack['class_token'][:, 0] - 100000, jnp.int32)


def ids_of(tokens):
    """`[b, n, k]`, as we have them, from `[b, n]` or `[b, k, n]`."""
    return np.moveaxis(tokens.reshape(len(tokens), -1, tokens.shape[-1]), 1, 2)


def suffix(codebook_index, slots):
    return f'_{codebook_index + 1}' if slots > 1 else ''


def numbers(generator, variables, pack, cond):
    """Everything recorded of the pass over the given tokens."""
    ids = jnp.asarray(ids_of(pack['tokens']))
    slots = ids.shape[-1]
    columns = pack['columns' if 'columns' in pack.arrays else 'vocab_columns']
    places = pack['logits_full_positions'] if 'logits_full_positions' in pack.arrays else [23]

    @jax.jit
    def compute(variables):
        each, seen = generator.network.apply(
            variables,
            ids,
            cond,
            method='logits',
            capture_intermediates=lambda _, method: method in ('features', 'prefix'),
        )
        found = {'hidden_last': seen['intermediates']['features'][0][0]}
        if isinstance(cond, TextFeatures):
            found['caption_embedding'] = seen['intermediates']['prefix'][0].vectors[:, -3:]
        for codebook_index, logits in enumerate(each):
            name = suffix(codebook_index, slots)
            found['logits_columns' + name] = logits[:, :, columns]
            found['logits_full' + name] = logits[0, np.asarray(places)]
            found['logits_logsumexp' + name] = jax.nn.logsumexp(logits, axis=-1)
        log_probabilities = [jax.nn.log_softmax(logits) for logits in each]
        found['uniform'] = jnp.stack([-x.mean(axis=-1) for x in log_probabilities], axis=-1)
        found['cross_entropy'] = -jnp.concatenate(
            [
                jnp.take_along_axis(x, ids[:, :, codebook_index, None], axis=-1)
                for codebook_index, x in enumerate(log_probabilities)
            ],
            axis=-1,
        )
        return found

    return jax.device_get(compute(variables))


def greedy(generator, variables, pack, cond):
    """The greedy tokens of the first row of cells, or the first two: those rows do not see that the grid ends there."""
    rows = 2 if generator.layers == 12 else 1
    short = dataclasses.replace(generator, grid=(rows, 16), condition_dropout=0.1)
    if 'sample_class_token' in pack.arrays:
        cond = jnp.asarray(pack['sample_class_token'][:, 0] - 100000, jnp.int32)
        cut = variables['params']['positions'][: 1 + rows * 16]
        variables = variables | {'params': variables['params'] | {'positions': cut}}
        short = dataclasses.replace(short, condition_dropout=0.0)
    found = {}
    for name in GREEDY.keys() & pack.arrays.keys():
        count = min(len(pack[name]), 1 if generator.layers == 36 else 2)
        asked = jax.tree.map(lambda x, count=count: x[:count], cond)
        drawn = TrainedGenerator(short, variables).sample_tokens(asked, config=GREEDY[name]).ids
        found[name] = np.asarray(drawn).reshape(count, -1, len(generator.spec.codebook_sizes))
    return found


def gradients(generator, variables, pack, official):
    """Of the training loss of the first two rows, with nothing dropped."""
    if 'train_loss_rows01' not in pack.arrays:
        return {}
    plain = dataclasses.replace(generator, dropout=0.0, condition_dropout=0.0)
    tokens = Tokens(pack['tokens'][:2].reshape(2, *generator.grid, 1))

    def loss(params):
        cond = jnp.asarray(pack['labels'][:2])
        return plain.loss({'params': params}, tokens, cond, jax.random.key(0), train=True).loss

    value, grads = jax.device_get(jax.jit(jax.value_and_grad(loss))(variables['params']))
    made = official_models.export_variables(official, {'params': grads})
    return {'loss': value, **made}


@pytest.fixture(scope='module', params=PACKS)
def case(request):
    pack = load_pack(request.param)
    official = 'llamagen_gpt' if request.param.startswith('llamagen') else request.param.removesuffix('_triple')
    state_dict = pack.state_dict()
    pack.check_weights(state_dict)
    model = vistok.from_official(official, state_dict)
    del state_dict
    cond = condition(pack, len(pack['tokens']))
    with jax.default_matmul_precision('highest'):
        yield Case(
            pack,
            sum(x.size for x in jax.tree.leaves(model.variables['params'])),
            sum(x.size for x in jax.tree.leaves(model.variables.get('frozen', {}))),
            model.ignored,
            numbers(model.generator, model.variables, pack, cond),
            greedy(model.generator, model.variables, pack, cond),
            gradients(model.generator, model.variables, pack, official),
        )
    del model
    jax.clear_caches()
    gc.collect()


def test_every_official_weight_has_its_place(case):
    assert case.parameters == case.pack.manifest['n_params']
    assert case.ignored == ()
    listed = sum(int(np.prod(shape)) for name, shape, _ in case.pack.manifest['state_dict'] if 'attn.mask' not in name)
    assert case.parameters + case.frozen == listed


def test_logits_and_hidden_vectors_are_the_official_ones(case):
    compared = 0
    for name, found in case.numbers.items():
        name = 'context_hidden' if name == 'hidden_last' and 'context_hidden' in case.pack.arrays else name
        if name == 'logits_full' and name not in case.pack.arrays:
            name, found = 'logits_full_pos23', found[0]
        if name not in case.pack.arrays:
            continue
        if name in ('hidden_last', 'context_hidden'):
            found = found[[0, 1, -1]]
        if name == 'cross_entropy':
            found = found[..., 0]
        np.testing.assert_allclose(found, case.pack[name], rtol=0, atol=2e-4, err_msg=name)
        compared += 1
    assert compared >= 3


def test_losses_are_the_official_ones(case):
    nll, uniform, pack = case.numbers['cross_entropy'], case.numbers['uniform'], case.pack.arrays
    found = {
        'loss': nll.mean(),
        'loss_ce': nll.mean(),
        'loss_smooth': 0.9 * nll.mean() + 0.1 * uniform.mean(),
        'loss_valid_101': nll[[0, -1]].mean(),
        'loss_valid_01': nll[1:].mean(),
    }
    compared = found.keys() & pack.keys()
    for name in compared:
        np.testing.assert_allclose(found[name], pack[name], rtol=2e-5, err_msg=name)
    assert compared


def test_greedy_samples_are_the_official_ones(case):
    assert case.greedy
    for name, ids in case.greedy.items():
        count = min(ids.shape[1], case.pack[name].shape[-1])
        robust = case.pack.manifest['stats']['greedy_robustness'][f'{name}_margin']['robust_leading_tokens']
        assert count <= robust
        expected = ids_of(case.pack[name])[: len(ids), :count]
        np.testing.assert_array_equal(ids[:, :count], expected, err_msg=name)


def test_gradients_are_the_official_ones(case):
    if not case.gradients:
        pytest.skip('not recorded')
    np.testing.assert_allclose(case.gradients['loss'], case.pack['train_loss_rows01'], rtol=2e-5)
    norms = [np.linalg.norm(case.gradients[name]) for name, _, _ in case.pack.manifest['state_dict']]
    np.testing.assert_allclose(norms, case.pack['train_grad_l2'], rtol=1e-3)
    rows = case.pack['labels'][:2]
    for name, part, recorded in [
        ('layers.0.attention.wqkv.weight', np.s_[::97, ::61], 'train_grad_wqkv0'),
        ('output.weight', np.s_[::1171, ::61], 'train_grad_output'),
        ('cls_embedding.embedding_table.weight', np.s_[rows, ::16], 'train_grad_cls'),
    ]:
        most = 1e-3 * np.linalg.norm(case.gradients[name])
        np.testing.assert_allclose(case.gradients[name][part], case.pack[recorded], rtol=0, atol=most, err_msg=name)


@pytest.mark.parametrize('name', ['llamagen_gpt_b', 'fqgan_far'])
def test_rotary_tables_are_the_official_ones(name):
    recorded = load_pack(name)['rope_table']
    table = rotary_table((16, 16), 64, prefix=1, prefix_rotation='zero')
    np.testing.assert_allclose(table[: len(recorded)], recorded, atol=1e-6)
