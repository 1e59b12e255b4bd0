"""From captions to a generator that draws what a prompt says, on tokens made up for it."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_packs import random_variables
from run_command import run_command
from toy_generator import Table
from tqdm import tqdm

import vistok
from vistok.data.images.byte_batches import open_byte_batches
from vistok.data.text.features import TextFeatureSource, write_text_features
from vistok.data.tokens.batches import train_token_batches
from vistok.data.tokens.dataset import TokenRecord, TokenSource, write_tokens
from vistok.errors import UserError
from vistok.experiments import registry, run_folder, training
from vistok.experiments.config_files import load_config
from vistok.experiments.prompts import read_prompts
from vistok.experiments.sampling import sample_batch
from vistok.experiments.saved_models import save_model
from vistok.generators.generator import GeneratorLoss, SampleConfig, TextFeatures
from vistok.generators.objective import GeneratorObjective, condition
from vistok.pretrained.text_encoder import StandInText
from vistok.tokenizers.tokenizer import TokenSpec
from vistok.tokenizers.trained import TrainedTokenizer

IDS = {'red': 3, 'blue': 11}
ENCODER = StandInText(tokens=4, width=8)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Images whose tokens are one id, which a word of each of their captions tells; and their features."""
    folder = tmp_path_factory.mktemp('tokens')
    module = registry.build_tokenizer(load_config('configs/vqgan.py:digits,tiny').model)
    shapes = jax.eval_shape(lambda key: module.init(key, jnp.zeros((1, 4, 4, 3))), jax.random.key(0))
    tokenizer = TrainedTokenizer(module, random_variables(shapes))
    names = [f'{i:02d}-{word}.png' for i in range(12) for word in IDS]

    def records():
        for name in names:
            yield TokenRecord(np.full((2, 2, 2, 1), IDS[name[3:-4]], np.int32), None, 0, name)

    write_tokens(
        folder,
        {'train': records, 'validation': records},
        about={'fingerprint': tokenizer.fingerprint, 'grid': [2, 2]},
        class_names=['picture'],
        largest_id=31,
        progress=tqdm(disable=True),
    )
    save_model(tokenizer, folder / 'tokenizer.safetensors')
    captions = {name: (f'it is {name[3:-4]}', f'{name[3:-4]}!') for name in names}
    write_text_features(folder / 'text', captions, ENCODER)
    return folder


def config(folder, **overrides):
    found = load_config('configs/llamagen.py:text,tiny')
    found.train.devices = 1
    found.update_from_flattened_dict(
        {
            'data.source': f'tokens:{folder}',
            'data.text_features': str(folder / 'text'),
            'model.text_tokens': 4,
            'model.text_width': 8,
        }
        | overrides
    )
    return found


def test_batches_have_a_caption_of_their_image(folder):
    source, text = TokenSource(folder, 'train'), TextFeatureSource(folder / 'text')
    batch = next(train_token_batches(source, batch_size=24, seed=0, threads=0, text=text))
    assert batch['text'].shape == (24, 4, 8)
    word = {IDS[word]: ENCODER.encode([word])[0][0].astype(np.float16) for word in IDS}
    told = {2: 0, 4: 0}  # vectors of a caption, with that of its end
    for ids, features, mask in zip(batch['ids'], batch['text'], batch['text_mask'], strict=True):
        told[int(mask.sum())] += 1
        np.testing.assert_array_equal(features[2], word[ids[0, 0, 0]])
    assert min(told.values()) > 3


@dataclasses.dataclass(frozen=True)
class Told(Table):
    """Its loss is the sum of what it is told."""

    def loss(self, variables, tokens, cond, rng, *, train, images=None):
        return GeneratorLoss((cond.features * cond.mask[..., None]).sum())


def test_the_caption_of_a_row_is_the_condition_of_its_loss(folder):
    text = TextFeatureSource(folder / 'text')
    told = text.first_features(text.names[:3])
    batch = {'label': np.zeros(3, np.int32), 'ids': np.zeros((3, 2, 2, 1), np.int32), 'index': np.arange(3)}
    batch |= {'text': told.features, 'text_mask': told.mask}
    objective = GeneratorObjective(Told(TokenSpec((4,), 2), (2, 2), 1))
    found = objective.losses_by_image({}, None, batch, jax.random.key(0))['loss']
    np.testing.assert_allclose(found, told.features.astype(np.float32).sum((1, 2)), rtol=1e-5)
    again = sample_batch(np.asarray([2, 0]), np.asarray([7, 8]), told)
    cond = condition(again)
    assert cond.features.dtype == jnp.float32
    np.testing.assert_array_equal(cond.features, told.features[[2, 0]])
    np.testing.assert_array_equal(cond.mask, told.mask[[2, 0]])


