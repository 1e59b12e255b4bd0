"""From images to a trained generator and its samples, on tiny models: what is kept, what goes on, what is refused."""

import functools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

import vistok
from vistok.data.images.byte_batches import open_byte_batches
from vistok.data.tokens.dataset import TokenSource
from vistok.errors import UserError
from vistok.experiments import assembly, registry, sampling, token_extraction, training
from vistok.experiments.config_files import load_config
from vistok.experiments.loading import load_tokenizer
from vistok.experiments.sampling import Plan, write_samples
from vistok.experiments.saved_models import save_model
from vistok.experiments.token_extraction import Extraction
from vistok.generators.class_labels import find_classes
from vistok.generators.generator import SampleConfig
from vistok.generators.objective import GeneratorObjective
from vistok.generators.trained import TrainedGenerator
from vistok.tokenizers.tokenizer import Tokens
from vistok.tokenizers.trained import TrainedTokenizer
from vistok.training.parallel import make_runner

NAMES = ('seven', 'three', 'two')


@functools.cache
def fresh_tokenizer(shift=0.0):
    """Untrained, 8x8 tokens for 16x16 pixels."""
    config = load_config('configs/vqgan.py:digits,tiny')
    module = registry.build_tokenizer(config.model)
    variables = jax.jit(lambda key: module.init(key, jnp.zeros((1, 16, 16, 3))))(jax.random.key(0))
    return TrainedTokenizer(module, jax.tree.map(lambda x: x + shift, variables))


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    """A folder of 36 training and 6 validation images."""
    folder = tmp_path_factory.mktemp('pictures')
    rng = np.random.default_rng(0)
    for split, count in (('train', 12), ('validation', 2)):
        for name in NAMES:
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                small = Image.fromarray(rng.integers(0, 256, (5, 5, 3), np.uint8))
                small.resize((20, 20), Image.Resampling.BICUBIC).save(folder / split / name / f'{i:02d}.png')
    return folder


@pytest.fixture(scope='module')
def tokenizer(tmp_path_factory):
    """A file with the untrained tokenizer."""
    path = tmp_path_factory.mktemp('tokenizer') / 'tiny.safetensors'
    save_model(fresh_tokenizer(), path)
    return path


@pytest.fixture(scope='module')
def extraction(images, tokenizer):
    def make(out, **changes):
        settings = {'image_size': 16, 'views': 'five_crop', 'batch_size': 48, 'part_size': 8, 'threads': 2} | changes
        return Extraction(load_tokenizer(tokenizer), str(images), out, **settings)

    return make


@pytest.fixture(scope='module')
def tokens(extraction, tmp_path_factory):
    out = tmp_path_factory.mktemp('tokens')
    assert extraction(out).run() == {}
    return out


def tiny(**overrides):
    config = load_config('configs/llamagen.py:tiny')
    config.optimizer.schedule = 'constant'
    config.train.devices = 1
    config.evaluate.batch_size = 6
    config.update_from_flattened_dict(overrides)
    return config


def on_images(tokenizer, images, **overrides):
    named = {'tokenizer': str(tokenizer), 'data.source': str(images), 'data.image_size': 16}
    return tiny(**(named | overrides))


@pytest.fixture(scope='module')
def run(tokens, tmp_path_factory):
    folder = tmp_path_factory.mktemp('runs') / 'llamagen'
    config = tiny(**{'data.source': f'tokens:{tokens}', 'train.steps': 4, 'evaluate.every': 4})
    return folder, training.run_training(config, folder, show_progress=False)


@pytest.mark.parametrize(
    'name', ['vqgan', 'fqgan', 'vqgan_lc', 'simvq', 'fvq', 'fvq.py:var', 'code_free', 'dq_vae', 'control_gic']
)
def test_every_tokenizer_is_rebuilt_from_its_description(name):
    path, _, variant = name.partition(':')
    located = f'configs/{path.removesuffix(".py")}.py:' + ','.join(filter(None, [variant, 'tiny']))
    module = registry.build_tokenizer(load_config(located).model)
    described = json.loads(json.dumps(registry.describe_model(module)))
    assert registry.build_tokenizer(described) == module


def test_a_tokenizer_file_keeps_the_fingerprint_and_can_be_loaded(tokenizer):
    assert load_tokenizer(tokenizer).fingerprint == fresh_tokenizer().fingerprint
    assert vistok.load(tokenizer).fingerprint == fresh_tokenizer().fingerprint != fresh_tokenizer(0.5).fingerprint


