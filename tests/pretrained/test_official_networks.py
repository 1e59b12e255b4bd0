"""LPIPS, CLIP and DINOv2 equal the official networks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_packs import assert_close, load_pack

from vistok.pretrained.clip import CLIPVision, clip_b16, clip_l14
from vistok.pretrained.convert import CLIP_IGNORED, DINOV2_IGNORED, LPIPS_IGNORED, clip_rules, dinov2_rules, lpips_rules
from vistok.pretrained.dinov2 import DINOv2, dinov2_s14
from vistok.pretrained.image_input import resize
from vistok.pretrained.lpips import LPIPS, VGG16Features, unit_features
from vistok.weights.rules import to_official, to_ours, variable_shapes

IMAGE = jnp.zeros((1, 32, 32, 3))
SMALL_CLIP = CLIPVision(width=64, layers=3, num_heads=4, patch=14, image_size=56, resize_method='nearest')
SMALL_DINO = DINOv2(width=64, layers=3, num_heads=4, image_size=56, position_grid=7, resize_method='nearest')


def count(tree):
    return sum(x.size for x in jax.tree.leaves(tree))


@functools.cache
def lpips():
    weights = load_pack('lpips').state_dict()
    shapes = variable_shapes(LPIPS(), IMAGE, IMAGE)
    return weights, to_ours(lpips_rules(weights), weights, shapes, LPIPS_IGNORED)


def test_lpips_equals_the_official_distance():
    golden = load_pack('lpips')
    weights, converted = lpips()
    golden.check_weights(weights)
    assert count(converted.variables) == golden.manifest['n_params']
    a, b = jnp.asarray(golden.nhwc('a')), jnp.asarray(golden.nhwc('b'))
    distance = jax.jit(LPIPS().apply)
    assert_close(distance(converted.variables, a, b), golden['dist'])
    np.testing.assert_array_equal(distance(converted.variables, a, a), np.zeros(3))


def test_vgg16_features_equal_the_official_ones():
    golden = load_pack('lpips')
    shift, scale = np.array([-0.030, -0.088, -0.188]), np.array([0.458, 0.448, 0.450])
    images = jnp.asarray(((golden.nhwc('a') - shift) / scale).astype(np.float32))
    features = jax.jit(VGG16Features().apply)({'params': lpips()[1].variables['params']['vgg16']}, images)
    for i, feature in enumerate(features, start=1):
        assert_close(jnp.moveaxis(feature, -1, 1)[:, ::32, ::2, ::2], golden[f'relu{i}_c32'])


def test_lpips_reads_torchvisions_trunk_with_separate_heads():
    weights, converted = lpips()
    pair = {name: w for name, w in weights.items() if name.startswith('lin')}
    for name, weight in weights.items():
        if name.startswith('net.'):
            pair['features.' + name.split('.', 2)[2]] = weight
    pair['classifier.0.bias'] = np.zeros(3, np.float32)
    again = to_ours(lpips_rules(pair), pair, variable_shapes(LPIPS(), IMAGE, IMAGE), LPIPS_IGNORED)
    assert again.ignored == ('classifier.0.bias',)
    jax.tree.map(np.testing.assert_array_equal, again.variables, converted.variables)


def test_unit_features_have_length_one_and_a_gradient_at_zero():
    x = jnp.array([[[[3.0, 4.0], [0.0, 0.0]]]])
    np.testing.assert_allclose(unit_features(x), [[[[0.6, 0.8], [0, 0]]]], rtol=1e-6)
    assert np.isfinite(jax.grad(lambda x: unit_features(x).sum())(x)).all()


@pytest.mark.parametrize(
    ('pack', 'model', 'rules', 'ignored'),
    [
        ('clip_vision_small', SMALL_CLIP, clip_rules, CLIP_IGNORED),
        ('dinov2_small', SMALL_DINO, dinov2_rules, DINOV2_IGNORED),
    ],
)
def test_vision_transformers_equal_the_transformers_package(pack, model, rules, ignored):
    golden = load_pack(pack)
    weights = golden.state_dict()
    golden.check_weights(weights)
    images = jnp.asarray(golden.nhwc('input'))
    converted = to_ours(rules(weights), weights, variable_shapes(model, images), ignored)
    assert_close(resize(images * 0.5 + 0.5, 56, 'nearest'), golden.nhwc('resized'))
    features = jax.jit(model.apply)(converted.variables, images)
    assert_close(features, golden['features'])

    back = to_official(rules(weights), converted.variables)
    assert back.keys() == weights.keys() - set(converted.ignored)
    assert all(np.array_equal(back[name], weights[name]) for name in back)
    left_out = sum(weights[name].size for name in converted.ignored)
    assert count(converted.variables) + left_out == golden.manifest['n_params']


def openai_layout(weights):
    """Hugging Face's state dict under the names of the original files, with the text tower's entries beside it."""
    names = {
        'vision_model.embeddings.class_embedding': 'visual.class_embedding',
        'vision_model.embeddings.patch_embedding.weight': 'visual.conv1.weight',
        'vision_model.embeddings.position_embedding.weight': 'visual.positional_embedding',
    }
    parts = {
        'vision_model.pre_layrnorm': 'visual.ln_pre',
        'vision_model.post_layernorm': 'visual.ln_post',
        'vision_model.encoder.layers': 'visual.transformer.resblocks',
        'layer_norm1': 'ln_1',
        'layer_norm2': 'ln_2',
        'self_attn.out_proj': 'attn.out_proj',
        'mlp.fc1': 'mlp.c_fc',
        'mlp.fc2': 'mlp.c_proj',
    }
    out = {'logit_scale': np.ones(()), 'ln_final.bias': np.zeros(2), 'text_projection': np.zeros((2, 2))}
    for name, weight in weights.items():
        if '.q_proj.' in name:
            three = [weights[name.replace('q_proj', f'{x}_proj')] for x in 'qkv']
            joined = name.replace('.self_attn.q_proj.', '.attn.in_proj_')
            names[name], weight = (
                functools.reduce(lambda n, p: n.replace(*p), parts.items(), joined),
                np.concatenate(three),
            )
        elif '.k_proj.' in name or '.v_proj.' in name:
            continue
        out[names.get(name) or functools.reduce(lambda n, p: n.replace(*p), parts.items(), name)] = weight
    return out


def original_dinov2_layout(weights):
    """Hugging Face's state dict under the names of the original files."""
    parts = {
        'embeddings.cls_token': 'cls_token',
        'embeddings.mask_token': 'mask_token',
        'embeddings.position_embeddings': 'pos_embed',
        'embeddings.patch_embeddings.projection': 'patch_embed.proj',
        'encoder.layer.': 'blocks.',
        'attention.output.dense': 'attn.proj',
        'layer_scale1.lambda1': 'ls1.gamma',
        'layer_scale2.lambda1': 'ls2.gamma',
        'attention.attention.query': 'attn.qkv',
        'layernorm.': 'norm.',
    }
    out = {}
    for name, weight in weights.items():
        if '.query.' in name:
            weight = np.concatenate([weights[name.replace('query', x)] for x in ('query', 'key', 'value')])
        elif '.key.' in name or '.value.' in name:
            continue
        out[functools.reduce(lambda n, p: n.replace(*p), parts.items(), name)] = weight
    return out


