"""Patch features of the frozen networks: the right tokens, through the final norm, on their grid."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_packs import load_pack

from vistok.pretrained.clip import CLIPVision, clip_l14
from vistok.pretrained.convert import CLIP_PATCHES_IGNORED, DINOV2_IGNORED, clip_rules, dinov2_rules
from vistok.pretrained.dinov2 import DINOv2
from vistok.pretrained.frozen_network import load_frozen_network
from vistok.weights.rules import to_ours, variable_shapes

SIZES = {'width': 64, 'layers': 3, 'num_heads': 4, 'patch': 14, 'image_size': 56}


def layer_norm(x, scale, bias, epsilon):
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + epsilon) * scale + bias


def clip():
    weights = load_pack('clip_vision_small').state_dict()
    rng = np.random.default_rng(0)
    weights['visual_projection.weight'] = rng.standard_normal((24, 64)).astype(np.float32)
    model = CLIPVision(**SIZES, patch_width=24)
    norm = [weights[f'vision_model.post_layernorm.{name}'] for name in ('weight', 'bias')]
    return model, weights, clip_rules, CLIP_PATCHES_IGNORED, norm, 1e-5, weights['visual_projection.weight'].T


def dinov2():
    weights = load_pack('dinov2_small').state_dict()
    model = DINOv2(**SIZES, position_grid=7, patches=True)
    norm = [weights[f'layernorm.{name}'] for name in ('weight', 'bias')]
    return model, weights, dinov2_rules, DINOV2_IGNORED, norm, 1e-6, np.eye(64)


@pytest.mark.parametrize('network', [clip, dinov2])
def test_they_are_the_patch_tokens_after_norm_and_projection(network):
    model, weights, rules, ignored, norm, epsilon, projection = network()
    images = jax.random.uniform(jax.random.key(0), (2, 56, 56, 3), minval=-1, maxval=1)
    variables = to_ours(rules(weights), weights, variable_shapes(model, images), ignored).variables
    last = lambda module, _: module.name == 'block_2'  # noqa: E731
    features, state = jax.jit(lambda v: model.apply(v, images, capture_intermediates=last))(variables)
    tokens = np.asarray(state['intermediates']['block_2']['__call__'][0], np.float64)
    expected = layer_norm(tokens[:, 1:], *norm, epsilon) @ projection
    assert features.shape == (2, 4, 4, projection.shape[1])
    np.testing.assert_allclose(features.reshape(2, 16, -1), expected, rtol=1e-3, atol=1e-3)


def test_clip_l14_gives_the_width_of_the_published_table():
    image = jnp.zeros((1, 224, 224, 3))
    model = clip_l14(patches=True)
    shapes = variable_shapes(model, image)
    assert jax.eval_shape(model.apply, shapes, image).shape == (1, 16, 16, 768)


def test_the_stand_in_has_a_feature_for_every_eight_pixels():
    network = load_frozen_network('stand_in_patches')
    assert network(jnp.zeros((2, 32, 48, 3))).shape == (2, 4, 6, 80)


def test_the_missing_file_of_a_source_of_patches_names_the_stand_in_for_it():
    with pytest.raises(FileNotFoundError, match="without it use 'stand_in_patches'"):
        load_frozen_network('clip_l14', patches=True)
