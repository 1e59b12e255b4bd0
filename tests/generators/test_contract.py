"""Properties that every generator has, checked on each name of the registry at the size of its `tiny` config."""

import copy
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_packs import random_variables

from vistok.errors import UserError
from vistok.experiments import registry
from vistok.experiments.config_files import load_config
from vistok.generators.trained import TrainedGenerator
from vistok.tokenizers.maskgit_vqgan import MaskGITVQGAN
from vistok.tokenizers.tokenizer import Tokens, TokenSpec

TOKENIZER = MaskGITVQGAN(channels=8, channel_multipliers=(1, 1), res_blocks=1, codebook_size=12, codebook_dim=4)
SPECS = {  # of generators that need other tokens than those of one codebook
    'far': TokenSpec((7, 5, 6), 4, ('vis', 'mid', 'high')),
    'dq_transformer': TokenSpec((7,), 4, grains=(1, 2)),
    'addp': TOKENIZER.spec,
}
GRID, CLASSES = (4, 2), 3
LABELS, NUMBERS = (2, 0, 3, 1), (4, 9, 0, 2)  # class 3: none


class Case:
    """A generator with random variables, tokens to learn and its samples."""

    def __init__(self, name: str):
        row = registry.find_model(name)
        assert row.config, f'{name} is registered, but has no config whose `tiny` variant could be its case'
        config = load_config(f'{row.config}:tiny')
        spec = SPECS.get(name, TokenSpec((12,), 4))
        tokens = {field.name: getattr(spec, field.name) for field in dataclasses.fields(spec)}
        tokens |= {'grid': GRID, 'num_classes': CLASSES}
        components = {}
        if 'predictor' in registry.argument_names(row.cls):
            predictor = registry.build_generator(load_config('mage:tiny').model, tokens)
            components = {'tokenizer': TOKENIZER, 'predictor': predictor}
        self.generator = registry.build_generator(config.model, tokens, **components)
        self.sampling = registry.build_sample_config(config.sample, temperature=1.3, guidance_scale=4.0)
        key = jax.random.key(0)
        shapes = jax.eval_shape(self.generator.init, key)
        tables = {'frozen', 'diffusion_stats'} & shapes.keys()  # not just any numbers
        fresh = jax.jit(lambda key: {name: self.generator.init(key)[name] for name in tables})(key)
        variables = random_variables(shapes) | fresh
        variables['params'] = jax.tree.map(lambda x: 2 * x, variables['params'])  # so that the class matters
        self.model = TrainedGenerator(self.generator, variables)
        rng = np.random.default_rng(0)
        ids = np.stack([rng.integers(0, size, (4, *GRID)) for size in spec.codebook_sizes], axis=-1).astype(np.int32)
        grain = None
        if len(spec.grains) > 1:
            coarsest = max(spec.grains)
            grain = np.full(ids.shape[:3], coarsest, np.int32)
            ids = ids[:, ::coarsest, ::coarsest].repeat(coarsest, 1).repeat(coarsest, 2)
        self.tokens = Tokens(jnp.asarray(ids), None if grain is None else jnp.asarray(grain))

    @functools.cached_property
    def samples(self) -> Tokens:
        return self.sample(LABELS, NUMBERS)

    def sample(self, labels, numbers, seed=0) -> Tokens:
        return jax.device_get(self.model.sample_tokens(labels, seed, self.sampling, numbers))

    def loss(self, variables, *, train):
        labels = jnp.asarray(LABELS, jnp.int32)
        return self.generator.loss(variables, self.tokens, labels, jax.random.key(1), train=train)


@pytest.fixture(scope='module', params=registry.names_of_kind(registry.GENERATOR))
def case(request):
    return Case(request.param)


def test_a_generator_is_a_value_that_can_be_a_static_argument(case):
    again = copy.deepcopy(case.generator)
    assert again == case.generator
    assert hash(again) == hash(case.generator)


def test_parameters_are_float32(case):
    assert {x.dtype for x in jax.tree.leaves(case.model.variables['params'])} == {jnp.dtype('float32')}


def test_losses_are_finite_scalars(case):
    def training(variables):
        result = case.loss(variables, train=True)
        return result.loss, result.metrics

    def evaluation(variables):
        result = case.loss(variables, train=False)
        return result.loss, result.metrics

    found = jax.jit(training)(case.model.variables)
    assert all(np.isfinite(value) for value in jax.tree.leaves(found))
    for loss, metrics in (found, jax.eval_shape(evaluation, case.model.variables)):
        assert all(value.shape == () for value in (loss, *metrics.values()))
        assert metrics.keys() & {'bits_per_token', 'hidden_bits'}


def test_samples_are_token_grids_of_the_spec(case):
    spec, samples = case.generator.spec, case.samples
    assert samples.ids.shape == (4, *GRID, len(spec.codebook_sizes))
    assert samples.ids.dtype == np.int32
    for i, size in enumerate(spec.codebook_sizes):
        assert 0 <= samples.ids[..., i].min() <= samples.ids[..., i].max() < size
    assert (samples.grain is None) == (spec.grains == (1,))
    if samples.grain is not None:
        assert samples.grain.shape == (4, *GRID)
        assert set(np.unique(samples.grain)) <= set(spec.grains)


def assert_rows_equal(found, samples, rows):
    np.testing.assert_array_equal(found.ids, samples.ids[rows])
    if samples.grain is not None:
        np.testing.assert_array_equal(found.grain, samples.grain[rows])


def test_a_sample_depends_on_seed_number_and_class_alone(case):
    order = [3, 0, 2, 1]
    turned = case.sample([LABELS[i] for i in order], [NUMBERS[i] for i in order])
    assert_rows_equal(turned, case.samples, order)
    assert (case.sample(LABELS, [n + 20 for n in NUMBERS]).ids != case.samples.ids).any()
    assert (case.sample(LABELS, NUMBERS, seed=1).ids != case.samples.ids).any()
    assert (case.sample([(label + 1) % CLASSES for label in LABELS], NUMBERS).ids != case.samples.ids).any()


def test_a_sample_alone_and_not_compiled_is_the_same(case):
    label, number = (jnp.asarray(x[2:3], jnp.int32) for x in (LABELS, NUMBERS))
    alone = case.generator.sample(case.model.variables, label, jax.random.key(0), number, case.sampling)
    assert_rows_equal(alone, case.samples, [2])


@pytest.mark.parametrize('wrong', [-1, CLASSES + 1])
def test_classes_out_of_range_are_refused(case, wrong):
    with pytest.raises(UserError, match=f'there is no class {wrong}'):
        case.model.sample_tokens([0, wrong])
