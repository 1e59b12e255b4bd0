"""DQ-Transformer with official weights against numbers recorded from the official code."""

import dataclasses
import gc
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_packs import Pack, load_pack

import vistok
from vistok.experiments import official_models
from vistok.generators.autoregressive.dq_transformer import DQTransformer
from vistok.generators.autoregressive.grain_grammar import GrainGrammar
from vistok.generators.autoregressive.grain_sequence import GrainSequence, GrainSequences
from vistok.generators.autoregressive.transformer import DecoderState
from vistok.generators.generator import SampleConfig
from vistok.tokenizers.tokenizer import Tokens

TABLES = (256, 1024)  # the recorded grids are smaller than the one that the tables are for


@dataclasses.dataclass(frozen=True)
class Case:
    """A pack, and what the model made of it says; the model itself is gone."""

    pack: Pack
    parameters: int
    ignored: tuple
    same_weights: bool
    loss: dict
    logits: dict
    sampled: GrainSequence
    contents_of_the_official_sampler: np.ndarray


class OfficialGrammar(GrainGrammar):
    """The official sampler never makes the last cell coarse."""

    def position_mask(self, covered, segment):
        last = jnp.arange(self.sequences.positions[-1].total) == self.sequences.cells[0] - 1
        return super().position_mask(covered, segment) & ~(last & (segment == 0)[:, None])


class OfficialSampler(DQTransformer):
    """DQ-Transformer as its authors sample from it."""

    @property
    def grammar(self):
        return OfficialGrammar(self.sequences, self.finest_positions)


def recorded_tokens(pack, indices='indices', grain='grain'):
    blocks = (2 - pack[grain]).repeat(2, 1).repeat(2, 2)
    return Tokens(jnp.asarray(pack[indices])[..., None], jnp.asarray(blocks))


def recorded_sample(pack):
    """The recorded pairs, and the positions that the official sampler tells its content stack in the fine part.

    It tells each coarse pair its own position; in training, and in its own coarse part, the next one.
    """
    label = int(pack['sample_label'][0])
    coarse, fine = pack['sample_coarse_position'][0], pack['sample_fine_position'][0]
    starts = {'content': 1026 + label, 'coarse': 258 + label, 'fine': 1026 + label}
    position = np.concatenate([[starts['coarse']], coarse, [starts['fine']], fine[:-1]])
    content = np.concatenate([
        [starts['content']], pack['sample_coarse_content'][0], [starts['content']], pack['sample_fine_content'][0][:-1]
    ])  # fmt: skip
    segment = np.repeat([0, 1], [1 + len(coarse), len(fine)])
    told = np.concatenate([[starts['coarse']], coarse, fine])
    pairs = (jnp.asarray(x, jnp.int32)[None] for x in (content, position, segment, np.arange(len(segment))))
    return GrainSequence(*pairs), jnp.asarray(told, jnp.int32)[None]


def crc(state_dict):
    return {name: zlib.crc32(np.ascontiguousarray(x).data) for name, x in state_dict.items()}


@pytest.fixture(scope='module')
def case():
    pack = load_pack('dq_transformer')
    state_dict = pack.state_dict()
    pack.check_weights(state_dict)
    given = crc(state_dict)
    model = vistok.from_official('dq_transformer', state_dict)
    del state_dict
    back = crc(official_models.export_variables('dq_transformer', model.variables))

    small = dataclasses.replace(model.generator, grid=(8, 8), position_sizes=TABLES)
    settings = {field.name: getattr(small, field.name) for field in dataclasses.fields(small)}
    smaller = OfficialSampler(**settings | {'grid': (6, 6), 'finest_positions': 'remaining'})
    tokens, labels = recorded_tokens(pack), jnp.asarray(pack['labels'])
    length = pack['perm_coarse_content'].shape[1] + pack['perm_fine_content'].shape[1] + 2

    def logits(variables):
        sequence = jax.tree.map(lambda x: x[:, :length], small.sequences.encode(tokens, labels))
        return small.network.apply(variables, sequence, method='logits')

    def in_the_fine_part(network):
        pairs, told = recorded_sample(pack)
        hidden = network.position_features(pairs, None, 0)
        return network.content_logits(network.content_features(DecoderState(hidden.x), told, pairs.segment, 0).x[0])

    with jax.default_matmul_precision('highest'):
        variables, key = model.variables, jax.random.key(0)
        loss = jax.jit(lambda v: small.loss(v, tokens, labels, key, train=False))(variables)
        numbers = jax.device_get(jax.jit(logits)(variables))
        greedy = SampleConfig(temperature=0.0)
        label = jnp.asarray(pack['sample_label'])
        draw = jax.jit(lambda v: smaller.sample_sequence(v, label, key, jnp.zeros(1, jnp.int32), greedy))
        sampled = jax.device_get(draw(variables))
        fine = jax.jit(lambda v: smaller.network.apply(v, method=in_the_fine_part))(variables)
    yield Case(
        pack,
        sum(x.size for x in jax.tree.leaves(variables)),
        model.ignored,
        back == given,
        {'loss': float(loss.loss)} | {name: float(x) for name, x in loss.metrics.items()},
        numbers,
        sampled,
        np.asarray(fine),
    )
    del model, variables
    gc.collect()