def test_extracted_tokens_are_those_of_the_views(tokens, tokenizer, images):
    source = TokenSource(tokens, 'train')
    assert (len(source), len(TokenSource(tokens, 'validation'))) == (36, 6)
    assert source.class_names == NAMES
    assert source.about['grid'] == [8, 8]
    model = load_tokenizer(tokenizer)
    assert (
        source.about['fingerprint'] == model.fingerprint == load_tokenizer(tokens / 'tokenizer.safetensors').fingerprint
    )
    opened = token_extraction.open_source(str(images), 'train')
    found = {record.name: record for record in (source[i] for i in range(len(source)))}
    assert len(found) == len(opened)
    for image in (opened[i] for i in range(len(opened))):
        record = found[image.name]
        views = token_extraction.cut_views(image.image, 16, 'five_crop')
        padded = np.zeros((48, 16, 16, 3), np.float32)
        padded[:5] = token_extraction.to_model_range(views)
        assert np.mean(record.ids != model.encode(padded).ids[:5]) < 0.01  # one may lie between two codewords
        assert record.label == image.label


def test_a_killed_extraction_ends_like_one_that_was_not_killed(tokens, extraction, tmp_path, monkeypatch):
    def killed(*arguments, **named):
        raise KeyboardInterrupt

    whole = token_extraction.TokenParts.write
    for parts_before in (2, 3):  # 36 and 6 images are 5 parts and one
        written = []

        def write(self, part, *rest, written=written, parts_before=parts_before):
            if len(written) == parts_before:
                raise KeyboardInterrupt
            written.append(part)
            whole(self, part, *rest)

        with monkeypatch.context() as patch:
            patch.setattr(token_extraction.TokenParts, 'write', write)
            with pytest.raises(KeyboardInterrupt):
                extraction(tmp_path).run()
    for act in ('write_tokens', 'save_model'):
        with monkeypatch.context() as patch:
            patch.setattr(token_extraction, act, killed)
            with pytest.raises(KeyboardInterrupt):
                extraction(tmp_path).run()
    assert extraction(tmp_path).run() == {}
    assert extraction(tmp_path).run() == {}  # nothing left to do
    assert not (tmp_path / 'parts').exists()
    for split in ('train', 'validation'):
        a, b = TokenSource(tmp_path, split), TokenSource(tokens, split)
        assert len(a) == len(b)
        for i in range(len(a)):
            assert a[i].name == b[i].name
            np.testing.assert_array_equal(a[i].ids, b[i].ids)


def test_tokens_of_other_settings_are_not_mixed(tokens, extraction):
    with pytest.raises(UserError, match=r'views is five_crop there, centre here'):
        extraction(tokens, views='centre')
    with pytest.raises(UserError, match='the side of the views is 15, but this tokenizer needs a multiple of 2'):
        extraction(tokens, image_size=15)


def test_a_run_keeps_what_is_needed_to_make_images(run, tokens, tokenizer):
    folder, result = run
    config = json.loads((folder / 'config.json').read_text())
    assert config['tokens'] == {
        'codebook_sizes': [32], 'codebook_names': ['code'], 'downsample_factor': 2, 'grains': [1], 'grid': [8, 8],
        'num_classes': 3, 'class_names': list(NAMES), 'fingerprint': load_tokenizer(tokenizer).fingerprint,
    }  # fmt: skip
    assert 1 < result.evaluation['bits_per_token'] < 6
    np.testing.assert_allclose(result.evaluation['bits_per_token'] * np.log(2), result.evaluation['loss'], rtol=1e-5)
    assert result.evaluation['images'] == 6
    assert np.asarray(Image.open(folder / 'pictures' / 'samples_0000004.png')).std() > 5
    assert f'bits per token on 6 unseen images · {folder}' in str(
        training.Run(folder, 4, result.evaluation, stopped=False)
    )
    model = vistok.load(folder)
    assert isinstance(model, TrainedGenerator)
    drawn = model.sample_tokens([0, 2])
    assert drawn.ids.shape == (2, 8, 8, 1)
    assert model.tokenizer.decode(drawn).shape == (2, 16, 16, 3)
    jax.tree.map(np.testing.assert_array_equal, model.variables['params'], jax.device_get(result.state.ema))


