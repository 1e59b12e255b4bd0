"""Variants of configs: every pair of every config, in both orders."""

import itertools
import pathlib

import pytest

from vistok.configs.base import variants
from vistok.errors import UserError
from vistok.experiments import config_files, registry


def _groups(name):
    """Returns the groups of variants of a config, as its file gives them to `merge`."""
    seen = {}
    original = variants.merge

    def spy(config, named, **groups):
        seen.update(groups)
        return original(config, named, **groups)

    variants.merge = spy
    try:
        config_files.load_config(name)
    finally:
        variants.merge = original
    return seen


GROUPS = {name: _groups(name) for name in config_files.packaged_configs()}
PAIRS = [
    (name, *pair)
    for name, groups in GROUPS.items()
    for pair in itertools.combinations([variant for group in groups.values() for variant in group], 2)
]
# Variants that say what is so anyway, alone or beside the other.
WITHOUT_EFFECT = {
    ('fvq', 'vit'),
    ('code_free', 'fsq'),
    ('llamagen', 'imagenet256', 'b'),
    ('llamagen', 'imagenet384', 'b'),
    ('llamagen', 'text256', 'xl'),
    ('simvq', 'vqgan', 'imagenet256'),
    ('dq_vae', 'triple', 'feature', 'imagenet256'),
    ('control_gic', 'random_shares', 'codec'),
    ('vqgan_lc', 'gaussian', 'none'),
}


def _merged(name, *named):
    """Returns the config as nested values, without its record of variants; None if the variants do not combine."""
    try:
        config = config_files.load_config(f'{name}:{",".join(named)}')
    except UserError:
        return None
    record = config.variants
    config.variants = ''
    return config.to_json(sort_keys=True), record


@pytest.mark.parametrize(('name', 'first', 'second'), PAIRS, ids=['-'.join(pair) for pair in PAIRS])
def test_a_pair_means_the_same_in_both_orders_or_is_refused(name, first, second):
    merged = _merged(name, first, second)
    assert merged == _merged(name, second, first)
    same_group = any(first in group and second in group for group in GROUPS[name].values())
    if same_group:
        assert merged is None
    if merged is None:
        return
    values, record = merged
    assert set(record.split(',')) == {first, second}
    for swallowed, other in ((first, second), (second, first)):
        if any({name, swallowed} <= set(known) <= {name, first, second} for known in WITHOUT_EFFECT):
            continue
        alone = _merged(name, other)  # None: it needs the other one
        assert alone is None or values != alone[0], f'{swallowed} has no effect beside {other}'


def test_every_variant_stands_in_the_docstring_of_its_config():
    for name, groups in GROUPS.items():
        text = pathlib.Path(config_files.packaged_configs()[name]).read_text('utf-8').split('"""')[1]
        words = set(text.replace(',', ' ').split())
        assert {variant for group in groups.values() for variant in group} <= words, name


def test_every_model_of_the_registry_has_a_config_that_trains_it():
    for name, row in registry.MODELS.items():
        if row.config:
            assert config_files.load_config(row.config).model.name == name


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('fqgan:tripel', "unknown variant 'tripel'; known: triple, "),
        ('fqgan:cifar10,imagenet256', r'cifar10 and imagenet256 are alternatives \(data\): name one of them'),
        ('vqgan:taming', 'taming goes with imagenet256'),
        ('simvq:imagenet256,plain', 'plain goes with imagenet128'),
        ('addp:large', 'large goes with imagenet256'),
    ],
)
def test_variants_that_do_not_combine_are_refused_in_a_sentence(name, message):
    with pytest.raises(UserError, match=message):
        config_files.load_config(name)


def test_the_run_folder_is_named_by_what_was_merged():
    for name in ('fqgan:imagenet256,triple', 'fqgan:triple,imagenet256', 'configs/fqgan.py:triple,imagenet256,triple'):
        config = config_files.load_config(name)
        assert config.variants == 'triple,imagenet256'
        assert str(config_files.default_workdir(name, config)) == 'runs/fqgan-triple-imagenet256'


def test_later_groups_build_upon_earlier_ones():
    triple = config_files.load_config('fqgan:imagenet256,triple').model
    assert triple.teachers == ('', 'dinov2_s', 'clip_b16')
    assert config_files.load_config('llamagen:l,imagenet256').model.layers == 24
    assert config_files.load_config('code_free:imagenet256,lfq').model.bits == 14
    assert config_files.load_config('vqgan:taming,imagenet256').train.batch_size == 96
