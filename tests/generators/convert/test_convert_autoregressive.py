"""Conversion of small autoregressive generators: sizes read from shapes, both directions, weights that do not fit."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from golden_packs import random_variables

import vistok
from vistok.experiments import official_models
from vistok.generators.autoregressive.far import FAR
from vistok.generators.autoregressive.llamagen import LlamaGen
from vistok.generators.autoregressive.vqgan_lc_gpt import VQGANLCGPT
from vistok.tokenizers.tokenizer import TokenSpec
from vistok.weights.rules import ConversionError

SIZES = {'layers': 2, 'heads': 2, 'width': 128, 'mlp_width': 8}
ONE = TokenSpec((6,), 16)
MODELS = {
    'class': ('llamagen_gpt', LlamaGen(ONE, (16, 16), 3, **SIZES)),
    'text': ('llamagen_gpt', LlamaGen(ONE, (16, 16), 0, **SIZES, text_tokens=2, text_width=5)),
    'dual': ('fqgan_far', FAR(TokenSpec((6, 5), 16, ('vis', 'sem')), (16, 16), 3, **SIZES, head_layers=1)),
    'triple': (
        'fqgan_far',
        FAR(TokenSpec((6, 5, 4), 16, ('vis', 'sem_mid', 'sem_high')), (16, 16), 3, **SIZES, head_layers=3),
    ),
    'gpt': ('vqgan_lc_gpt', VQGANLCGPT(ONE, (3, 3), 1000, **SIZES)),
}


@functools.cache
def made(name):
    official, generator = MODELS[name]
    variables = random_variables(jax.eval_shape(generator.init, jax.random.key(0)))
    return variables, official_models.export_variables(official, variables)


@pytest.mark.parametrize('name', MODELS)
def test_sizes_are_read_from_the_shapes_and_weights_come_back(name):
    official, generator = MODELS[name]
    variables, state_dict = made(name)
    model = vistok.from_official(official, state_dict)
    assert model.generator == generator
    assert jax.tree.structure(model.variables) == jax.tree.structure(variables)
    jax.tree.map(np.testing.assert_array_equal, model.variables, variables)


def test_what_weights_do_not_tell_can_be_said():
    model = vistok.from_official('llamagen_gpt', made('class')[1], grid=(24, 24), heads=4, cond_rope='identity')
    assert model.generator == dataclasses.replace(MODELS['class'][1], grid=(24, 24), heads=4, cond_rope='identity')


def test_a_stale_rotary_table_is_ignored_by_name():
    model = vistok.from_official('llamagen_gpt', made('class')[1] | {'freqs_cis': np.zeros((257, 32, 2))})
    assert model.ignored == ('freqs_cis',)


@pytest.mark.parametrize(
    ('official', 'name', 'message'),
    [
        ('llamagen_gpt', 'dual', "there is no 'tok_embeddings.weight'"),
        ('fqgan_far', 'class', "there is no 'tok_embeddings_1.weight'"),
        ('vqgan_lc_gpt', 'class', "there is no 'transformer.tok_emb.weight'"),
    ],
)
def test_weights_of_another_model_are_refused(official, name, message):
    with pytest.raises(ConversionError, match=message):
        vistok.from_official(official, made(name)[1])


def test_a_missing_layer_is_named():
    broken = {name: x for name, x in made('class')[1].items() if not name.startswith('layers.1.attention.wo')}
    with pytest.raises(ConversionError, match='decoder/layers/attention/out/kernel'):
        vistok.from_official('llamagen_gpt', broken)