def test_a_stopped_run_goes_on_bit_for_bit_without_its_tokenizer(tokenizer, images, tmp_path):
    named = tmp_path / 'moved.safetensors'
    shutil.copy(tokenizer, named)
    small = {'evaluate.every': 9, 'evaluate.per_class': 0}
    training.run_training(
        on_images(named, images, **small, **{'train.steps': 1}), tmp_path / 'run', show_progress=False
    )
    named.unlink()
    resumed = training.run_training(
        on_images(named, images, **small, **{'train.steps': 2}), tmp_path / 'run', show_progress=False
    )
    whole = training.run_training(
        on_images(tokenizer, images, **small, **{'train.steps': 2}), tmp_path / 'whole', show_progress=False
    )
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(resumed.state), jax.device_get(whole.state))


def test_mistakes_are_answered_in_one_sentence_before_anything_is_written(tokens, tokenizer, images, tmp_path):
    other = tmp_path / 'other.safetensors'
    save_model(fresh_tokenizer(0.5), other)
    first, second = (load_tokenizer(path).fingerprint[:16] for path in (tokenizer, other))
    wrong = {
        'no tokenizer': (
            tiny(**{'data.source': 'embedded:digits'}),
            r'config.tokenizer is empty.*configs/vqgan.py:digits',
        ),
        'none there': (on_images('no/run', images), r'there is no tokenizer no/run; train one.*launch/train.py'),
        'no tokens': (
            tiny(**{'data.source': 'tokens:no/tokens'}),
            r'no extracted tokens in no/tokens.*extract_tokens.py',
        ),
        'of another tokenizer': (
            tiny(**{'data.source': str(tokens), 'tokenizer': str(other)}),
            f'tokens in .* are of the tokenizer with the fingerprint {first}…, but this run has the one with {second}…',
        ),
        'size': (on_images(tokenizer, images, **{'data.image_size': 15}), 'data.image_size is 15'),
    }
    for config, sentence in wrong.values():
        with pytest.raises(UserError, match=sentence) as error:
            training.run_training(config, tmp_path / 'run', show_progress=False)
        assert '\n' not in str(error.value)
        assert not (tmp_path / 'run').exists()
    vqgan = load_config('configs/vqgan.py:tiny')
    vqgan.data.source = f'tokens:{tokens}'
    vqgan.train.devices = 1
    with pytest.raises(UserError, match='a tokenizer learns from images'):
        training.run_training(vqgan, tmp_path / 'run', show_progress=False)


def test_a_run_of_another_tokenizer_is_refused(run, tokens, tokenizer, tmp_path):
    folder = tmp_path / 'copy'
    shutil.copytree(run[0], folder)
    save_model(fresh_tokenizer(0.5), folder / 'tokenizer.safetensors')
    with pytest.raises(UserError, match='but this run has the one with'):
        training.run_training(tiny(**{'data.source': str(tokens)}), folder, show_progress=False)


def plan(**changes):
    return Plan(**({'classes': (2, 0), 'per_class': 3, 'count': None, 'seed': 1, 'config': SampleConfig()} | changes))


@pytest.fixture(scope='module')
def model(run):
    return vistok.load(run[0])


def drawn(path):
    with np.load(path) as found:
        return found['arr_0'], found['labels']


