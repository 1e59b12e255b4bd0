"""What every tokenizer keeps to, checked on each one at the size of its config's `tiny` variant."""

import functools
import inspect
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vistok.experiments import registry
from vistok.experiments.config_files import load_config

CONFIGS = {
    'vqgan': ['vqgan.py:tiny'],
    'vqgan_ema': ['vqgan.py:restart,tiny'],
    'fqgan': ['fqgan.py:triple,tiny'],
    'vqgan_lc': ['vqgan_lc.py:tiny'],
    'simvq': ['simvq.py:tiny'],
    'simvq_vqgan': ['simvq.py:vqgan,tiny'],
    'magvit2_vq': ['simvq.py:plain,tiny'],
    'maskgit_vqgan': ['simvq.py:plain,tiny'],  # no config of its own: it has the arguments of magvit2_vq
    'fvq': ['fvq.py:tiny'],
    'fvq_rq': ['fvq.py:dit,rq,tiny'],
    'fvq_var': ['fvq.py:var,tiny'],
    'fsq': ['code_free.py:fsq,tiny'],
    'lfq': ['code_free.py:lfq,tiny'],
    'bsq': ['code_free.py:bsq,tiny'],
    'dq_vae': ['dq_vae.py:triple,feature,tiny'],
    'control_gic': ['control_gic.py:random_shares,tiny'],
    'control_gic_simvq': ['control_gic.py:codec,tiny'],
}
"""Tiny cases of every tokenizer in the registry, by its name there; a name without one fails."""
NOISE = {'sampling': jax.random.key(0)}
OPTIMIZER = optax.adam(3e-3)


class Evaluation(NamedTuple):
    """What a tokenizer makes of images: its evaluation pass, and its parts one after the other."""

    output: Any
    tokens: Any
    decoded: Any
    by_hand: Any


