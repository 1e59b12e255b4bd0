"""Released generators run: from official files to images, by commands and by Python, and runs become official files."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_packs import load_pack, random_variables
from PIL import Image
from run_command import run_command

import vistok
from vistok.errors import UserError
from vistok.experiments import initial_weights, official_models
from vistok.generators.autoregressive.dq_transformer import DQTransformer
from vistok.generators.autoregressive.far import FAR
from vistok.generators.autoregressive.llamagen import LlamaGen
from vistok.generators.diffusion.vq_ddm import VQDDM
from vistok.generators.generator import SampleConfig
from vistok.generators.masked.mage import MAGE
from vistok.generators.trained import TrainedGenerator
from vistok.tokenizers.dq_vae import DQVAE
from vistok.tokenizers.fqgan import FQGAN
from vistok.tokenizers.tokenizer import Tokens, TokenSpec
from vistok.tokenizers.trained import TrainedTokenizer
from vistok.tokenizers.vqgan import VQGAN
from vistok.weights.files import write_state_dict

NETWORK = {'channels': 8, 'channel_multipliers': (1, 1), 'res_blocks': 1, 'latent_channels': 8}
LLAMA = {'layers': 1, 'heads': 1, 'width': 64, 'mlp_width': 8}
BERT = {'width': 64, 'encoder_layers': 1, 'encoder_heads': 1, 'decoder_layers': 1, 'decoder_heads': 1}


def one_codebook(size):
    return VQGAN(**NETWORK, codebook_size=size, codebook_dim=4)


CASES = {  # official name -> generator whose weights become an official file, tokenizer, what the file does not tell
    'llamagen_gpt': (LlamaGen(TokenSpec((8,), 16), (4, 4), 3, **LLAMA), one_codebook(8), {'grid': (4, 4)}),
    'fqgan_far': (
        FAR(TokenSpec((8, 8), 16, ('vis', 'sem')), (4, 4), 3, **LLAMA, head_layers=1),
        FQGAN(
            codebook_size=8, codebook_dim=4, teachers=('', ''), image_size=8, adapter_layers=1, adapter_heads=1,
            **NETWORK,
        ),
        {'grid': (4, 4)},
    ),
    'mage': (
        MAGE(TokenSpec((1024,), 16), (16, 16), 0, **BERT, codes_only=False, label_rows=1000, null_row=76),
        one_codebook(1024),
        {},
    ),
    'vq_ddm': (
        VQDDM(
            TokenSpec((8,), 16), (4, 4), 0, channels=32, channel_multipliers=(1, 1), official=True, timesteps=4000,
        ),
        one_codebook(8),
        {'grid': (4, 4)},
    ),
    'dq_transformer': (
        DQTransformer(
            TokenSpec((8,), 8, grains=(1, 2)), (4, 4), 3, position_layers=1, content_layers=1, heads=8, width=16,
            condition_dropout=0.0, layout='official', place_rows=64,
        ),
        DQVAE(**NETWORK, codebook_size=8, codebook_dim=4, image_size=8),
        {},
    ),
}  # fmt: skip
SLOW = ('mage', 'vq_ddm', 'dq_transformer')


@pytest.fixture(scope='module', params=[pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in CASES])
def released(request, tmp_path_factory):
    """Official name, its file, the file of a tokenizer of its tokens, and what the weights do not tell."""
    name, folder = request.param, tmp_path_factory.mktemp('released')
    generator, module, untold = CASES[name]
    variables = random_variables(jax.eval_shape(generator.init, jax.random.key(0)))
    if name == 'vq_ddm':  # statistics of training count steps
        variables['diffusion_stats'] = jax.tree.map(jnp.abs, variables['diffusion_stats'])
    write_state_dict(folder / 'official.safetensors', official_models.export_variables(name, variables))
    image = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
    tokenizer = TrainedTokenizer(
        module, random_variables(jax.eval_shape(lambda x: module.init(jax.random.key(0), x), image))
    )
    vistok.save(tokenizer, folder / 'tokenizer.safetensors')
    return name, folder, untold


def test_an_official_file_becomes_images_by_commands_and_by_python_alike(released, tmp_path, capsys):
    name, folder, untold = released
    source = folder / 'official.safetensors'
    grid = [f'--grid={",".join(map(str, untold["grid"]))}'] if untold else []
    converted, tokenizer = tmp_path / 'generator.safetensors', folder / 'tokenizer.safetensors'
    assert run_command('convert', f'--name={name}', f'--model={source}', f'--out={converted}', *grid) == 0
    options = ['--steps=2'] if name in ('mage', 'vq_ddm') else []
    model, out = f'--model={converted}', f'--out={tmp_path}/images/'
    assert run_command('sample', model, f'--tokenizer={tokenizer}', out, '--per_class=1', '--seed=5', *options) == 0
    written = [np.asarray(Image.open(path)) for path in sorted((tmp_path / 'images').iterdir())]

    opened = vistok.load(tokenizer)
    generator = vistok.from_official(name, source, tokenizer=opened, **untold)
    images = generator.sample(seed=5, **({'steps': 2} if options else {}))
    assert generator.generator.grid == (untold or {'grid': generator.generator.grid})['grid']
    assert len(images) == len(written) == max(1, generator.generator.num_classes)
    assert max(np.abs(a.astype(int) - b).max() for a, b in zip(images, written, strict=True)) <= 1  # two programs
    if name == 'llamagen_gpt':
        assert vistok.load(converted).generator.grid == (4, 4)
        assert run_command('sample', model, out) == 1
        assert 'a generator without its tokenizer: name it, --tokenizer=' in capsys.readouterr().err


def test_a_run_starts_from_an_official_file_and_a_model_goes_back_to_it(released, tmp_path):
    name, folder, untold = released
    source = folder / 'official.safetensors'
    model = vistok.from_official(name, source, **untold)
    kind = {'fqgan_far': 'far', 'llamagen_gpt': 'llamagen'}.get(name, name)
    given = initial_weights.read_weights(source, kind)['generator']
    jax.tree.map(np.testing.assert_array_equal, given['params'], jax.device_get(model.variables['params']))
    back = vistok.to_official(model, tmp_path / 'back.safetensors')
    official = official_models.read_state_dict(source)
    assert official_models.read_state_dict(tmp_path / 'back.safetensors').keys() == back.keys() == official.keys()
    for entry, value in back.items():
        np.testing.assert_array_equal(value, official[entry])


def test_a_converted_generator_is_the_prior_of_a_codec(released, tmp_path):
    name, folder, untold = released
    if name != 'llamagen_gpt':
        pytest.skip('the other small tokenizers here are not made for it')
    vistok.convert(folder / 'official.safetensors', tmp_path / 'gpt.safetensors', name, **untold)
    codec = vistok.codec(folder / 'tokenizer.safetensors', prior=tmp_path / 'gpt.safetensors')
    assert codec.network is not None
    image = np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)
    data = codec.compress(image)
    np.testing.assert_array_equal(codec.unpack(data).tokens.ids, codec.encode(image).ids)


def test_a_model_that_no_official_layout_holds_is_refused(tmp_path):
    shared = dataclasses.replace(CASES['llamagen_gpt'][0], output_vectors=4)
    with pytest.raises(UserError, match=r'this LlamaGen fits no official layout: not llamagen_gpt: '):
        vistok.to_official(TrainedGenerator(shared, shared.init(jax.random.key(0))), tmp_path / 'a.safetensors')
    assert not (tmp_path / 'a.safetensors').exists()


@pytest.mark.slow
@pytest.mark.parametrize('suffix', ['.safetensors', '.pt'])
def test_official_files_of_the_published_size_give_the_greedy_tokens_of_the_official_code(tmp_path, suffix):
    if suffix == '.pt':
        pytest.importorskip('torch')
    gpt, vq = load_pack('llamagen_gpt_b'), load_pack('llamagen_vq16')
    write_state_dict(tmp_path / f'gpt{suffix}', gpt.state_dict())
    write_state_dict(tmp_path / f'vq{suffix}', vq.state_dict())
    for name, what in (('gpt', ['--name=llamagen_gpt', '--grid=2,16']), ('vq', ['--name=llamagen_vq16'])):
        arguments = [f'--model={tmp_path}/{name}{suffix}', f'--out={tmp_path}/{name}.ours.safetensors', *what]
        assert run_command('convert', *arguments) == 0
        Path(tmp_path / f'{name}{suffix}').unlink()
    generator = vistok.load(tmp_path / 'gpt.ours.safetensors', tokenizer=tmp_path / 'vq.ours.safetensors')
    label = int(gpt['labels'][0])
    tokens = generator.sample_tokens([label], config=SampleConfig(temperature=0.0, guidance_scale=4.0)).ids
    expected = gpt['greedy_cfg4'][0].reshape(-1)[: tokens.size]
    np.testing.assert_array_equal(np.asarray(tokens).reshape(-1), expected)
    decoded = generator.tokenizer.decode(Tokens(expected.reshape(1, 2, 16, 1).astype(np.int32)))
    images = generator.sample([label], temperature=0.0, guidance_scale=4.0)
    assert np.abs(images.astype(float) - np.clip(127.5 * np.asarray(decoded) + 128, 0, 255)).max() <= 1.5
    arguments = [f'--model={tmp_path}/gpt.ours.safetensors', f'--tokenizer={tmp_path}/vq.ours.safetensors']
    options = [f'--classes={label}', '--per_class=1', '--temperature=0', '--guidance_scale=4']
    assert run_command('sample', *arguments, *options, f'--out={tmp_path}/images/') == 0
    (path,) = (tmp_path / 'images').iterdir()
    assert np.abs(np.asarray(Image.open(path)).astype(int) - images[0]).max() <= 1
