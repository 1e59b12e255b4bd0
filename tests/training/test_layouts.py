"""Every config's `tiny` run is the same on one device, on two under jit and on two under pmap, whatever it draws."""

import dataclasses
import pathlib

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from toy_objective import ToyData, ToyObjective, toy_step

from vistok.collectives import replica_draw
from vistok.experiments import assembly, registry
from vistok.experiments.config_files import load_config
from vistok.generators.masked.linear_probe import LinearProbeObjective
from vistok.generators.objective import GeneratorObjective
from vistok.tokenizers.maskgit_vqgan import MaskGITVQGAN
from vistok.tokenizers.tokenizer import TokenSpec
from vistok.training.parallel import make_runner

CONFIGS = pathlib.Path(__file__).parents[2] / 'configs'
LAYOUTS = {'one': {'devices': 1}, 'jit': {'devices': 2}, 'pmap': {'kind': 'pmap', 'devices': 2}}
BATCH, STEPS = 8, 2

# One of each kind, with random numbers in its step: noise of a router and restarts, masks and dropout, dropout.
IN_EVERY_RUN = ('dq_vae:feature,tiny', 'mage:tiny', 'addp_probe:finetune,tiny')
# Variants that draw what the default of their config does not, or whose losses couple the samples of a batch.
VARIANTS = (
    'addp_probe:finetune',
    'code_free:bsq',
    'control_gic:random_shares',
    'dq_vae:feature',
    'dq_vae:triple,feature',
    'fqgan:triple',
    'vq_ddm:transformer',
    'vqgan:restart',
)
NAMES = {
    *VARIANTS,
    *(path.stem for path in CONFIGS.glob('*.py')),
    *(row.config for row in registry.MODELS.values() if row.config),
}


def distinct(names):
    """Names whose configs differ: some variants are the default."""
    return list({load_config(name).to_json_best_effort(): name for name in sorted(names)}.values())


CASES = distinct(f'{name},tiny' if ':' in name else f'{name}:tiny' for name in NAMES)

TOKENIZER = MaskGITVQGAN(channels=8, channel_multipliers=(1, 1), res_blocks=1, codebook_size=12, codebook_dim=4)
SPECS = {  # of generators that need other tokens than those of one codebook
    'far': TokenSpec((7, 5, 6), 2, ('vis', 'mid', 'high')),
    'dq_transformer': TokenSpec((7,), 2, grains=(1, 2)),
}
GRID, CLASSES = (4, 4), 3


def tokenizer_case(config):
    return assembly.build_tokenizer_objective(config), random_images(config.data.image_size)


def generator_case(config):
    name = config.model.name
    spec = SPECS.get(name, TOKENIZER.spec)
    tokens = dataclasses.asdict(spec) | {'grid': GRID, 'num_classes': CLASSES}
    components = {}
    if 'predictor' in registry.argument_names(registry.find_model(name).cls):
        predictor = registry.build_generator(load_config('mage:tiny').model, tokens)
        components = {'tokenizer': TOKENIZER, 'predictor': predictor}
    generator = registry.build_generator(config.model, tokens, **components)

    def batch(rng):
        ids = np.stack([rng.integers(0, size, (BATCH, *GRID)) for size in spec.codebook_sizes], axis=-1)
        fields = {'label': rng.integers(0, CLASSES, BATCH)}
        if spec.grains != (1,):  # some cells of 2x2 positions are one token
            coarse = rng.random((BATCH, 2, 2)) < 0.5
            coarse = coarse.repeat(2, 1).repeat(2, 2)
            ids = np.where(coarse[..., None], ids[:, ::2, ::2].repeat(2, 1).repeat(2, 2), ids)
            fields['grain'] = 1 + coarse
        return {name: value.astype(np.int32) for name, value in (fields | {'ids': ids}).items()}

    return GeneratorObjective(generator), batch