class Case:
    """A tokenizer with fresh parameters and a batch."""

    def __init__(self, name: str, config: str):
        self.config = load_config(f'configs/{config}')
        self.config.model.name = name
        self.module = registry.build_tokenizer(self.config.model)
        size = self.config.data.image_size
        pixels = np.random.default_rng(0).uniform(-1, 1, (4, size // 4, size // 4, 3)).astype(np.float32)
        self.images = jax.image.resize(jnp.asarray(pixels), (4, size, size, 3), 'cubic').clip(-1, 1)
        shape = jax.ShapeDtypeStruct(self.images.shape, jnp.float32)  # lazily: nothing but the parameters is computed
        variables = self.module.lazy_init(jax.random.key(0), shape, train=True)  # models share its small programs
        # Layers that start at zero would make some models answer everything with zero.
        rng = np.random.default_rng(0)
        nudged = jax.tree.map(lambda x: x + 0.02 * rng.standard_normal(x.shape, np.float32), variables['params'])
        self.variables = {**variables, 'params': nudged}

    @functools.cached_property
    def evaluate(self):
        """The evaluation pass beside encoding and decoding step by step: one program for all tests."""

        def run(module, images):
            tokens = module.encode(images)
            takes_grain = tokens.grain is not None and 'grain' in inspect.signature(module.decode_latents).parameters
            grain = (tokens.grain,) if takes_grain else ()
            by_hand = module.decode_latents(module.embed(tokens), *grain)
            return Evaluation(module(images), tokens, module.decode(tokens), by_hand)

        return jax.jit(lambda variables, images: self.module.apply(variables, images, method=run, rngs=NOISE))

    @functools.cached_property
    def evaluated(self):
        return self.evaluate(self.variables, self.images)

    @functools.cached_property
    def step(self):
        """A training step: what the loss was computed from, and the variables after it."""

        @jax.jit
        def step(variables, state, number):
            params, rest = variables['params'], {k: v for k, v in variables.items() if k != 'params'}

            def loss(params):
                output, changed = self.module.apply(
                    {'params': params, **rest},
                    self.images,
                    train=True,
                    mutable=list(rest),
                    rngs={'sampling': jax.random.key(number)},
                )
                error = jnp.mean((output.reconstruction - self.images) ** 2)
                return error + sum(output.losses.values()), (output, rest | changed)

            grads, (output, rest) = jax.grad(loss, has_aux=True)(params)
            updates, state = OPTIMIZER.update(grads, state, params)
            return output, {'params': optax.apply_updates(params, updates), **rest}, state

        return step

    @functools.cached_property
    def trained(self):
        """The output in training, and the variables and optimizer state after one step."""
        return self.step(self.variables, OPTIMIZER.init(self.variables['params']), 0)


@pytest.fixture(
    scope='module',
    params=[
        (name, config) for name in registry.names_of_kind(registry.TOKENIZER) for config in CONFIGS.get(name, [''])
    ],
    ids=lambda param: '-'.join(param),
)
def case(request):
    name, config = request.param
    assert config, f'{name} is registered, but has no tiny case here'
    return Case(name, config)


def test_ids_are_codeword_numbers_on_the_grid_of_the_spec(case):
    spec = case.module.spec
    tokens = case.evaluated.tokens
    ids, grain = np.asarray(tokens.ids), tokens.grain
    side = case.images.shape[1] // spec.downsample_factor
    assert ids.shape == (4, side, side, len(spec.codebook_sizes))
    assert ids.dtype == np.int32
    assert (grain is None) == (spec.grains == (1,))
    if grain is not None:
        assert grain.shape == ids.shape[:3]
        assert set(np.unique(grain)) <= set(spec.grains)
        for side in spec.grains:  # a coarse token is repeated over its block
            first = np.arange(grain.shape[1]) // side * side
            same = (ids == ids[:, first][:, :, first])[..., 0] & (grain == grain[:, first][:, :, first])
            assert same[grain == side].all()
    assert len(spec.codebook_names) == len(spec.codebook_sizes)
    for i, size in enumerate(spec.codebook_sizes):
        assert 0 <= ids[..., i].min() <= ids[..., i].max() < size


def test_decoding_what_was_encoded_is_the_evaluation_pass(case):
    output, tokens, decoded, by_hand = case.evaluated
    np.testing.assert_array_equal(tokens.ids, output.tokens.ids)
    np.testing.assert_allclose(decoded, output.reconstruction, atol=1e-5)
    assert decoded.shape == case.images.shape
    assert decoded.dtype == jnp.float32
    np.testing.assert_allclose(by_hand, decoded, atol=1e-6)


def test_images_do_not_influence_each_other(case):
    others = case.evaluate(case.variables, case.images.at[2:].set(0)).tokens.ids
    np.testing.assert_array_equal(case.evaluated.tokens.ids[:2], others[:2])


def test_losses_are_scalars_with_known_names(case):
    losses = case.trained[0].losses
    assert all(loss.shape == () and np.isfinite(loss) for loss in losses.values())
    assert {name.split('/')[0] for name in losses} <= {
        'codebook',
        'commitment',
        'entropy',
        'disentangle',
        'grain_budget',
    }


def test_features_are_predicted_for_the_declared_teachers(case):
    assert set(case.trained[0].predictions) == set(case.module.teacher_kinds)


def test_the_last_layer_makes_the_pixels(case):
    node = case.variables['params']
    for key in case.module.last_layer:
        node = node[key]
    assert node.shape[-1] == 3


def test_sides_that_do_not_fit_the_grid_are_refused(case):
    images = jax.ShapeDtypeStruct((1, case.images.shape[1] + 1, case.images.shape[2], 3), jnp.float32)
    with pytest.raises(ValueError, match='multiples of'):
        jax.eval_shape(case.module.apply, case.variables, images)


def test_bfloat16_keeps_parameters_losses_and_images_in_float32(case):
    config = case.config.copy_and_resolve_references()
    config.model.dtype = 'bfloat16'
    module = registry.build_tokenizer(config.model)

    def train(variables):
        output = module.apply(variables, case.images, train=True, rngs=NOISE)
        return output.reconstruction, output.losses

    assert {x.dtype for x in jax.tree.leaves(jax.eval_shape(train, case.variables))} == {jnp.dtype('float32')}
    # The same tokens: rounding before the quantizer may choose other ones, which says nothing of the decoder.
    rounded = jax.jit(lambda v, x: module.apply(v, x, method='decode'))(case.variables, case.evaluated.tokens)
    reference = case.evaluated.decoded
    # In the mean over the image: at single pixels rounding is as large as the draw of the weights makes it.
    assert 0 < np.linalg.norm(rounded - reference) < 0.045 * np.linalg.norm(reference)
    shapes = jax.eval_shape(lambda key: module.init(key, case.images, train=True), jax.random.key(0))
    assert {x.dtype for x in jax.tree.leaves(shapes)} == {jnp.dtype('float32')}


def test_one_batch_can_be_overfitted_frozen_tables_stay_and_running_means_move(case):
    def error(variables):
        output = case.evaluate(variables, case.images).output
        return float(jnp.mean((output.reconstruction - case.images) ** 2))

    before = error(case.variables)
    _, variables, state = case.trained
    for number in range(1, 120):  # most need a third of them, a router whose choices are noisy nearly all
        _, variables, state = case.step(variables, state, number)
        if number % 20 == 19 and error(variables) < 0.25 * before:
            break
    assert error(variables) < 0.25 * before
    assert 'frozen' not in variables['params']
    old, new = case.variables, variables
    jax.tree.map(np.testing.assert_array_equal, new.get('frozen', {}), old.get('frozen', {}))
    running = (tree.get('codebook_stats', {}) for tree in (old, new))
    for first, last in zip(*map(jax.tree.leaves, running), strict=True):
        assert np.abs(first - last).max() > 0
