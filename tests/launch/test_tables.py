"""The commands that make tables of a trained tokenizer, and the stand-in's training, on tiny models."""

import jax
import numpy as np
import pytest
from golden_packs import random_variables
from image_files import two_classes
from run_command import run_command

import vistok
from vistok.data.tokens.dataset import TokenSource
from vistok.errors import UserError
from vistok.experiments.saved_models import save_model
from vistok.generators.autoregressive.codeword_clusters import read_clusters
from vistok.metrics.feature_set import load_statistics
from vistok.pretrained.stand_in import WEIGHTS
from vistok.tokenizers.codebooks.feature_table import read_table
from vistok.tokenizers.trained import TrainedTokenizer
from vistok.tokenizers.vqgan import VQGAN
from vistok.weights.rules import variable_shapes


@pytest.fixture(scope='module')
def tokenizer():
    module = VQGAN(channels=8, channel_multipliers=(1, 2), res_blocks=1, codebook_size=16, codebook_dim=4)
    shapes = variable_shapes(module, jax.ShapeDtypeStruct((1, 16, 16, 3), 'f4'))
    return TrainedTokenizer(module, random_variables(shapes))


@pytest.fixture(scope='module')
def weights(tokenizer, tmp_path_factory):
    path = tmp_path_factory.mktemp('weights') / 'model.safetensors'
    save_model(tokenizer, path)
    return path


def test_a_codebook_is_refitted(weights, tmp_path, capsys):
    out, source = tmp_path / 'refitted.safetensors', two_classes(tmp_path / 'images', 24)
    small = [f'--source={source}', '--image_size=16', '--batch_size=8', '--size=8', '--vectors=16']
    assert run_command('refit', f'--model={weights}', f'--out={out}', *small) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith('before 16 codewords: usage/code ')
    assert said[1].startswith('after  8 codewords: usage/code ')
    assert said[2] == f'wrote {out}'
    assert vistok.load(out).spec.codebook_sizes == (8,)
    assert run_command('refit', f'--model={weights}') == 1
    assert '--out=new.safetensors' in capsys.readouterr().err


def test_codewords_are_clustered_with_and_without_tokens(weights, tokenizer, tmp_path, capsys):
    out = tmp_path / 'clusters.safetensors'
    given = [f'--model={weights}', '--clusters=4', '--restarts=1']
    assert run_command('cluster_codebook', *given, f'--out={out}', '--balanced') == 0
    assert f'wrote {out}: ' in capsys.readouterr().out
    assert np.bincount(read_clusters(out).cluster_of).tolist() == [4] * 4
    extracted = vistok.extract_tokens(tokenizer, 'embedded:digits', tmp_path / 'tokens', image_size=16, views='centre')
    assert extracted.complete
    used = {
        int(i) for record in map(TokenSource(extracted.path, 'train').__getitem__, range(9)) for i in record.ids.flat
    }
    assert used <= set(range(16))
    assert run_command('cluster_codebook', *given, f'--out={out}', f'--tokens={extracted.path}') == 0
    assert read_clusters(out).cluster_of.max() < 4
    for wrong, sentence in (('--restarts=0', 'at least 1'), (f'--out={tmp_path}/c.npz', '.safetensors')):
        assert run_command('cluster_codebook', *given, f'--out={out}', wrong) == 1
        assert sentence in capsys.readouterr().err


def test_a_fitted_prior_lies_beside_the_weights_and_is_used(weights, tokenizer, capsys):
    image = np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8)
    without = vistok.codec(weights)
    assert without.prior is None
    given = [f'--model={weights}', '--source=embedded:digits', '--images=4']
    assert run_command('fit_prior', *given) == 0
    path = weights.with_suffix('.prior.safetensors')
    assert f'wrote {path}: fingerprint ' in capsys.readouterr().out
    codec = vistok.codec(weights)
    assert codec.prior is not None
    assert vistok.describe(codec.compress(image)).description.header.prior_fingerprint == codec.prior.fingerprint
    assert run_command('fit_prior', *given) == 1
    assert 'exists already' in capsys.readouterr().err
    assert run_command('fit_prior', *given, '--force', '--crop=8') == 0
    in_memory = vistok.fit_prior(tokenizer, [image, image[::-1]])  # a model without a path: nothing is written
    assert in_memory.path is None
    assert in_memory.images == 2


def test_statistics_are_those_of_the_images(tmp_path, capsys):
    out = tmp_path / 'digits.npz'
    given = ['--source=embedded:digits', '--split=validation', '--image_size=32', f'--out={out}']
    assert run_command('reference_statistics', *given) == 0
    assert f'wrote {out}' in capsys.readouterr().out
    found = load_statistics(out)
    assert found.protocol == 'stand_in'
    images = [record.image for record in vistok_digits()]
    again = vistok.reference_statistics(np.stack(images), image_size=32)
    assert again.path is None
    np.testing.assert_allclose(again.features.pool.mean, found.pool.mean, rtol=1e-5, atol=1e-6)
    assert run_command('reference_statistics', *given[:3], f'--out={tmp_path}/digits.json') == 1
    assert '--out=FILE.npz' in capsys.readouterr().err


def vistok_digits():
    from vistok.data.images.embedded import Digits

    source = Digits('validation')
    return [source[i] for i in range(len(source))]


def test_the_stand_in_is_trained(tmp_path, capsys):
    shipped = WEIGHTS.read_bytes()
    out = tmp_path / 'stand_in.npz'
    report = vistok.train_stand_in(out, steps=3, batch_size=4, candidates=8)
    assert WEIGHTS.read_bytes() == shipped
    assert len(report.losses) == 3
    assert np.isfinite(report.losses).all()
    assert 0 <= report.held_out <= 1
    with np.load(out) as mine, np.load(WEIGHTS) as theirs:
        assert {name: mine[name].shape for name in mine.files if name != 'allow_pickle'} == {
            name: theirs[name].shape for name in theirs.files if name != 'allow_pickle'
        }


def test_a_table_is_built_of_features_or_at_random(tmp_path, capsys):
    out = tmp_path / 'table.safetensors'
    given = ['--features=gaussian', '--size=6', '--width=3', f'--out={out}']
    assert run_command('build_codebook', *given) == 0
    assert capsys.readouterr().out == f'wrote {out}: 6 rows of width 3, from gaussian\n'
    assert read_table(out).rows.shape == (6, 3)
    images = np.random.default_rng(0).integers(0, 255, (6, 32, 32, 3), np.uint8)
    options = {'features': 'stand_in_patches', 'image_size': 32, 'batch_size': 3, 'iterations': 2}
    report = vistok.build_codebook(images, size=4, **options)
    assert report.table.rows.shape[0] == 4
    assert report.path is None
    with pytest.raises(UserError, match='size, pool and parts are at least 1'):
        vistok.build_codebook(images, size=0, **options)
