"""Files that describe their models: what comes back, and what is refused."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from run_command import run_command

import vistok
from vistok.errors import UserError
from vistok.experiments.saved_models import save_model
from vistok.generators.autoregressive.llamagen import LlamaGen
from vistok.generators.generator import SampleConfig
from vistok.generators.masked.addp import ADDP
from vistok.generators.masked.maskgit import MaskGIT
from vistok.generators.trained import TrainedGenerator
from vistok.tokenizers.maskgit_vqgan import MaskGITVQGAN
from vistok.tokenizers.tokenizer import TokenSpec
from vistok.tokenizers.trained import TrainedTokenizer
from vistok.tokenizers.vqgan import VQGAN
from vistok.weights.files import load_variables, save_variables

SPEC = TokenSpec((16,), 2)
OTHER = {'spec': SPEC, 'grid': (4, 4), 'num_classes': 3}


@pytest.fixture(scope='module')
def tokenizer():
    module = VQGAN(channels=8, channel_multipliers=(1, 1), res_blocks=1, latent_channels=8, codebook_size=16)
    return TrainedTokenizer(module, jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3))))


@pytest.fixture(scope='module')
def generator(tokenizer):
    model = LlamaGen(**OTHER, layers=1, heads=2, width=16, dtype=jnp.bfloat16)
    return TrainedGenerator(
        model,
        model.init(jax.random.key(1)),
        tokenizer=tokenizer,
        class_names=('cat', 'dog', 'owl'),
        sample_config=SampleConfig(guidance_scale=2.0, top_k=5, second=SampleConfig(top_p=0.5)),
    )


def edit_header(path, **changes):
    """Rewrites entries of a file's header and leaves its arrays as they are."""
    with safetensors.safe_open(path, 'np') as file:
        header = file.metadata()
    safetensors.numpy.save_file(safetensors.numpy.load_file(path), path, metadata={**header, **changes})


def test_a_generator_comes_back_with_all_that_sampling_needs(tmp_path, generator, tokenizer):
    save_model(generator, tmp_path / 'g.safetensors', {'data': 'three animals'})
    back = vistok.load(tmp_path / 'g.safetensors')
    assert back.generator == generator.generator
    assert back.generator.grid == (4, 4)
    assert back.class_names == generator.class_names
    assert back.sample_config == generator.sample_config
    assert back.tokenizer_fingerprint == tokenizer.fingerprint
    assert load_variables(tmp_path / 'g.safetensors').about['data'] == 'three animals'
    with pytest.raises(UserError, match='has no tokenizer'):
        back.sample()
    whole = vistok.load(tmp_path / 'g.safetensors', tokenizer=tokenizer)
    np.testing.assert_array_equal(whole.sample(['owl'], seed=4), generator.sample(['owl'], seed=4))
    assert whole.sample(['owl', 0], per_class=2).shape == (4, 8, 8, 3)


def test_a_generator_refuses_the_tokenizer_of_other_tokens(tmp_path, generator, tokenizer):
    save_model(generator, tmp_path / 'g.safetensors')
    other = dataclasses.replace(tokenizer, variables=jax.tree.map(lambda x: x + 1, tokenizer.variables))
    save_model(other, tmp_path / 'other.safetensors')
    with pytest.raises(UserError, match='is one for the tokenizer with the fingerprint'):
        vistok.load(tmp_path / 'g.safetensors', tokenizer=tmp_path / 'other.safetensors')
    official = dataclasses.replace(generator, tokenizer=None, tokenizer_fingerprint='')
    larger = VQGAN(channels=8, channel_multipliers=(1, 1), codebook_size=32)
    with pytest.raises(UserError, match=r'its codebook_sizes are \(32,\)'):
        official.with_tokenizer(TrainedTokenizer(larger, {}))


def test_models_inside_a_model_are_described_inside(tmp_path):
    module = MaskGITVQGAN(channels=8, channel_multipliers=(1, 1), res_blocks=1, codebook_size=16, codebook_dim=4)
    sizes = {'width': 16, 'encoder_layers': 1, 'encoder_heads': 2, 'decoder_layers': 1, 'decoder_heads': 2}
    predictor = MaskGIT(**OTHER, **sizes)
    model = ADDP(**OTHER, **sizes, tokenizer=module, predictor=predictor)
    save_model(TrainedGenerator(model, model.init(jax.random.key(0))), tmp_path / 'a.safetensors')
    assert vistok.load(tmp_path / 'a.safetensors').generator == model


def test_a_header_that_lies_about_shapes_is_refused_in_a_sentence(tmp_path, tokenizer):
    path = tmp_path / 't.safetensors'
    save_model(tokenizer, path)
    described = json.loads(load_variables(path).about['model'])
    edit_header(path, model=json.dumps({**described, 'channels': 16}))
    with pytest.raises(UserError, match=r'does not hold the model that it describes: params/.* has the shape'):
        vistok.load(path)
    edit_header(path, model=json.dumps({**described, 'channel_multipliers': [1, 1, 1]}))
    with pytest.raises(UserError, match='has no such array, but a VQGAN of these arguments has one'):
        vistok.load(path)
    edit_header(path, model=json.dumps({**described, 'name': 'vqgam'}))
    with pytest.raises(UserError, match=r"cannot be built: unknown model\.name 'vqgam'; known: vqgan"):
        vistok.load(path)
    edit_header(path, model='{')
    with pytest.raises(UserError, match=r'the description of the model in .* is damaged'):
        vistok.load(path)
    with pytest.raises(UserError, match='does not hold the model that it describes'):
        save_model(dataclasses.replace(tokenizer, module=tokenizer.module.clone(channels=16)), path)


def test_files_of_the_earlier_version_are_rebuilt_by_their_description(tmp_path, tokenizer):
    path = tmp_path / 't.safetensors'
    save_model(tokenizer, path)
    saved = load_variables(path)
    save_variables(path, saved.name, saved.variables, {'model': saved.about['model']})
    edit_header(path, format='tesserax')
    assert vistok.load(path).fingerprint == tokenizer.fingerprint


def test_a_generator_is_exported_by_the_command_and_halved(tmp_path, generator, tokenizer):
    save_model(generator, tmp_path / 'whole.safetensors')
    flags = [f'--model={tmp_path}/whole.safetensors', f'--out={tmp_path}/half.safetensors', '--half']
    assert run_command('export', *flags) == 0
    back = vistok.load(tmp_path / 'half.safetensors', tokenizer=tokenizer)
    assert back.generator == generator.generator
    assert (tmp_path / 'half.safetensors').stat().st_size < 0.7 * (tmp_path / 'whole.safetensors').stat().st_size