@pytest.mark.parametrize(
    ('pack', 'model', 'rules', 'ignored', 'other'),
    [
        ('clip_vision_small', SMALL_CLIP, clip_rules, CLIP_IGNORED, openai_layout),
        ('dinov2_small', SMALL_DINO, dinov2_rules, DINOV2_IGNORED, original_dinov2_layout),
    ],
)
def test_both_published_layouts_give_the_same_variables(pack, model, rules, ignored, other):
    weights = load_pack(pack).state_dict()
    shapes = variable_shapes(model, IMAGE)
    first = to_ours(rules(weights), weights, shapes, ignored)
    second = to_ours(rules(other(weights)), other(weights), shapes, ignored)
    jax.tree.map(np.testing.assert_array_equal, first.variables, second.variables)


@pytest.mark.parametrize(
    ('model', 'parameters', 'width', 'left_out'),
    [
        (clip_l14(), 303_179_776, 1024, 2 * 1024),  # left out: the final layer norm
        (clip_b16(), 85_799_424, 768, 2 * 768),
        (dinov2_s14(), 22_056_576, 384, 384),  # the mask token
    ],
)
def test_full_size_teachers_have_the_published_number_of_parameters(model, parameters, width, left_out):
    images = jnp.zeros((2, 256, 256, 3))
    assert count(variable_shapes(model, images)) == parameters - left_out
    out, _ = jax.eval_shape(model.init_with_output, jax.random.key(0), images)
    assert (out.shape, out.dtype) == ((2, width), jnp.float32)


def test_teachers_compute_in_bfloat16_when_asked():
    golden = load_pack('clip_vision_small')
    weights = golden.state_dict()
    images = jnp.asarray(golden.nhwc('input'))
    variables = to_ours(clip_rules(weights), weights, variable_shapes(SMALL_CLIP, images), CLIP_IGNORED).variables
    half = jax.jit(SMALL_CLIP.clone(dtype=jnp.bfloat16).apply)(variables, images)
    assert half.dtype == jnp.float32
    assert_close(half, golden['features'], 0.05)
    with pytest.raises(AssertionError):
        assert_close(half, golden['features'])


def test_nearest_resize_takes_the_pixels_that_pytorch_takes():
    ramp = jnp.broadcast_to(jnp.arange(256.0)[:, None, None], (256, 256, 1))[None]
    np.testing.assert_array_equal(
        resize(ramp, 224, 'nearest')[0, :, 0, 0], load_pack('clip_vision_small')['nearest_256_224']
    )


def test_bicubic_resize_averages_what_it_drops():
    checks = jnp.asarray(np.indices((64, 64)).sum(0) % 2, jnp.float32)[None, :, :, None]
    np.testing.assert_allclose(resize(checks, 16)[0, 4:-4, 4:-4], 0.5, atol=0.01)
    with pytest.raises(ValueError, match="'area' is none of"):
        resize(checks, 16, 'area')
