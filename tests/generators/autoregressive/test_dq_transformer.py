"""Sequences of grains, and DQ-Transformer, tiny."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_packs import random_variables

from vistok.generators.autoregressive.dq_transformer import DQTransformer
from vistok.generators.autoregressive.grain_sequence import LAYOUTS, ORDERS, GrainSequences
from vistok.generators.generator import SampleConfig
from vistok.tokenizers.tokenizer import Tokens, TokenSpec

DUAL = TokenSpec((7,), 8, grains=(1, 2))
TRIPLE = TokenSpec((7,), 8, grains=(1, 2, 4))
KEY = jax.random.key(3)


def random_tokens(spec, grid, rows, seed=0):
    """Grids whose first two rows are all fine and all coarse."""
    rng = np.random.default_rng(seed)
    coarsest = max(spec.grains)
    choice = rng.choice(spec.grains, (rows, grid[0] // coarsest, grid[1] // coarsest))
    choice[0], choice[1] = min(spec.grains), coarsest
    grain = choice.repeat(coarsest, 1).repeat(coarsest, 2)
    ids = rng.integers(0, spec.codebook_sizes[0], (rows, *grid))
    for side in spec.grains:
        ids = np.where(grain == side, ids[:, ::side, ::side].repeat(side, 1).repeat(side, 2), ids)
    return Tokens(jnp.asarray(ids, jnp.int32)[..., None], jnp.asarray(grain, jnp.int32))


@pytest.mark.parametrize('spec', [DUAL, TRIPLE])
@pytest.mark.parametrize('order', ORDERS)
@pytest.mark.parametrize('layout', LAYOUTS)
def test_what_is_written_can_be_read_again(spec, order, layout):
    sequences = GrainSequences.of(spec, (8, 12), 3, order=order, layout=layout)
    tokens = random_tokens(spec, (8, 12), 12)
    write_and_read = jax.jit(lambda t: (s := sequences.encode(t, jnp.arange(12) % 3), sequences.decode(s)))
    sequence, restored = write_and_read(tokens)
    np.testing.assert_array_equal(restored.ids, tokens.ids)
    np.testing.assert_array_equal(restored.grain, tokens.grain)
    assert int(sequence.index.max()) < sequences.index_rows
    # Each code is written once: a block of side s holds s * s positions.
    np.testing.assert_allclose(sequences.is_cell(sequence).sum(1), (1 / tokens.grain**2).sum((1, 2)), rtol=1e-6)


def test_a_compact_sequence_does_not_depend_on_the_rest_of_the_batch_and_is_padded_at_its_end():
    sequences = GrainSequences.of(TRIPLE, (8, 8), 3)
    tokens = random_tokens(TRIPLE, (8, 8), 5)
    write = jax.jit(sequences.encode)
    together = write(tokens, jnp.arange(5) % 3)
    alone = write(jax.tree.map(lambda x: x[3:4], tokens), jnp.asarray([0]))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[3:4], b), together, alone)
    padding = np.asarray(together.content) == sequences.contents.pad
    assert (padding == np.sort(padding, axis=1)).all()
    assert not padding[0].any()  # the longest: all fine


def test_tokens_that_have_no_such_sequences_are_refused():
    with pytest.raises(ValueError, match='several grains'):
        GrainSequences.of(TokenSpec((7,), 8), (4, 4), 1)
    with pytest.raises(ValueError, match='whole cells'):
        GrainSequences.of(DUAL, (4, 5), 1)
    with pytest.raises(ValueError, match='unknown layout'):
        GrainSequences.of(DUAL, (4, 4), 1, layout='loose')
    with pytest.raises(ValueError, match='tokens with grains'):
        GrainSequences.of(DUAL, (4, 4), 1).encode(Tokens(jnp.zeros((1, 4, 4, 1), jnp.int32)), jnp.zeros(1, jnp.int32))


def tiny(spec=DUAL, grid=(4, 4), **changes):
    return DQTransformer(spec, grid, 3, position_layers=1, content_layers=2, heads=2, width=16, **changes)


@functools.cache
def variables_of(generator):
    return random_variables(jax.eval_shape(generator.init, KEY))


def test_dropped_attention_weights_change_training_and_nothing_else():
    whole = tiny(dropout=0.0, condition_dropout=0.0)
    dropping = dataclasses.replace(whole, attention_dropout=0.5)
    variables, tokens = variables_of(whole), random_tokens(DUAL, whole.grid, 4)

    def loss(generator, key, train):
        return float(generator.loss(variables, tokens, jnp.zeros(4, jnp.int32), key, train=train).loss)

    other = jax.random.key(4)
    assert loss(dropping, KEY, False) == loss(whole, KEY, False) == loss(whole, other, True)
    assert len({loss(dropping, KEY, True), loss(dropping, other, True), loss(whole, KEY, True)}) == 3


@functools.partial(jax.jit, static_argnums=(0, 1))
def compiled(generator, config, variables, labels, ids):
    return generator.sample_sequence(variables, labels, KEY, ids, config)


def drawn(generator, config, labels=(0, 1, 2, 1), ids=(0, 1, 2, 3)):
    labels, ids = jnp.asarray(labels, jnp.int32), jnp.asarray(ids, jnp.int32)
    return compiled(generator, config, variables_of(generator), labels, ids)


@pytest.mark.parametrize(
    'generator',
    [tiny(), tiny(TRIPLE, (4, 8), order='region'), tiny(finest_positions='remaining', layout='official')],
    ids=['drawn', 'triple', 'remaining'],
)
def test_samples_are_whole_grids(generator):
    config = SampleConfig(temperature=1.3, top_k=5, second=SampleConfig(top_p=0.9))
    sequence = drawn(generator, config)
    turned = drawn(generator, config, labels=(1, 2, 1, 0), ids=(3, 2, 1, 0))  # rows do not see each other
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x[::-1], y), sequence, turned)
    tokens = jax.jit(generator.sequences.decode)(sequence)
    grain, ids = np.asarray(tokens.grain), np.asarray(tokens.ids)[..., 0]
    assert 0 <= ids.min() <= ids.max() < 7
    coarsest = max(generator.spec.grains)
    for side in generator.spec.grains:
        wide = grain[:, ::coarsest, ::coarsest].repeat(coarsest, 1).repeat(coarsest, 2)
        np.testing.assert_array_equal(grain, wide)
        blocks = ids[:, ::side, ::side].repeat(side, 1).repeat(side, 2)
        np.testing.assert_array_equal(ids[grain == side], blocks[grain == side])
    # Every cell is named once, by as many pairs as the grid has codes.
    codes = (1 / grain.astype(np.float64) ** 2).sum((1, 2))
    np.testing.assert_allclose(generator.sequences.is_cell(sequence).sum(1), codes)
    if generator.finest_positions == 'remaining':
        fine = np.asarray(sequence.position[0])[
            np.asarray(generator.sequences.is_cell(sequence) & (sequence.segment == 1))[0]
        ]
        assert (np.diff(fine) > 0).all()


def test_each_greedy_choice_is_the_best_in_one_pass_over_the_whole_sequence():
    generator, scale = tiny(), 2.5
    labels = jnp.asarray([0, 1, 2, 1])
    sequence = drawn(generator, SampleConfig(temperature=0.0, guidance_scale=scale))
    grammar, sequences = generator.grammar, generator.sequences
    variables = variables_of(generator)
    logits = jax.jit(lambda s: generator.network.apply(variables, s, method='logits'))
    wanted, null = (logits(grammar.with_labels(sequence, label)) for label in (labels, jnp.full(4, 3)))
    mixed = jax.tree.map(lambda c, n: np.asarray(n + scale * (c - n)), wanted, null)
    cell = np.asarray(sequences.is_cell(sequence))
    position, content = np.asarray(sequence.position), np.asarray(sequence.content)
    for row, place in zip(*np.nonzero(cell), strict=True):
        assert content[row, place] == mixed['content'][row, place - 1, :7].argmax()
        seen = mixed['position'][row, place - 1]
        assert seen[position[row, place]] >= seen[position[row, place + 1]] or not cell[row, place + 1]


def test_guidance_needs_a_null_class():
    with pytest.raises(ValueError, match='condition_dropout'):
        drawn(tiny(condition_dropout=0.0), SampleConfig(guidance_scale=2.0))


def test_the_loss_counts_each_code_and_each_end_once():
    generator = tiny(dropout=0.0)
    variables = variables_of(generator)
    sequences = generator.sequences
    tokens, labels = random_tokens(DUAL, (4, 4), 4), jnp.asarray([0, 1, 2, 0])
    result = jax.jit(lambda v: generator.loss(v, tokens, labels, KEY, train=False))(variables)
    sequence = jax.jit(sequences.encode)(tokens, labels)
    logits = jax.jit(lambda v: generator.network.apply(v, sequence, method='logits'))(variables)
    cell, segment = (np.asarray(x)[:, 1:] for x in (sequences.is_cell(sequence), sequence.segment))
    position, content = np.asarray(sequence.position)[:, 1:], np.asarray(sequence.content)[:, 1:]
    nll = {
        kind: -np.take_along_axis(np.asarray(jax.nn.log_softmax(logits[kind])), ids[..., None], -1)[..., 0]
        for kind, ids in (('position', position), ('content', content))
    }
    ends = position == np.asarray([words.end for words in sequences.positions])[segment]
    assert ends.sum() == 8
    np.testing.assert_allclose(result.metrics['content'], nll['content'][cell].mean(), rtol=1e-5)
    by_part = [nll['position'][(cell | ends) & (segment == p)].mean() for p in (0, 1)]
    np.testing.assert_allclose(result.metrics['position/grain_2'], by_part[0], rtol=1e-5)
    np.testing.assert_allclose(result.loss, nll['content'][cell].mean() + np.mean(by_part), rtol=1e-5)
    bits = (nll['content'][cell].sum() + nll['position'][cell | ends].sum()) / cell.sum() / np.log(2)
    np.testing.assert_allclose(result.metrics['bits_per_token'], bits, rtol=1e-5)


def test_fresh_weights_guess_uniformly():
    generator = tiny()
    tokens, labels = random_tokens(DUAL, (4, 4), 4), jnp.asarray([0, 1, 2, 0])
    loss = jax.jit(lambda: generator.loss(generator.init(KEY), tokens, labels, KEY, train=True).loss)()
    words = (generator.sequences.contents.total, generator.sequences.positions[-1].total)
    np.testing.assert_allclose(loss, np.log(words).sum(), rtol=0.05)


def test_half_precision_keeps_parameters_and_loss_in_float32():
    generator = dataclasses.replace(tiny(), dtype=jnp.bfloat16)
    shapes = jax.eval_shape(generator.init, KEY)
    assert {x.dtype for x in jax.tree.leaves(shapes)} == {jnp.dtype('float32')}
    tokens = random_tokens(DUAL, (4, 4), 4)
    labels = jnp.zeros(4, jnp.int32)
    loss = jax.eval_shape(lambda v: generator.loss(v, tokens, labels, KEY, train=False).loss, shapes)
    assert loss.dtype == jnp.float32