def test_samples_do_not_depend_on_the_batch_and_an_interrupted_run_goes_on(model, tmp_path, monkeypatch):
    whole = write_samples(
        model, plan(), NAMES, tmp_path / 'a', npz=tmp_path / 'a.npz', folder=tmp_path / 'f', sheet=tmp_path / 's.png'
    )
    assert whole == [tmp_path / 's.png', tmp_path / 'f', tmp_path / 'a.npz']
    images, labels = drawn(tmp_path / 'a.npz')
    assert images.shape == (6, 16, 16, 3)
    assert images.dtype == np.uint8
    assert labels.tolist() == [2, 0, 2, 0, 2, 0]
    assert len(np.unique(images.reshape(6, -1), axis=0)) == 6
    assert sorted(path.name for path in (tmp_path / 'f').iterdir())[:2] == ['000000-two.png', '000001-seven.png']
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / 'f' / '000004-two.png')), images[4])
    assert not (tmp_path / 'a').exists()

    def killed(path, **arrays):
        if len(list(path.parent.glob('*.npz'))) == 1:
            raise KeyboardInterrupt
        write(path, **arrays)

    write = sampling.write_arrays
    monkeypatch.setattr(sampling, 'write_arrays', killed)
    monkeypatch.setattr(sampling, 'make_runner', lambda kind: make_runner(kind, devices=1))
    with pytest.raises(KeyboardInterrupt):
        write_samples(model, plan(), NAMES, tmp_path / 'b', npz=tmp_path / 'b.npz', batch_size=4)
    assert not (tmp_path / 'b.npz').exists()
    monkeypatch.setattr(sampling, 'write_arrays', write)
    with pytest.raises(UserError, match='seed is 1 there, 2 here'):
        write_samples(model, plan(seed=2), NAMES, tmp_path / 'b', npz=tmp_path / 'b.npz', batch_size=4)
    write_samples(model, plan(), NAMES, tmp_path / 'b', npz=tmp_path / 'b.npz', batch_size=4)
    for x, y in zip(drawn(tmp_path / 'a.npz'), drawn(tmp_path / 'b.npz'), strict=True):
        np.testing.assert_array_equal(x, y)


def test_a_file_of_samples_tells_evaluators_how_they_were_drawn(model, tmp_path):
    config = SampleConfig(guidance_scale=1.5, top_k=9)
    write_samples(model, plan(config=config), NAMES, tmp_path / 'w', npz=tmp_path / 'x.npz')
    told = open_byte_batches(str(tmp_path / 'x.npz')).settings
    assert {name: told[name] for name in ('seed', 'per_class', 'classes', 'guidance_scale', 'top_k', 'top_p')} == {
        'seed': 1, 'per_class': 3, 'classes': [2, 0], 'guidance_scale': 1.5, 'top_k': 9, 'top_p': 1.0,
    }  # fmt: skip
    assert told['tokenizer'] == model.tokenizer.fingerprint[:16] != told['generator']
    assert 'count' not in told


def test_the_images_are_what_the_tokenizer_makes_of_the_samples(model, tmp_path):
    write_samples(model, plan(per_class=1), NAMES, tmp_path / 'w', npz=tmp_path / 'x.npz', batch_size=8)
    ids = model.sample_tokens([2, 0], 1).ids
    images = np.asarray(model.tokenizer.decode(Tokens(ids)))
    pictures, _ = drawn(tmp_path / 'x.npz')
    difference = np.abs(pictures.astype(np.int32) - (127.5 * images.clip(-1, 1) + 128).astype(np.int32))
    assert difference.max() <= 1


def test_a_count_draws_classes_at_random():
    labels = plan(count=1000).labels
    assert set(labels) == {2, 0}
    assert 400 < (labels == 2).sum() < 600
    assert (plan(count=1000).labels == labels).all()
    with pytest.raises(UserError, match='at least one'):
        plan(per_class=0)


def test_classes_are_asked_for_by_number_or_name():
    names = ('cat', 'dog', '0')
    assert find_classes(['all'], names) == (0, 1, 2)
    assert find_classes(['dog', '0', '1'], names) == (1, 2, 1)
    with pytest.raises(UserError, match=r"no class 'dgo': classes are 0 .. 2 or their names; did you mean 'dog'"):
        find_classes(['dgo'], names)


@pytest.mark.parametrize(
    'variant',
    [
        'llamagen.py',
        'llamagen.py:imagenet256,xxl',
        'llamagen.py:imagenet384',
        'llamagen.py:text256',
        'far.py:tiny',
        'vqgan_lc_gpt.py',
        'vqgan_lc_gpt.py:imagenet256',
    ],
)
def test_every_config_builds_its_generator(variant):
    config = load_config(f'configs/{variant}')
    sizes = (16_384,) * (2 if 'far' in variant else 1)
    tokens = {
        'codebook_sizes': sizes, 'codebook_names': ('a', 'b')[: len(sizes)], 'downsample_factor': 16, 'grains': (1,),
        'grid': (4, 4), 'num_classes': 10,
    }  # fmt: skip
    config.tokens = ConfigDict(tokens)
    generator = registry.build_generator(config.model, config.tokens)
    jax.eval_shape(generator.init, jax.random.key(0))
    assert registry.build_sample_config(config.sample, top_k=5).top_k == 5
    assembly.build_train_step(config, GeneratorObjective(generator))
