"""ADDP, its predictor (MAGE) and their tokenizer with official weights, against numbers of the official code."""

import dataclasses
import gc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_packs import assert_close, load_pack

import vistok
from vistok.experiments import official_models
from vistok.generators.generator import SampleConfig
from vistok.generators.masked.masking import (
    MaskedGrid,
    NestedMasks,
    compute_nested_masks,
    counts_rounded_up,
    share_grid,
)
from vistok.generators.masked.parallel_decoding import sample_candidates

PACK = load_pack('addp')
SEEN = np.array([0, 31, 77, 255])  # positions of the encoder that were recorded


@dataclasses.dataclass
class Found:
    """What the model says to the recorded inputs, and whether its weights came back."""

    ignored: tuple[str, ...]
    returned: dict[str, bool]
    missing: set[str]
    stages: dict[str, np.ndarray]


def stages_of(generator, variables, ids, masks, images, noise):
    """Everything that was recorded, as one program."""
    labels = jnp.zeros(2, jnp.int32)
    target, noised = generator.training_state(variables, ids, masks, labels)
    guess = MaskedGrid(ids, masks.now)
    both = generator.predictor.logits({'params': variables['predictor']}, MaskedGrid(ids, masks.before), labels, None)
    codewords = variables['tokenizer']['params']['quantizer']['codebook']['codewords']

    def walk(network):
        features = network.encoder(images)
        logits = network.predict(features, guess, generator.network_labels(labels))
        return network.encoder.embed(images), features, logits

    embedded, features, logits = generator.network.apply({'params': variables['params']}, method=walk)
    state = generator.initial_state(1)
    state = state.replace(images=images[:1])
    kept, drawn = [], []
    for step, count in enumerate(counts_rounded_up(256, 2, 'cosine')):
        found = generator.logits(variables, state, labels[:1])
        candidates = sample_candidates(found, jax.random.split(jax.random.key(0), 1), SampleConfig(temperature=0.0))
        candidates = candidates.replace(noise=noise[step])
        state = generator.advance(variables, state, found, candidates, 1 - (step + 1) / 2, count)
        kept.append(state.guess)
        drawn.append(candidates.drawn)  # recorded at every cell, also where they do not count
    return {
        'probabilities': target,
        'soft': jax.nn.softmax(both) @ codewords,
        'noised': noised.images,
        'embedded': embedded[:, SEEN],
        'features': features[:, SEEN],
        'logits': logits,
        'loss': generator.distillation_loss(logits, target, masks.now),
        'drawn': jnp.stack(drawn),
        'hidden': jnp.stack([guess.hidden for guess in kept]),
        'image': state.images[0],
    }


@pytest.fixture(scope='module')
def found():
    state_dict = PACK.state_dict(prefix='')
    PACK.check_weights(state_dict)
    model = vistok.from_official('addp', state_dict)
    back = official_models.export_variables('addp', model.variables)
    returned = {name: np.array_equal(x, state_dict[name]) for name, x in back.items()}
    missing = set(state_dict) - set(back) - set(model.ignored)
    ignored = model.ignored
    del back, state_dict
    gc.collect()
    pixels = np.repeat(np.repeat(PACK['image_small'], 8, axis=1), 8, axis=2)
    masks = NestedMasks(jnp.asarray(PACK['mask_t'] > 0), jnp.asarray(PACK['mask_t_next'] > 0))
    with jax.default_matmul_precision('highest'):
        stages = jax.jit(stages_of, static_argnums=0)(
            model.generator, model.variables, jnp.asarray(PACK['tokens']), masks,
            jnp.asarray(pixels / 127.5 - 1, jnp.float32), jnp.asarray(PACK['gen_gumbel']),
        )  # fmt: skip
    result = Found(ignored, returned, missing, jax.device_get(stages))
    del model
    return result


def close(found, expected, tolerance=2e-4):
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)


