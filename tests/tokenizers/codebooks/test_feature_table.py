"""Tables of features: how they are made, kept in files, and put into a run."""

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from run_command import run_command

from vistok.errors import UserError
from vistok.experiments import assembly, initial_weights, registry, training
from vistok.experiments.config_files import load_config
from vistok.experiments.run_folder import read_checkpoint
from vistok.pretrained.frozen_network import load_frozen_network
from vistok.tokenizers.codebooks import feature_table
from vistok.tokenizers.codebooks.feature_table import (
    CodebookTable,
    FeatureTable,
    PatchFeatures,
    cluster_features,
    patch_features,
    read_table,
    write_table,
)
from vistok.training.state import TrainState
from vistok.weights.files import load_variables, save_variables


def tiny(variant='', **overrides):
    config = load_config(f'configs/vqgan_lc.py:{variant}tiny')
    config.train.devices = 1
    config.update_from_flattened_dict(overrides)
    return config


def batches(count=6, size=32, seed=0):
    rng = np.random.default_rng(seed)
    for start in range(0, count, 4):
        image = rng.uniform(-1, 1, (4, size, size, 3)).astype(np.float32)
        yield {
            'image': image,
            'label': np.arange(start, start + 4, dtype=np.int32),
            'mask': np.arange(start, start + 4) < count,
        }


def test_features_are_averages_over_squares_of_patches():
    network = load_frozen_network('stand_in_patches')
    features = patch_features(network, batches(size=64), 10, pool=4)
    assert features.vectors.shape == (6, 4, 80)
    np.testing.assert_array_equal(features.labels, range(6))
    grid = np.asarray(network(jnp.asarray(next(batches(size=64))['image'])))
    np.testing.assert_allclose(features.vectors[1, 1], grid[1, :4, 4:].mean((0, 1)), rtol=1e-2, atol=1e-3)


def test_a_grid_smaller_than_the_square_is_averaged_whole():
    features = patch_features(load_frozen_network('stand_in_patches'), batches(size=16), 3, pool=4)
    assert features.vectors.shape == (3, 1, 80)


def test_many_features_are_kept_in_a_file_that_vanishes(monkeypatch, tmp_path):
    network = load_frozen_network('stand_in_patches')
    expected = patch_features(network, batches(), 6, pool=4)
    monkeypatch.setattr(feature_table, '_LARGEST_IN_MEMORY', 100)
    mapped = patch_features(network, batches(), 6, 4, str(tmp_path))
    assert isinstance(mapped.vectors, np.memmap)
    np.testing.assert_array_equal(mapped.vectors, expected.vectors)
    assert list(tmp_path.iterdir()) == []


def two_classes():
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((20, 3, 5)).astype(np.float16)
    labels = np.tile(np.array([4, 1], np.int32), 10)
    vectors[labels == 4] += 100
    return PatchFeatures(vectors, labels)


def test_each_class_has_its_own_rows_in_the_order_of_the_labels():
    rows = cluster_features(two_classes(), 6, per_class=True)
    assert rows[:3].max() < 10 < 90 < rows[3:].min()
    together = cluster_features(two_classes(), 5)
    assert together.shape == (5, 5)


def test_each_part_is_clustered_by_itself():
    features = two_classes()
    rows = cluster_features(features, 60, parts=4)  # as many rows as vectors: each becomes one, wherever it is drawn to
    np.testing.assert_array_equal(
        np.unique(rows, axis=0), np.unique(features.vectors.reshape(-1, 5).astype(np.float32), axis=0)
    )
    passes = []
    cluster_features(features, 8, parts=4, iterations=0, on_iteration=lambda: passes.append(1))
    assert len(passes) == 4
    with pytest.raises(UserError, match='6 rows cannot be shared out equally among 4 parts'):
        cluster_features(features, 6, parts=4)


def test_rows_that_cannot_be_shared_out_or_filled_are_refused():
    with pytest.raises(UserError, match='7 rows cannot be shared out equally among 2 classes'):
        cluster_features(two_classes(), 7, per_class=True)
    with pytest.raises(UserError, match='10 images give 30 features, too few for 40 rows'):
        cluster_features(two_classes(), 80, per_class=True)


def test_a_table_comes_back_from_its_file_with_its_origin(tmp_path):
    rows = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
    write_table(tmp_path / 'table.safetensors', CodebookTable(rows, {'features': 'clip_l14', 'seed': '3'}))
    table = read_table(tmp_path / 'table.safetensors')
    np.testing.assert_array_equal(table.rows, rows)
    assert {'features': 'clip_l14', 'seed': '3', 'size': '6', 'width': '4'}.items() <= table.about.items()
    assert len(table.about['sha256']) == 64