def probe_case(config):
    encoder = ConfigDict({'cells': 16, 'patch': 4, 'width': 16, 'layers': 2, 'heads': 2})
    config.model.dropout = 0.1
    model = registry.build_probe(config.model, encoder, CLASSES)
    return LinearProbeObjective(model, label_smoothing=config.model.label_smoothing), random_images(16)


def random_images(size):
    def batch(rng):
        pixels = rng.uniform(-1, 1, (BATCH, size // 4, size // 4, 3)).astype(np.float32)
        smooth = np.asarray(jax.image.resize(pixels, (BATCH, size, size, 3), 'cubic')).clip(-1, 1)
        return {'image': smooth, 'label': rng.integers(0, CLASSES, BATCH).astype(np.int32)}

    return batch


KINDS = {registry.TOKENIZER: tokenizer_case, registry.GENERATOR: generator_case, registry.PROBE: probe_case}


def run(layout, step, batches):
    runner = make_runner(**LAYOUTS[layout])
    state = runner.enter(runner.init(step, 0, batches[0]))
    frozen, function, reports = runner.put_frozen(step.objective.frozen), None, []
    for batch in batches:
        placed = runner.put_batch(batch)
        if function is None:
            function, _ = runner.compile(step, state, frozen, placed)
        state, report = function(state, frozen, placed)
        reports.append(jax.device_get(report))
    return reports


def assert_same_run(config, layouts):
    objective, batch = KINDS[registry.find_model(config.model.name).kind](config)
    step = assembly.build_train_step(config, objective)
    rng = np.random.default_rng(0)
    batches = [batch(rng) for _ in range(STEPS)]
    expected = run('one', step, batches)
    for layout in layouts:
        for number, (ours, reference) in enumerate(zip(run(layout, step, batches), expected, strict=True)):
            assert ours.metrics.keys() == reference.metrics.keys()
            for metric, value in reference.metrics.items():
                np.testing.assert_allclose(
                    ours.metrics[metric], value, rtol=1e-5, atol=1e-6, err_msg=f'{layout}, step {number}: {metric}'
                )
            for codebook, counts in reference.counts.items():
                np.testing.assert_array_equal(ours.counts[codebook], counts, f'{layout}, step {number}: {codebook}')


@pytest.mark.slow  # three programs for each; before a release
@pytest.mark.parametrize('name', CASES)
def test_losses_agree_to_1e5_and_counts_exactly(name):
    assert_same_run(load_config(name), ('jit', 'pmap'))


@pytest.mark.parametrize('name', IN_EVERY_RUN)
def test_replicas_draw_what_one_device_draws(name):
    config = load_config(name)
    if 'objective' in config:  # networks that judge images draw nothing, and take most of the time
        config.objective.update(discriminator='', perceptual='')
    assert_same_run(config, ('pmap',))


class NoisyToy(ToyObjective):
    """Toy objective on images with noise."""

    def losses(self, params, model_state, frozen, batch, rng, step):
        x = batch['image']
        noise = replica_draw(lambda rows: jax.random.normal(rng, (rows, *x.shape[1:])), len(x))
        return super().losses(params, model_state, frozen, {'image': x + noise}, rng, step)


@pytest.mark.parametrize('accumulate', [1, 2])
def test_parts_of_a_batch_draw_the_same_on_all_layouts(accumulate):
    step, data = toy_step(objective=NoisyToy(), accumulate=accumulate), ToyData()
    batches = [next(data) for _ in range(STEPS)]
    expected = run('one', step, batches)
    for layout in ('jit', 'pmap'):
        for ours, reference in zip(run(layout, step, batches), expected, strict=True):
            for metric, value in reference.metrics.items():
                np.testing.assert_allclose(ours.metrics[metric], value, rtol=1e-5, atol=1e-6, err_msg=metric)
            np.testing.assert_array_equal(ours.counts['code'], reference.counts['code'])


def test_every_kind_has_a_case_in_every_run():
    assert set(IN_EVERY_RUN) <= set(CASES)
    kinds = {registry.find_model(load_config(name).model.name).kind for name in IN_EVERY_RUN}
    assert kinds == {row.kind for row in registry.MODELS.values()}