def test_all_entries_are_used_or_knowingly_ignored_and_come_back(found):
    assert not found.missing
    assert all(found.returned.values())
    assert {name.split('.')[-2] for name in found.ignored if name.endswith('weight')} == {'decoder_pred', 'proj'}


def test_the_predictor_gives_the_official_probabilities(found):
    probabilities = found.stages['probabilities'].reshape(2, 16, 16, -1)[..., PACK['columns']]
    close(probabilities.transpose(0, 3, 1, 2), PACK['tp_prob_columns'], 1e-6)
    soft = found.stages['soft'].reshape(2, 16, 16, -1).transpose(0, 3, 1, 2)[:, ::4, ::5, ::5]
    close(soft, PACK['tp_soft_embedding'])


@pytest.mark.parametrize(('stage', 'name'), [('embedded', 'embed_in'), ('features', 'encoder_out')])
def test_the_encoder_gives_the_official_features(found, stage, name):
    close(found.stages[stage], PACK[name])


def test_the_decoder_gives_the_official_logits(found):
    logits = found.stages['logits']
    close(logits[..., PACK['logit_columns']], PACK['dec_logits_columns'][:, 1:257])
    close(jax.nn.logsumexp(logits, axis=-1), PACK['dec_logsumexp'][:, 1:257])


def test_the_loss_is_the_official_one(found):
    np.testing.assert_allclose(found.stages['loss'], PACK['loss'], rtol=2e-5)


def test_two_steps_of_generation_give_the_official_tokens_masks_and_image(found):
    np.testing.assert_array_equal(found.stages['drawn'], PACK['gen_tokens'])
    np.testing.assert_array_equal(found.stages['hidden'], PACK['gen_masks'] > 0)
    image = (found.stages['image'].transpose(2, 0, 1)[:, ::8, ::8] + 1) / 2
    assert_close(image, PACK['gen_image'])


def test_shares_of_hidden_tokens_and_their_probabilities_are_the_official_ones():
    grid = share_grid()
    np.testing.assert_allclose(grid.shares, PACK['mask_ratios'], atol=1e-6)
    np.testing.assert_allclose(grid.probabilities, PACK['mask_ratio_probs'], atol=1e-6)


def test_masks_of_the_recorded_noise_are_the_official_ones():
    place, offset = (jnp.full(2, x) for x in PACK['masking_draw'])
    masks = compute_nested_masks(share_grid(), place, offset, jnp.asarray(PACK['masking_noise']))
    np.testing.assert_array_equal(masks.now, PACK['mask_t'] > 0)
    np.testing.assert_array_equal(masks.before, PACK['mask_t_next'] > 0)


@pytest.mark.parametrize(('schedule', 'steps'), [('cosine', 20), ('cosine', 8), ('linear', 256)])
def test_schedules_are_the_official_ones(schedule, steps):
    np.testing.assert_array_equal(counts_rounded_up(256, steps, schedule), PACK[f'mask_len_{schedule}_{steps}'])


def test_a_file_without_tokenizer_and_predictor_gives_a_model_without_them():
    names = [name for name, *_ in PACK.manifest['state_dict'] if not name.startswith(('vqgan.', 'token_predictor.'))]
    shapes = {name: shape for name, shape, _ in PACK.manifest['state_dict']}
    model = vistok.from_official('addp', {name: np.zeros(shapes[name], np.float32) for name in names})
    assert set(model.variables) == {'params'}
    assert (model.generator.tokenizer, model.generator.predictor, model.tokenizer) == (None, None, None)


def test_the_predictor_can_be_loaded_alone():
    entries = {
        name.removeprefix('token_predictor.'): np.zeros(shape, np.float32)
        for name, shape, kind in PACK.manifest['state_dict']
        if name.startswith('token_predictor.') and kind.startswith('float')
    }
    model = vistok.from_official('mage', entries)
    assert (model.generator.width, model.generator.encoder_layers, model.generator.decoder_heads) == (768, 12, 16)
    assert set(official_models.export_variables('mage', model.variables)) == set(entries) - set(model.ignored)
