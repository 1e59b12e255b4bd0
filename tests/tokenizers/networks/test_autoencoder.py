"""Layers of encoder and decoder compute what they say, at the borders too."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vistok.tokenizers.networks import blocks
from vistok.tokenizers.networks.autoencoder import ConvDecoder, EncoderTrunk
from vistok.tokenizers.networks.blocks import AttentionBlock, ResBlock, upsample_nearest

SMALL = {'channels': 32, 'channel_multipliers': (1, 2), 'res_blocks': 1}


def normal(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


def randomised(variables, seed=1):
    leaves, tree = jax.tree.flatten(variables)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    return jax.tree.unflatten(tree, [0.3 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)])


def count(variables):
    return sum(x.size for x in jax.tree.leaves(variables))


def test_downsampling_pads_right_and_bottom_only():
    trunk = EncoderTrunk(**SMALL)
    x = normal(1, 8, 8, 3)
    variables = jax.jit(trunk.init)(jax.random.key(0), x)
    layer = variables['params']['level_0_downsample']
    # A kernel that reads its top left corner reads every second pixel, beginning with the first.
    kernel = jnp.zeros_like(layer['kernel']).at[0, 0].set(jnp.eye(32))
    layer |= {'kernel': kernel, 'bias': jnp.zeros(32)}
    _, seen = jax.jit(functools.partial(trunk.apply, capture_intermediates=True))(variables, x)
    before = seen['intermediates']['level_0_res_0']['__call__'][0]
    after = seen['intermediates']['level_0_downsample']['__call__'][0]
    np.testing.assert_allclose(after, before[:, ::2, ::2], atol=1e-6)


def test_doubled_repeats_each_pixel_in_a_square():
    x = normal(2, 3, 5, 4)
    np.testing.assert_array_equal(upsample_nearest(x), np.asarray(x).repeat(2, 1).repeat(2, 2))


def test_attention_sees_all_positions_without_order():
    block, x = AttentionBlock(), normal(2, 3, 4, 32)
    variables = randomised(jax.jit(block.init)(jax.random.key(0), x))
    apply = jax.jit(block.apply)
    y = apply(variables, x)
    moved = apply(variables, x[:, ::-1])
    np.testing.assert_allclose(moved, y[:, ::-1], atol=1e-4)
    changed = apply(variables, x.at[:, 0, 0].add(5.0))
    assert float(jnp.abs(changed - y)[:, 2, 3].max()) > 1e-4


def test_attention_in_parts_is_attention_with_the_same_gradient(monkeypatch):
    q, k, v = jax.random.normal(jax.random.key(0), (3, 2, 13, 1, 4))  # 13 queries do not fall into equal parts

    def value_and_gradient():
        return jax.value_and_grad(lambda *qkv: jnp.sum(blocks.attend(*qkv) ** 2), argnums=(0, 1, 2))(q, k, v)

    expected, half = value_and_gradient(), [x.astype(jnp.bfloat16) for x in (q, k, v)]
    expected_half = blocks.attend(*half)
    monkeypatch.setattr(blocks, '_WEIGHTS_AT_ONCE', 13 * 5)
    assert ' scan[' in str(jax.make_jaxpr(blocks.attend)(q, k, v))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6), value_and_gradient(), expected)
    found_half = blocks.attend(*half)
    assert found_half.dtype == jnp.bfloat16
    np.testing.assert_allclose(found_half.astype(np.float32), expected_half.astype(np.float32), atol=0.02)


def test_shortcut_is_projected_only_where_the_width_changes():
    x = normal(1, 4, 4, 32)
    assert 'shortcut' not in ResBlock(32).init(jax.random.key(0), x)['params']
    assert 'shortcut' in ResBlock(64).init(jax.random.key(0), x)['params']


@pytest.mark.parametrize(('levels', 'expected'), [(None, {1}), ((), set()), ((0, 1), {0, 1})])
def test_attention_stands_at_the_levels_named(levels, expected):
    x = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
    params = jax.eval_shape(EncoderTrunk(**SMALL, attention_levels=levels).init, jax.random.key(0), x)['params']
    found = {int(name.split('_')[1]) for name in params if 'level' in name and 'attention' in name}
    assert found == expected
    z = jax.ShapeDtypeStruct((1, 4, 4, 8), jnp.float32)
    params = jax.eval_shape(ConvDecoder(**SMALL, attention_levels=levels).init, jax.random.key(0), z)['params']
    assert {1 - int(n.split('_')[1]) for n in params if 'level' in n and 'attention' in n} == expected


def test_decoder_mirrors_the_encoder_in_size():
    key, images = jax.random.key(0), jax.ShapeDtypeStruct((1, 16, 24, 3), jnp.float32)
    z, _ = jax.eval_shape(EncoderTrunk(**SMALL).init_with_output, key, images)
    assert z.shape == (1, 8, 12, 64)
    assert jax.eval_shape(ConvDecoder(**SMALL).init_with_output, key, z)[0].shape == (1, 16, 24, 3)


def test_full_sizes_have_the_published_numbers_of_parameters():
    z = jax.ShapeDtypeStruct((1, 4, 4, 256), jnp.float32)
    assert count(jax.eval_shape(ConvDecoder().init, jax.random.key(0), z)) == 42_449_795


def test_recomputed_activations_give_the_same_gradient_with_the_same_parameters():
    x = normal(1, 8, 8, 3)
    variables = jax.jit(EncoderTrunk(**SMALL).init)(jax.random.key(0), x)

    def gradient(remat):
        module = EncoderTrunk(**SMALL, remat=remat)
        return jax.jit(jax.grad(lambda v: jnp.mean(module.apply(v, x) ** 2)))(variables)

    for a, b in zip(jax.tree.leaves(gradient(False)), jax.tree.leaves(gradient(True)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_bfloat16_computes_what_float32_computes_with_float32_parameters():
    x = normal(1, 8, 8, 3)
    exact, rough = EncoderTrunk(**SMALL), EncoderTrunk(**SMALL, dtype=jnp.bfloat16)
    variables = jax.jit(rough.init)(jax.random.key(0), x)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype('float32')}
    y, expected = jax.jit(rough.apply)(variables, x), jax.jit(exact.apply)(variables, x)
    assert y.dtype == jnp.bfloat16
    assert float(jnp.abs(y - expected).max() / jnp.abs(expected).max()) < 0.05


def test_sides_that_cannot_be_halved_are_refused():
    with pytest.raises(ValueError, match=r'multiples of 2, got \(9, 8\)'):
        EncoderTrunk(**SMALL).init(jax.random.key(0), normal(1, 9, 8, 3))
