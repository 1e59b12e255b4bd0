"""MAGE, MaskGIT and ADDP at a tiny size: what they may look at, and what a sample depends on."""

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vistok.experiments.config_files import default_workdir, load_config
from vistok.generators.masked.addp import ADDP
from vistok.generators.masked.bidirectional import table_init
from vistok.generators.masked.mage import MAGE
from vistok.generators.masked.mage import SIZES as SIZES_OF_PAPERS
from vistok.generators.masked.maskgit import MaskGIT
from vistok.generators.masked.masking import MaskedGrid, fully_masked
from vistok.tokenizers.maskgit_vqgan import MaskGITVQGAN
from vistok.tokenizers.tokenizer import Tokens, TokenSpec

TOKENIZER = MaskGITVQGAN(channels=8, channel_multipliers=(1, 1), res_blocks=1, codebook_size=12, codebook_dim=4)
NETWORK = {'width': 16, 'encoder_layers': 1, 'encoder_heads': 2, 'decoder_layers': 1, 'decoder_heads': 2}
SIZES = {'spec': TOKENIZER.spec, 'grid': (3, 2), 'num_classes': 3, **NETWORK}
GENERATORS = {
    'mage': MAGE(**SIZES, steps=3),
    'maskgit': MaskGIT(**SIZES, steps=3),
    'addp': ADDP(**SIZES, steps=3, tokenizer=TOKENIZER, predictor=MAGE(**SIZES)),
}
IDS = jnp.asarray(np.random.default_rng(0).integers(0, 12, (4, 3, 2, 1)), jnp.int32)
LABELS = jnp.array([0, 1, 2, 3])  # 3: none


@dataclasses.dataclass
class Case:
    """A generator with variables that nothing in it hides."""

    generator: object
    variables: dict


@pytest.fixture(scope='module', params=GENERATORS)
def case(request):
    generator = GENERATORS[request.param]
    fresh = jax.jit(generator.init)(jax.random.key(0))
    rng = np.random.default_rng(0)
    return Case(generator, jax.tree.map(lambda x: x + 0.1 * rng.standard_normal(x.shape, np.float32), fresh))


def test_one_batch_can_be_learned(case):
    if isinstance(case.generator, MaskGIT):
        pytest.skip('as MAGE, with other masks')
    generator = dataclasses.replace(case.generator, dropout=0.0)
    optimizer = optax.adam(1e-2)
    frozen = {name: value for name, value in case.variables.items() if name != 'params'}

    def loss(params, key):
        return generator.loss({'params': params, **frozen}, Tokens(IDS), LABELS, key, train=True).loss

    @jax.jit
    def step(carry, key):
        params, state = carry
        value, gradients = jax.value_and_grad(loss)(params, key)
        updates, state = optimizer.update(gradients, state)
        return (optax.apply_updates(params, updates), state), value

    @jax.jit
    def learn(params):
        return jax.lax.scan(step, (params, optimizer.init(params)), jax.random.split(jax.random.key(2), 150))[1]

    losses = np.asarray(learn(case.variables['params']))
    assert losses[-20:].mean() < (0.75 if isinstance(generator, MAGE) else 0.9) * losses[:5].mean()


@pytest.mark.parametrize('width', [16, 128, 768])
def test_predictions_can_be_sure_from_the_beginning_at_any_width(width):
    rows = table_init(width)(jax.random.key(0), (64, width))
    largest = width**0.5 * jnp.linalg.norm(rows, axis=-1)  # logit of a normalized vector that points at the row
    assert largest.mean() == pytest.approx(0.02 * 768, rel=0.1)


def test_tables_of_the_published_widths_begin_as_published():
    for width in (768, 1024):
        assert table_init(width)(jax.random.key(0), (64, width)).std() == pytest.approx(0.02, rel=0.05)


def test_evaluation_is_reproducible_and_reports_bits(case):
    evaluate = jax.jit(lambda ids, key: case.generator.loss(case.variables, Tokens(ids), LABELS, key, train=False))
    found = evaluate(IDS, jax.random.key(3))
    assert found.loss == evaluate(IDS, jax.random.key(3)).loss
    assert found.loss != evaluate(IDS, jax.random.key(4)).loss
    assert 'hidden_bits' in found.metrics
    assert all(np.isfinite(value) for value in found.metrics.values())


def test_half_precision_and_recomputation_leave_gradients_in_full_precision(case):
    generator = dataclasses.replace(case.generator, dtype=jnp.bfloat16, remat=True)

    def loss(params, key):
        return generator.loss({**case.variables, 'params': params}, Tokens(IDS), LABELS, key, train=True).loss

    gradients = jax.eval_shape(jax.grad(loss), case.variables['params'], jax.random.key(0))
    assert {x.dtype for x in jax.tree.leaves(gradients)} == {jnp.dtype('float32')}


def test_a_tokenizer_with_several_codebooks_is_refused(case):
    with pytest.raises(ValueError, match=r'one id per cell, the tokenizer has codebooks of \(4, 4\)'):
        dataclasses.replace(case.generator, spec=TokenSpec((4, 4), 2, ('a', 'b')))


def masked_case(name):
    generator = GENERATORS[name]
    return generator, jax.jit(generator.init)(jax.random.key(0))