def test_every_weight_has_its_place_and_comes_back_bit_for_bit(case):
    assert case.parameters == case.pack.manifest['n_params']
    assert case.ignored == ()
    assert case.same_weights


@pytest.mark.parametrize('order', ['row', 'region'])
def test_sequences_are_the_official_ones(order):
    pack = load_pack('dq_transformer')
    kind = '' if order == 'row' else 'region_'
    from_spec = vistok.TokenSpec((1024,), 8, grains=(1, 2))
    sequences = GrainSequences.of(from_spec, (8, 8), 1000, position_sizes=TABLES, order=order, layout='official')
    tokens = recorded_tokens(pack)
    sequence = sequences.encode(tokens, jnp.asarray(pack['labels']))
    content = [pack['sos_coarse'], pack['perm_coarse_content'], pack['sos_fine'], pack[f'perm_{kind}fine_content']]
    position = [
        pack['sos_pos_coarse'], pack['perm_coarse_position'], pack['sos_pos_fine'], pack[f'perm_{kind}fine_position']
    ]  # fmt: skip
    content, position = np.concatenate(content, axis=1), np.concatenate(position, axis=1)
    segment = np.concatenate(
        [0 * content[:, :1], pack['perm_coarse_segment'], content[:, :1] ** 0, pack['perm_fine_segment']], 1
    )
    n = content.shape[1]
    np.testing.assert_array_equal(sequence.content[:, :n], content)
    np.testing.assert_array_equal(sequence.position[:, :n], position)
    np.testing.assert_array_equal(sequence.segment[:, :n], segment)
    np.testing.assert_array_equal(sequence.index[0], np.arange(sequences.length))
    assert (np.asarray(sequence.content[:, n:]) == sequences.contents.pad).all()
    restored = sequences.decode(sequence)
    np.testing.assert_array_equal(restored.ids[..., 0], pack['perm_back'])
    np.testing.assert_array_equal(restored.grain, tokens.grain)


def test_sequences_of_the_full_size_are_the_official_ones():
    pack = load_pack('dq_transformer')
    sequences = GrainSequences.of(vistok.TokenSpec((1024,), 8, grains=(1, 2)), (32, 32), 1000, layout='official')
    tokens = recorded_tokens(pack, 'perm16_indices', 'perm16_grain')
    sequence = sequences.encode(tokens, jnp.zeros(1, jnp.int32))
    middle = 1 + pack['perm16_coarse_content'].shape[1]
    end = middle + 1 + pack['perm16_fine_content'].shape[1]
    for kind in ('content', 'position'):
        pairs = getattr(sequence, kind)
        np.testing.assert_array_equal(pairs[:, 1:middle], pack[f'perm16_coarse_{kind}'])
        np.testing.assert_array_equal(pairs[:, middle + 1 : end], pack[f'perm16_fine_{kind}'])


def test_losses_are_the_official_ones(case):
    of = case.loss
    ours = {
        'position_loss': of['position'],
        'content_loss': of['content'],
        'coarse_position_loss': of['position/grain_2'],
        'fine_position_loss': of['position/grain_1'],
    }
    for name, value in ours.items():
        np.testing.assert_allclose(value, case.pack[f'loss_{name}'], rtol=2e-5, err_msg=name)
    np.testing.assert_allclose(of['loss'], of['position'] + of['content'], rtol=1e-6)


@pytest.mark.parametrize('kind', ['content', 'position'])
def test_logits_are_the_official_ones(case, kind):
    ours, pack = case.logits[kind], case.pack
    np.testing.assert_allclose(ours[0, pack['logits_positions']], pack[f'{kind}_logits_full'], atol=2e-5)
    np.testing.assert_allclose(ours[..., pack['logits_columns']], pack[f'{kind}_logits_columns'], atol=2e-5)
    total = np.log(np.exp(ours.astype(np.float64)).sum(-1))
    np.testing.assert_allclose(total, pack[f'{kind}_logsumexp'], atol=2e-5)


def test_the_greedy_sample_has_the_official_positions_and_coarse_contents(case):
    coarse, fine = case.pack['sample_coarse_position'][0], case.pack['sample_fine_position'][0]
    position, content = case.sampled.position[0], case.sampled.content[0]
    middle = 1 + len(coarse)
    np.testing.assert_array_equal(position[1:middle], coarse)
    np.testing.assert_array_equal(content[1:middle], case.pack['sample_coarse_content'][0])
    np.testing.assert_array_equal(position[middle + 1 :][: len(fine)], fine)


def test_the_greedy_fine_contents_are_the_official_ones_when_told_the_official_positions(case):
    codes = case.pack['sample_fine_content'][0][:-1]
    first = 1 + len(case.pack['sample_coarse_position'][0])
    logits = case.contents_of_the_official_sampler[first : first + len(codes), :1024]
    np.testing.assert_array_equal(logits.argmax(axis=-1), codes)
