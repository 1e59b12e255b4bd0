"""Weights come through the rules unchanged, both ways, and every mismatch is reported."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vistok.weights.rules import (
    CHANNELS,
    CONV,
    LINEAR,
    POINTWISE,
    ConversionError,
    Rule,
    concatenate_sources,
    to_official,
    to_ours,
)

RULES = (
    Rule('stem.weight', 'params/stem/kernel', CONV),
    Rule('blocks.{i}.{part:fc1|fc2}.weight', 'params/block_{i}/{part:fc1|fc2}/kernel', LINEAR),
    Rule('blocks.{i}.{part:fc1|fc2}.bias', 'params/block_{i}/{part:fc1|fc2}/bias'),
    Rule('proj.weight', 'params/proj/kernel', POINTWISE),
    Rule('shift', 'params/shift', CHANNELS),
    Rule(('q.weight', 'k.weight', 'v.weight'), 'params/qkv/kernel', concatenate_sources(3, LINEAR)),
)
SHAPES = {
    'stem.weight': (4, 3, 2, 5),
    'blocks.0.fc1.weight': (6, 4),
    'blocks.0.fc1.bias': (6,),
    'blocks.0.fc2.weight': (4, 6),
    'blocks.0.fc2.bias': (4,),
    'blocks.11.fc1.weight': (6, 4),
    'blocks.11.fc1.bias': (6,),
    'proj.weight': (7, 4, 1, 1),
    'shift': (1, 3, 1, 1),
    'q.weight': (2, 4),
    'k.weight': (2, 4),
    'v.weight': (2, 4),
}


@pytest.fixture
def state_dict():
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in SHAPES.items()}


@pytest.fixture
def shapes():
    def leaf(*shape):
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    dense = {'kernel': leaf(4, 6), 'bias': leaf(6)}
    return {
        'params': {
            'stem': {'kernel': leaf(2, 5, 3, 4)},
            'block_0': {'fc1': dense, 'fc2': {'kernel': leaf(6, 4), 'bias': leaf(4)}},
            'block_11': {'fc1': dense},
            'proj': {'kernel': leaf(4, 7)},
            'shift': leaf(3),
            'qkv': {'kernel': leaf(4, 6)},
        }
    }


def test_convolution_computes_the_same_in_our_layout(state_dict, shapes):
    kernel = to_ours(RULES, state_dict, shapes).variables['params']['stem']['kernel']
    image = np.random.default_rng(1).standard_normal((2, 6, 3), dtype=np.float32)[..., :5, :]
    ours = np.einsum('hwi,hwio->o', image, kernel)
    official = np.einsum('hwi,oihw->o', image, state_dict['stem.weight'])
    np.testing.assert_allclose(ours, official, rtol=1e-5)


def test_joined_parts_stand_side_by_side_in_order(state_dict, shapes):
    kernel = to_ours(RULES, state_dict, shapes).variables['params']['qkv']['kernel']
    x = np.arange(4, dtype=np.float32)
    expected = np.concatenate([state_dict[f'{part}.weight'] @ x for part in 'qkv'])
    np.testing.assert_allclose(x @ kernel, expected, rtol=1e-5)


def test_every_value_comes_back_bit_for_bit(state_dict, shapes):
    back = to_official(RULES, to_ours(RULES, state_dict, shapes).variables)
    assert set(back) == set(state_dict)
    for name, value in state_dict.items():
        assert back[name].dtype == value.dtype
        np.testing.assert_array_equal(back[name], value)


def test_result_does_not_share_memory_with_the_source(state_dict, shapes):
    variables = to_ours(RULES, state_dict, shapes).variables
    before = variables['params']['block_0']['fc1']['bias'].copy()
    state_dict['blocks.0.fc1.bias'][:] = 7
    np.testing.assert_array_equal(variables['params']['block_0']['fc1']['bias'], before)


def test_ignored_entries_are_named(state_dict, shapes):
    state_dict['loss.vgg.weight'] = np.zeros(3)
    converted = to_ours(RULES, state_dict, shapes, ignore=('loss.*',))
    assert converted.ignored == ('loss.vgg.weight',)


def test_all_mismatches_are_reported_together(state_dict, shapes):
    del state_dict['blocks.0.fc2.bias']
    state_dict['stem.weight'] = np.zeros((4, 3, 9, 9), np.float32)
    state_dict['surprise.weight'] = np.zeros(3)
    state_dict['proj.weight'] = np.zeros(7, np.float32)
    with pytest.raises(ConversionError) as error:
        to_ours(RULES, state_dict, shapes)
    message = str(error.value)
    assert message.startswith('4 entries do not fit')
    for part in (
        'params/block_0/fc2/bias [4]: nothing given',
        'stem.weight [4, 3, 9, 9]: makes [9, 9, 3, 4]',
        'surprise.weight [3]: no place',
        'proj.weight [7]: not the layout',
    ):
        assert part in message


def test_an_incomplete_join_is_refused(state_dict, shapes):
    del state_dict['k.weight']
    with pytest.raises(ConversionError, match=r'params/qkv/kernel \[4, 6\]: nothing given'):
        to_ours(RULES, state_dict, shapes)


def test_a_long_list_of_mismatches_is_cut(state_dict, shapes):
    state_dict |= {f'blocks.{i}.fc1.bias': np.zeros(6) for i in range(20, 31)} | {
        f'x{i}': np.zeros(1) for i in range(3)
    }
    with pytest.raises(ConversionError, match='14 entries do not fit') as error:
        to_ours(RULES, {**state_dict, 'stem.bias': np.zeros(1)}, shapes, ignore=('stem.bias',))
    assert '... and 2 more' in str(error.value)


def test_weights_of_another_model_are_answered_in_one_sentence(shapes):
    foreign = {f'layer.{i}.weight': np.zeros((2, 2)) for i in range(40)}
    with pytest.raises(ConversionError, match='weights of another model') as error:
        to_ours(RULES, foreign, shapes)
    assert '\n' not in str(error.value)
    assert 'stem.weight' in str(error.value)


def test_two_rules_for_one_entry_are_refused(state_dict, shapes):
    with pytest.raises(ConversionError, match='shift: 2 rules fit'):
        to_ours((*RULES, Rule('shift', 'params/other')), state_dict, shapes)


def test_two_entries_for_one_variable_are_refused(state_dict, shapes):
    state_dict['old_shift'] = state_dict['shift']
    with pytest.raises(ConversionError, match='params/shift is filled twice'):
        to_ours((*RULES, Rule('old_shift', 'params/shift', CHANNELS)), state_dict, shapes)


def test_a_variable_without_official_name_is_refused(state_dict, shapes):
    variables = to_ours(RULES, state_dict, shapes).variables
    variables['params']['new'] = {'bias': np.zeros(2)}
    with pytest.raises(ConversionError, match='params/new/bias: no rules fit'):
        to_official(RULES, variables)


def test_rules_with_different_placeholders_are_refused():
    with pytest.raises(ValueError, match='placeholders'):
        Rule('a.{i}.weight', 'params/a/kernel')


def test_numbers_do_not_match_longer_names():
    rule = Rule('a.{i}', 'params/a_{i}')
    assert to_official((rule,), {'params': {'a_12': np.zeros(1)}}).keys() == {'a.12'}
    with pytest.raises(ConversionError):
        to_official((rule,), {'params': {'a_12b': np.zeros(1)}})