def test_hidden_tokens_are_not_seen_and_known_tokens_and_labels_are():
    generator, variables = masked_case('mage')
    hidden = jnp.array([[True, True, True, False, False, False]])
    logits = jax.jit(lambda ids, hidden, label: generator.logits(variables, MaskedGrid(ids, hidden), label, None))
    ids, label = jnp.array([[0, 1, 2, 3, 4, 5]]), jnp.array([0])
    found = logits(ids, hidden, label)
    np.testing.assert_array_equal(logits(ids.at[:, :3].set(9), hidden, label), found)
    assert (logits(ids.at[:, 4].set(9), hidden, label) != found).any()
    assert (logits(ids, hidden, label + 1) != found).any()


def test_what_the_encoder_does_not_see_changes_nothing_but_its_own_attention():
    generator, variables = masked_case('mage')
    ids, labels = IDS.reshape(4, 6), generator.label_indices(LABELS)
    hidden = jnp.zeros((4, 6), bool).at[:, 4:].set(True)
    apply = jax.jit(lambda seen: generator.network.apply(variables, ids, hidden, labels, seen))
    order = jnp.broadcast_to(jnp.array([5, 0, 3, 1, 2, 4]), (4, 6))  # all, in another order
    everything = jax.jit(lambda: generator.network.apply(variables, ids, hidden, labels))()
    np.testing.assert_allclose(apply(order), everything, atol=1e-5)


@functools.partial(jax.jit, static_argnums=0)
def addp_logits(generator, variables, images, guess, labels):
    return generator.logits(variables, generator.initial_state(1).replace(guess=guess, images=images), labels)


def test_the_first_step_of_addp_does_not_look_at_the_image_and_later_ones_do():
    generator, variables = masked_case('addp')
    black, noise = -jnp.ones((1, 6, 4, 3)), jax.random.uniform(jax.random.key(0), (1, 6, 4, 3))
    nothing = fully_masked(1, 6)
    logits = functools.partial(addp_logits, generator, variables)
    np.testing.assert_array_equal(logits(black, nothing, LABELS[:1]), logits(noise, nothing, LABELS[:1]))
    something = MaskedGrid(nothing.ids, nothing.hidden.at[:, 2].set(False))
    assert (logits(black, something, LABELS[:1]) != logits(noise, something, LABELS[:1])).any()


def test_addp_does_not_see_ids_of_hidden_tokens_and_sees_the_label_and_reliable_tokens():
    generator, variables = masked_case('addp')
    image = jnp.zeros((1, 6, 4, 3))
    guess = MaskedGrid(jnp.arange(6)[None], jnp.array([[True, True, False, False, True, True]]))
    logits = functools.partial(addp_logits, generator, variables, image)
    found = logits(guess, LABELS[:1])
    np.testing.assert_array_equal(logits(guess.replace(ids=guess.ids.at[:, 5].set(9)), LABELS[:1]), found)
    assert (logits(guess.replace(ids=guess.ids.at[:, 2].set(9)), LABELS[:1]) != found).any()
    assert (logits(guess, LABELS[1:2]) != found).any()
    assert (logits(guess, LABELS[3:]) != found).any()


def test_known_tokens_are_decoded_as_the_tokenizer_decodes_them_and_certain_guesses_too():
    generator, variables = masked_case('addp')
    ids = IDS.reshape(4, 6)
    certain = jax.nn.one_hot(ids, 12)
    decode = jax.jit(lambda hidden: generator.decode_mixture(variables, MaskedGrid(ids, hidden), certain))
    expected = TOKENIZER.apply(variables['tokenizer'], Tokens(IDS), method='decode')
    np.testing.assert_allclose(decode(jnp.zeros((4, 6), bool)), expected, atol=1e-4)
    np.testing.assert_allclose(decode(jnp.ones((4, 6), bool)), expected, atol=1e-4)


def test_addp_says_what_it_lacks():
    bare = ADDP(**SIZES)
    variables = {'params': {}}
    with pytest.raises(ValueError, match='this one has none'):
        bare.loss(variables, Tokens(IDS), LABELS, jax.random.key(0), train=False)
    with pytest.raises(ValueError, match='no tokenizer to decode them'):
        bare.decode_mixture(variables, fully_masked(1, 6), jnp.zeros((1, 6, 12)))


def test_a_model_whose_labels_are_all_dropped_in_training_ignores_them_everywhere():
    mage, addp = (dataclasses.replace(GENERATORS[name], label_dropout=1.0) for name in ('mage', 'addp'))
    np.testing.assert_array_equal(mage.label_indices(LABELS), [3, 3, 3, 3])
    np.testing.assert_array_equal(addp.network_labels(LABELS), [-1, -1, -1, -1])
    np.testing.assert_array_equal(GENERATORS['mage'].label_indices(LABELS), LABELS)
    np.testing.assert_array_equal(GENERATORS['addp'].network_labels(LABELS), [0, 1, 2, -1])


@pytest.mark.parametrize('name', ['mage', 'addp'])
def test_the_published_recipes_encode_random_resized_crops_and_have_no_classes(name):
    for variant, size in (('imagenet256', 'base'), ('imagenet256,large', 'large')):
        config = load_config(f'{name}:{variant}')
        data = config.data
        assert (data.source, data.augmentation, data.flip) == ('tfds:imagenet2012', 'random_resized_crop', True)
        assert config.model.label_dropout == 1
        assert config.model.codes_only == (name == 'mage')
        assert SIZES_OF_PAPERS[size].items() <= dict(config.model).items()
        if name == 'addp':  # it learns from a predictor of its own size
            predictor = load_config(f'mage:{variant}')
            assert Path(config.predictor) == default_workdir(f'mage:{variant}', predictor)