def test_files_that_are_no_table_are_refused_in_a_sentence(tmp_path):
    with pytest.raises(UserError, match=r'there is no table .*absent.safetensors'):
        read_table(tmp_path / 'absent.safetensors')
    safetensors.numpy.save_file({'a': np.zeros(3)}, tmp_path / 'foreign.safetensors')
    with pytest.raises(UserError, match='is no table'):
        read_table(tmp_path / 'foreign.safetensors')
    path = tmp_path / 'table.safetensors'
    write_table(path, CodebookTable(np.zeros((2, 2), np.float32)))
    saved = load_variables(path)
    save_variables(path, saved.name, {'frozen': {'codewords': np.ones((2, 2), np.float32)}}, saved.about)
    with pytest.raises(UserError, match='another digest'):
        read_table(path)


def initial_arrays(config):
    """What a run of this config would start from."""
    return FeatureTable('codewords').arrays(
        registry.build_tokenizer(config.model), config.table, assembly.initial_data(config)
    )


def test_the_default_table_is_made_of_the_training_images_and_the_same_each_time():
    rows = initial_arrays(tiny())['frozen/codewords']
    assert rows.shape == (32, 80)
    assert len(np.unique(rows, axis=0)) == 32
    np.testing.assert_array_equal(rows, initial_arrays(tiny())['frozen/codewords'])
    assert initial_arrays(tiny('gaussian,')) == {}


@pytest.mark.parametrize('trained', [False, True])
def test_a_run_starts_from_its_table_and_keeps_a_frozen_one(tmp_path, trained):
    rows = np.random.default_rng(0).standard_normal((32, 80)).astype(np.float32)
    write_table(tmp_path / 'table.safetensors', CodebookTable(rows))
    config = tiny(**{'table': str(tmp_path / 'table.safetensors'), 'model.table_trained': trained, 'train.steps': 1})
    training.run_training(config, tmp_path / 'run', show_progress=False)
    _, tree = read_checkpoint(tmp_path / 'run')
    if trained:
        after = tree['params']['tokenizer']['quantizer']['codebook']['table']['codewords']
        assert 0 < np.abs(after - rows).max() < 0.01
        assert 'frozen' not in tree['model_state']['tokenizer']
    else:
        after = tree['model_state']['tokenizer']['frozen']['quantizer']['codebook']['table']['codewords']
        np.testing.assert_array_equal(after, rows)


def test_a_table_that_does_not_fit_is_refused_before_anything_is_written(tmp_path):
    write_table(tmp_path / 'table.safetensors', CodebookTable(np.zeros((9, 80), np.float32)))
    with pytest.raises(UserError, match=r'has 9 rows of width 80, config.model wants 32 of width 80'):
        training.run_training(tiny(table=str(tmp_path / 'table.safetensors')), tmp_path / 'run', show_progress=False)
    assert not (tmp_path / 'run').exists()


def test_a_model_without_a_table_refuses_one(tmp_path):
    write_table(tmp_path / 'table.safetensors', CodebookTable(np.zeros((32, 8), np.float32)))
    config = load_config('configs/vqgan.py:tiny')
    config.train.devices = 1
    config.table = str(tmp_path / 'table.safetensors')
    with pytest.raises(UserError, match=r'config\.table is set, but a VQGAN has no place for it'):
        training.run_training(config, tmp_path / 'run', show_progress=False)
    assert not (tmp_path / 'run').exists()


def test_the_command_writes_a_table_and_says_so(tmp_path, capsys):
    command = ['build_codebook', '--features=stand_in_patches', '--source=embedded:digits', '--image_size=32']
    assert run_command(*command, '--views=64', '--size=20', f'--out={tmp_path}/t.safetensors') == 0
    assert capsys.readouterr().out == f'wrote {tmp_path}/t.safetensors: 20 rows of width 80, from stand_in_patches\n'
    about = read_table(tmp_path / 't.safetensors').about
    assert (about['source'], about['pictures'], about['size']) == ('embedded:digits', '64', '20')
    assert run_command(*command, '--out=x.npz') == 1
    assert capsys.readouterr().err.startswith("error: name the file to write, --out=FILE.safetensors; got 'x.npz'")


def test_a_frozen_table_of_another_size_is_not_taken_over_with_earlier_weights():
    def state(size):
        params = {'tokenizer': {'a': jnp.zeros(2)}}
        table = {'frozen': {'codewords': jnp.full((size, 3), float(size))}}
        return TrainState(jnp.zeros(()), params, {}, {'tokenizer': table})

    given = {'tokenizer': {'params': {'a': np.ones(2)}, 'frozen': {'codewords': np.ones((4, 3))}}}
    taken, _ = initial_weights.apply_weights(state(4), given)
    np.testing.assert_array_equal(taken.model_state['tokenizer']['frozen']['codewords'], np.ones((4, 3)))
    kept, told = initial_weights.apply_weights(state(5), given)
    np.testing.assert_array_equal(kept.model_state['tokenizer']['frozen']['codewords'], np.full((5, 3), 5.0))
    assert 'frozen tables are of other shapes' in told
