"""What every tokenizer keeps to, checked on each one at the size of its config's `tiny` variant."""

import inspect

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


class Case:
    """A tokenizer with fresh parameters and a batch."""

    def __init__(self, name: str, config: str):
        self.config = load_config(f'configs/{config}')
        self.config.model.name = name
        self.compiled = {}
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

    def apply(self, *args, method='__call__', variables=None, **kwargs):
        """Calls a method, compiled once for all tests; `variables` take the place of the case's own."""
        key = (method, *kwargs.items())
        if key not in self.compiled:
            self.compiled[key] = jax.jit(lambda v, *a: self.module.apply(v, *a, method=method, rngs=NOISE, **kwargs))
        return self.compiled[key](self.variables if variables is None else variables, *args)


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
    ids = np.asarray(case.apply(case.images, method='encode').ids)
    side = case.images.shape[1] // spec.downsample_factor
    assert ids.shape == (4, side, side, len(spec.codebook_sizes))
    assert ids.dtype == np.int32
    grain = case.apply(case.images, method='encode').grain
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
    output = case.apply(case.images)
    tokens = case.apply(case.images, method='encode')
    np.testing.assert_array_equal(tokens.ids, output.tokens.ids)
    decoded = case.apply(tokens, method='decode')
    np.testing.assert_allclose(decoded, output.reconstruction, atol=1e-5)
    assert decoded.shape == case.images.shape
    assert decoded.dtype == jnp.float32
    grain = (
        ()
        if tokens.grain is None or 'grain' not in inspect.signature(case.module.decode_latents).parameters
        else (tokens.grain,)
    )
    by_hand = case.apply(case.apply(tokens, method='embed'), *grain, method='decode_latents')
    np.testing.assert_allclose(by_hand, decoded, atol=1e-6)


def test_images_do_not_influence_each_other(case):
    together = case.apply(case.images, method='encode').ids
    others = case.apply(case.images.at[2:].set(0), method='encode').ids
    np.testing.assert_array_equal(together[:2], others[:2])


def test_losses_are_scalars_with_known_names(case):
    losses = case.apply(case.images, train=True).losses
    assert all(loss.shape == () and np.isfinite(loss) for loss in losses.values())
    assert {name.split('/')[0] for name in losses} <= {
        'codebook',
        'commitment',
        'entropy',
        'disentangle',
        'grain_budget',
    }


def test_features_are_predicted_for_the_declared_teachers(case):
    assert set(case.apply(case.images, train=True).predictions) == set(case.module.teacher_kinds)


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
    output = jax.jit(lambda v, x: module.apply(v, x, train=True, rngs=NOISE))(case.variables, case.images)
    assert output.reconstruction.dtype == jnp.float32
    assert {loss.dtype for loss in output.losses.values()} <= {jnp.dtype('float32')}
    # The same tokens: rounding before the quantizer may choose other ones, which says nothing of the decoder.
    tokens = case.apply(case.images, method='encode')
    reference = case.apply(tokens, method='decode')
    rounded = jax.jit(lambda v, x: module.apply(v, x, method='decode'))(case.variables, tokens)
    # In the mean over the image: at single pixels rounding is as large as the draw of the weights makes it.
    assert 0 < np.linalg.norm(rounded - reference) < 0.045 * np.linalg.norm(reference)
    shapes = jax.eval_shape(lambda key: module.init(key, case.images, train=True), jax.random.key(0))
    assert {x.dtype for x in jax.tree.leaves(shapes)} == {jnp.dtype('float32')}


def test_one_batch_can_be_overfitted_frozen_tables_stay_and_running_means_move(case):
    optimizer = optax.adam(3e-3)

    @jax.jit
    def step(params, rest, state, number):
        def loss(params):
            output, changed = case.module.apply(
                {'params': params, **rest},
                case.images,
                train=True,
                mutable=list(rest),
                rngs={'sampling': jax.random.key(number)},
            )
            error = jnp.mean((output.reconstruction - case.images) ** 2)
            return error + sum(output.losses.values()), rest | changed

        grads, rest = jax.grad(loss, has_aux=True)(params)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), rest, state

    rest = {name: tree for name, tree in case.variables.items() if name != 'params'}
    params = case.variables['params']
    state = optimizer.init(params)

    def error(params, rest):
        output = case.apply(case.images, variables={'params': params, **rest})
        return float(jnp.mean((output.reconstruction - case.images) ** 2))

    before, frozen = error(params, rest), jax.device_get(rest.get('frozen', {}))
    running = jax.device_get(rest.get('codebook_stats', {}))
    for number in range(120):  # most need a third of them, a router whose choices are noisy nearly all
        params, rest, state = step(params, rest, state, number)
        if number % 20 == 19 and error(params, rest) < 0.25 * before:
            break
    assert error(params, rest) < 0.25 * before
    assert 'frozen' not in params
    jax.tree.map(np.testing.assert_array_equal, rest.get('frozen', {}), frozen)
    for old, new in zip(*map(jax.tree.leaves, (running, rest.get('codebook_stats', {}))), strict=True):
        assert np.abs(old - new).max() > 0