@pytest.mark.slow
def test_a_generator_on_text_draws_what_the_prompt_says(folder, tmp_path, capsys):
    names = TextFeatureSource(folder / 'text').names
    lines = [{'file_name': name, 'text': [f'it is {name[3:-4]}', name[3:-4]]} for name in names]
    (tmp_path / 'captions.jsonl').write_text('\n'.join(map(json.dumps, lines)))
    flags = [f'--source={tmp_path}/captions.jsonl', f'--out={tmp_path}/text', '--encoder=stand_in']
    assert run_command('text_features', *flags) == 0
    assert '48 texts, at most 120 vectors of 64 by stand_in' in capsys.readouterr().out
    settings = {
        'data.text_features': str(tmp_path / 'text'),
        'model.text_tokens': 120,
        'model.text_width': 64,
        'model.dropout': 0.0,
        'train.steps': 60,
        'train.ema_decay': 0.0,
        'train.log_every': 30,
        'train.checkpoint_every': 60,
        'evaluate.every': 60,
        'evaluate.batch_size': 24,
        'optimizer.learning_rate': 1e-2,
    }
    run = tmp_path / 'run'
    result = training.run_training(config(folder, **settings), run, show_progress=False)
    assert result.evaluation['bits_per_token'] < 0.5
    assert (run / 'pictures' / 'samples_0000060.png').is_file()
    about = {'encoder': 'stand_in', 'tokens': 120, 'width': 64}
    assert dict(run_folder.read_config(run).tokens.text) == about

    (tmp_path / 'prompts.txt').write_text('blue it is\nred\n')
    prompts = read_prompts(tmp_path / 'prompts.txt', about)
    cond = TextFeatures(jnp.asarray(prompts.text.features, jnp.float32), jnp.asarray(prompts.text.mask))
    ids = np.asarray(vistok.load(run).sample_tokens(cond, config=SampleConfig(temperature=0.0)).ids).reshape(2, -1)
    assert (ids == [[11], [3]]).mean() > 0.9

    asked_for = [f'--prompts={tmp_path}/prompts.txt', '--per_class=2', '--temperature=0']
    out = [f'--out={tmp_path}/x.npz', f'--out={tmp_path}/f/']
    assert run_command('sample', f'--model={run}', *asked_for, *out) == 0
    assert sorted(x.name for x in (tmp_path / 'f').iterdir())[:2] == ['000000-blue_it_is.png', '000001-red.png']
    drawn = open_byte_batches(str(tmp_path / 'x.npz'))
    assert drawn.settings['temperature'] == 0
    assert drawn.settings['classes'] == 'all'
    assert len(drawn.settings['text']) == 16
    (images,) = (batch.images.astype(int) for batch in drawn)
    assert np.abs(images[0] - images[2]).max() == 0 < np.abs(images[0] - images[1]).max()


def test_mistakes_are_answered_in_one_sentence(folder, tmp_path):
    wrong = {
        'needs captions: make their features': config(folder, **{'data.text_features': ''}),
        'have 4 vectors of 8 numbers; set config.model.text_tokens': config(folder, **{'model.text_width': 9}),
        'captions need extracted tokens': config(
            folder, **{'data.source': 'embedded:digits', 'tokenizer': str(folder / 'tokenizer.safetensors')}
        ),
    }
    on_classes = config(folder)
    with on_classes.unlocked():
        on_classes.model = load_config('configs/llamagen.py:tiny').model
    wrong['config.model is conditioned on classes'] = on_classes
    mirrored = TokenSource.__init__

    def of_ten_crops(self, *args):
        mirrored(self, *args)
        self.about = {**self.about, 'views': 'ten_crop'}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TokenSource, '__init__', of_ten_crops)
        with pytest.raises(UserError, match=r'has tokens of mirrored images too .* --views=centre'):
            training.run_training(config(folder), tmp_path / 'run', show_progress=False)
    for sentence, found in wrong.items():
        with pytest.raises(UserError, match=sentence):
            training.run_training(found, tmp_path / 'run', show_progress=False)
        assert not (tmp_path / 'run').exists()
    with pytest.raises(UserError, match='their encoder is stand_in, it was trained with google/flan-t5-xl'):
        read_prompts(folder / 'text', {'encoder': 'google/flan-t5-xl', 'tokens': 4, 'width': 8})
    (tmp_path / 'p.txt').write_text('red')
    with pytest.raises(UserError, match='their tokens is 120, it was trained with 4'):
        read_prompts(tmp_path / 'p.txt', {'encoder': 'stand_in', 'tokens': 4, 'width': 8})
    prompts = read_prompts(tmp_path / 'p.txt', {'encoder': 'stand_in', 'tokens': 120, 'width': 64})
    assert prompts.text.features.shape == (1, 120, 64)
    assert prompts.text.mask.sum() == 2
