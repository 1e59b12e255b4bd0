"""Classifiers on an encoder: the loss of mixtures, rates that fall with depth, batch norm, and equal runners."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from golden_packs import load_pack, random_variables

from vistok.collectives import name_replica_axis, replica_mean
from vistok.errors import UserError
from vistok.experiments.assembly import build_train_step
from vistok.experiments.config_files import load_config
from vistok.experiments.registry import build_probe
from vistok.generators.masked.addp_network import PixelEncoder
from vistok.generators.masked.linear_probe import LinearProbe, LinearProbeObjective, classification_scores
from vistok.training.optimizer import scale_by_depth

PACK = load_pack('recognition')
ENCODER = {'cells': 4, 'patch': 4, 'width': 8, 'layers': 3, 'heads': 2}
IMAGES = np.random.default_rng(0).uniform(-1, 1, (8, 8, 8, 3)).astype(np.float32)
BATCH = {
    'image': IMAGES,
    'label': np.arange(8, dtype=np.int32) % 5,
    'other_label': np.arange(8, dtype=np.int32)[::-1] % 5,
    'share': np.linspace(0, 1, 8, dtype=np.float32),
}


@pytest.mark.parametrize('name', ['mixup', 'cutmix'])
def test_mixtures_have_the_loss_of_timm(name):
    share = 0.3 if name == 'mixup' else 1 - PACK['mix_cut_area']
    batch = {
        'label': jnp.array([1, 4]),
        'other_label': jnp.array([4, 1]),
        'share': jnp.full(2, share, jnp.float32),
    }
    loss, _ = classification_scores(jnp.asarray(PACK['mix_logits']), batch, 0.1)
    np.testing.assert_allclose(loss.mean(), PACK[f'{name}_loss'], rtol=1e-5)


def test_a_mixture_is_right_by_the_share_of_the_likeliest_class():
    logits = jnp.array([[0.0, 1, 2], [0, 1, 2], [2, 0, 0]])
    batch = {'label': jnp.array([2, 1, 1]), 'other_label': jnp.array([1, 2, 2]), 'share': jnp.array([0.7, 0.7, 0.7])}
    _, right = classification_scores(logits, batch)
    np.testing.assert_allclose(right, [0.7, 0.3, 0], rtol=1e-6)


def test_learning_rates_fall_with_depth_as_in_the_official_code():
    layers, decay = PACK.manifest['layers'], PACK.manifest['layer_decay']
    model = LinearProbe(PixelEncoder(**(ENCODER | {'layers': layers})), 5, linear=False)
    shapes = jax.eval_shape(model.init, jax.random.key(0), IMAGES)['params']
    params = jax.tree.map(lambda x: np.ones(x.shape, np.float32), shapes)
    updates, _ = scale_by_depth(decay, LinearProbeObjective(model).parameter_depths).update(
        params, optax.EmptyState(), params
    )
    encoder = updates['encoder']
    ours = {
        'cls_token': encoder['image'],
        'pos_embed': encoder['positions'],
        'patch_embed.proj.weight': encoder['patches']['kernel'],
        'patch_embed.proj.bias': encoder['patches']['bias'],
        'norm.weight': updates['norm']['scale'],
        'norm.bias': encoder['blocks']['norm']['bias'],
        'head.weight': updates['classes']['kernel'],
        'head.bias': updates['classes']['bias'],
    }
    parts = {
        'norm1.weight': ('norm1', 'scale'),
        'attn.qkv.weight': ('attention', 'qkv', 'kernel'),
        'attn.proj.bias': ('attention', 'out', 'bias'),
        'mlp.fc2.weight': ('mlp_out', 'kernel'),
    }
    for layer in (0, 1, 11):
        for name, path in parts.items():
            value = encoder['blocks']['layers']
            for key in path:
                value = value[key]
            ours[f'blocks.{layer}.{name}'] = value[layer]
    for name, value in ours.items():
        np.testing.assert_allclose(value, PACK.manifest['layer_scales'][name][0], rtol=1e-5, err_msg=name)
    assert np.all(encoder['embedding_norm']['scale'] == encoder['positions'][0, 0])


def test_the_same_parameters_as_in_the_official_code_are_spared_by_weight_decay():
    config = load_config('configs/addp_probe.py:imagenet256,finetune')
    model = LinearProbe(PixelEncoder(**ENCODER), 5, linear=False)
    shapes = jax.eval_shape(model.init, jax.random.key(0), IMAGES)['params']
    params = jax.tree.map(lambda x: np.ones(x.shape, np.float32), shapes)
    config.optimizer.update(warmup_steps=0, layer_decay=1.0)
    optimizer = build_train_step(config, LinearProbeObjective(model)).optimizers['recognizer']

    @jax.jit
    def update_without_gradients(params):
        return optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)[0]

    decayed = jax.tree.map(lambda x: bool(np.any(x)), update_without_gradients(params))
    assert decayed['encoder']['patches'] == {'kernel': True, 'bias': False}
    assert not decayed['encoder']['positions']
    assert not decayed['encoder']['image']
    assert decayed['classes'] == {'kernel': True, 'bias': False}
    official = {name: decay for name, (_, decay) in PACK.manifest['layer_scales'].items()}
    assert official['pos_embed'] == official['cls_token'] == official['head.bias'] == 0
    assert official['patch_embed.proj.weight'] == official['head.weight'] == 0.05


def probe(**settings):
    model = {'dropout': 0.0, 'linear': False, 'drop_path': 0.5, **settings}
    return build_probe(model, ENCODER, 5)


def test_the_loss_and_the_batch_statistics_of_replicas_are_those_of_one_device():
    model = probe(batch_norm=True)
    objective = LinearProbeObjective(model, label_smoothing=0.1)
    variables = random_variables(jax.eval_shape(model.init, jax.random.key(0), IMAGES))
    params, stats = {'recognizer': variables['params']}, {'recognizer': {'batch_stats': variables['batch_stats']}}

    def losses(batch):
        found, (model_state, _) = objective.losses(params, stats, None, batch, jax.random.key(1), jnp.asarray(0))
        return replica_mean((found, model_state))

    def replica(batch):
        with name_replica_axis('replica'):
            return losses(batch)

    one = jax.jit(losses)(BATCH)
    parts = {name: x.reshape(2, 4, *x.shape[1:]) for name, x in BATCH.items()}
    both = jax.pmap(replica, axis_name='replica', devices=jax.devices()[:2])(parts)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[0], b, rtol=1e-4, atol=1e-5), both, one)


def test_batch_norm_makes_features_of_mean_zero_and_keeps_running_statistics():
    model = probe(linear=True, batch_norm=True)
    variables = random_variables(jax.eval_shape(model.init, jax.random.key(0), IMAGES))
    variables['batch_stats'] = {'statistics': {'mean': jnp.zeros(8), 'var': jnp.ones(8)}}
    assert set(variables['params']) == {'classes'}
    images = jnp.asarray(IMAGES)
    logits, changed = jax.jit(lambda v, x: model.apply(v, x, train=True, mutable=['batch_stats']))(variables, images)
    np.testing.assert_allclose(logits.mean(axis=0), variables['params']['classes']['bias'], atol=1e-5)
    mean, var = (changed['batch_stats']['statistics'][name] for name in ('mean', 'var'))
    assert np.all(mean != 0)
    assert np.all((var != 1) & (var > 0.89))
    assert not np.allclose(jax.jit(model.apply)(variables, images), logits)


def test_stochastic_depth_grows_from_nothing_in_the_first_block_to_the_whole_rate_in_the_last():
    model = PixelEncoder(**ENCODER, dropout=0.0)
    images = jnp.asarray(np.repeat(IMAGES, 32, axis=0))
    variables = random_variables(jax.eval_shape(model.init, jax.random.key(0), images))
    layers = variables['params']['blocks']['layers']

    def only(layer, tree):
        return jax.tree.map(
            lambda x: jnp.where(np.arange(3).reshape(3, *(1 for _ in x.shape[1:])) == layer, x, 0), tree
        )

    def features(layer, **options):
        """Features where only the attention of this block adds anything to them."""
        attention = {**layers['attention'], 'out': only(layer, layers['attention']['out'])}
        silent = {'attention': attention, 'mlp_out': only(3, layers['mlp_out'])}
        blocks = {**variables['params']['blocks'], 'layers': {**layers, **silent}}
        return apply({'params': {**variables['params'], 'blocks': blocks}}, images, **options)

    apply = jax.jit(model.apply, static_argnames=('train', 'drop_path'))
    for layer, rate in enumerate((0.0, 0.3, 0.6)):
        found = features(layer, train=True, drop_path=0.6, rngs={'drop_path': jax.random.key(3)})
        dropped = np.mean(np.all(np.abs(found - features(3)) < 1e-5, axis=(1, 2)))
        assert abs(dropped - rate) < 0.1  # of 256 samples, deviation 0.03
        if rate == 0:
            np.testing.assert_allclose(found, features(layer), atol=1e-5)


def test_a_rate_out_of_range_is_answered_in_a_sentence():
    with pytest.raises(UserError, match=r'model.drop_path must be at least 0 and below 1, got 1\.0'):
        probe(drop_path=1.0)


def test_a_model_without_the_later_settings_is_the_earlier_one():
    assert build_probe({'dropout': 0.0, 'linear': True}, ENCODER, 5) == LinearProbe(
        PixelEncoder(**ENCODER, dropout=0.0), 5
    )


def test_the_published_recipes_have_the_published_numbers():
    finetune = load_config('configs/addp_probe.py:imagenet256,finetune')
    assert finetune.optimizer.learning_rate == 4e-3
    assert finetune.optimizer.learning_rate * finetune.optimizer.final_fraction == pytest.approx(1e-6)
    assert (finetune.optimizer.clip_norm, finetune.optimizer.layer_decay, finetune.optimizer.b2) == (0.0, 0.65, 0.999)
    assert (finetune.train.steps, finetune.optimizer.warmup_steps) == (125_100, 25_020)
    assert (finetune.data.least_area, finetune.data.rand_augment, finetune.data.erasing) == (0.08, 9.0, 0.25)
    assert (finetune.data.mixing.mixup, finetune.data.mixing.cutmix) == (0.8, 1.0)
    linear = load_config('configs/addp_probe.py:imagenet256')
    assert (linear.optimizer.method, linear.optimizer.learning_rate, linear.train.batch_size) == ('lars', 1.6, 4096)
    assert (linear.train.steps, linear.optimizer.warmup_steps) == (90 * 312, 10 * 312)
    assert linear.optimizer.weight_decay == linear.model.label_smoothing == linear.data.rand_augment == 0
    large = load_config('configs/addp_probe.py:imagenet256,finetune,large')
    assert (large.optimizer.learning_rate, large.optimizer.layer_decay, large.model.drop_path) == (1e-3, 0.8, 0.2)
    assert large.train.steps == 50 * 1251
    for config in (finetune, linear, large):
        assert (config.data.augmentation, config.data.flip) == ('random_resized_crop', True)
