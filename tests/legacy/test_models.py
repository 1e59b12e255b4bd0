"""Models of an earlier version: files, run folders and converted official weights load and give the same results."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
from legacy_files import DATA, EXPECTED, assert_close, assert_summary, waves

import vistok
from vistok.experiments.official_models import export_variables
from vistok.generators.generator import SampleConfig
from vistok.tokenizers.tokenizer import Tokens
from vistok.weights.files import is_ours, load_variables, read_state_dict
from vistok.weights.fingerprints import fingerprint_weights

CONVERTED = ('llamagen_gpt', 'patchgan')


@functools.cache
def load(name):
    return vistok.load(DATA / name)


def test_the_files_bear_the_earlier_name():
    for path in (
        *DATA.glob('models/*simvq*.safetensors'),
        *(DATA / f'converted/{name}.safetensors' for name in CONVERTED),
    ):
        assert b'tesserax' in path.read_bytes()[:20_000], path
        assert is_ours(path)


@pytest.mark.parametrize('name', EXPECTED['tokenizers'])
def test_a_tokenizer_is_as_it_was(name):
    model, expected = load(name), EXPECTED['tokenizers'][name]
    assert type(model.module).__name__ == expected['class']
    assert model.fingerprint == expected['fingerprint']
    assert fingerprint_weights(model.variables).hex() == expected['codec_fingerprint']
    tokens = model.encode(waves(2, 16, 16, 3))
    np.testing.assert_array_equal(np.asarray(tokens.ids)[..., 0], expected['ids'])
    assert_summary(model.decode(tokens), expected['decoded'])


def example_tokens(generator):
    side, _ = generator.grid
    ids = np.arange(2 * side * side) * 7 % generator.spec.codebook_sizes[0]
    return Tokens(ids.reshape(2, side, side, 1).astype(np.int32))


@pytest.mark.parametrize('name', EXPECTED['generators'])
def test_a_generator_is_as_it_was(name):
    model, expected = load(name), EXPECTED['generators'][name]
    assert type(model.generator).__name__ == expected['class']
    assert list(model.generator.grid) == expected['grid']
    result = model.loss(example_tokens(model.generator), [1, 3])
    assert_close(result.loss, expected['loss'])
    for metric, value in expected.get('metrics', {}).items():
        assert_close(result.metrics[metric], value)


def test_a_generator_samples_as_it_did():
    model, expected = load('runs/llamagen'), EXPECTED['generators']['runs/llamagen']
    assert model.generator.num_classes == expected['num_classes']
    assert model.class_names == tuple('0123456789')
    greedy = model.sample_tokens([0, 1, 2], config=SampleConfig(temperature=0.0))
    np.testing.assert_array_equal(np.asarray(greedy.ids)[..., 0], expected['greedy_ids'])
    drawn = model.sample_tokens([0, 1, 2], seed=5)
    np.testing.assert_array_equal(np.asarray(drawn.ids)[..., 0], expected['drawn_ids_seed_5'])


def test_a_converted_network_is_as_it_was():
    model, expected = load('converted/patchgan.safetensors'), EXPECTED['networks']['converted/patchgan.safetensors']
    assert type(model.module).__name__ == expected['class']
    output = model.module.apply(model.variables, jnp.asarray(waves(2, 32, 32, 3)), train=False)
    assert_summary(output, expected['output'])


@pytest.mark.parametrize('name', CONVERTED)
def test_a_converted_file_equals_the_official_file_converted_anew(name):
    official = read_state_dict(DATA / f'converted/{name}_official.safetensors')
    anew, saved = vistok.from_official(name, official), load(f'converted/{name}.safetensors')
    assert fingerprint_weights(anew.variables) == fingerprint_weights(saved.variables)
    written = export_variables(name, load_variables(DATA / f'converted/{name}.safetensors').variables)
    assert sorted(written) == sorted(official)
    for key, value in official.items():
        np.testing.assert_array_equal(written[key], value, err_msg=key)


def test_a_converted_generator_computes_as_one_converted_anew():
    saved = load('converted/llamagen_gpt.safetensors')
    anew = vistok.from_official('llamagen_gpt', read_state_dict(DATA / 'converted/llamagen_gpt_official.safetensors'))
    assert anew.generator == saved.generator
    tokens = example_tokens(saved.generator)
    np.testing.assert_array_equal(anew.loss(tokens, [1, 3]).loss, saved.loss(tokens, [1, 3]).loss)
