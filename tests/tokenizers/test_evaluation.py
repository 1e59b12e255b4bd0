"""Figures of an evaluation are those of the images, however they are cut into batches and processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from vistok.metrics.image_quality import psnr, ssim
from vistok.pretrained.frozen_network import FrozenNetwork
from vistok.tokenizers.evaluation import evaluate_tokenizer
from vistok.tokenizers.tokenizer import Tokens, TokenSpec

SPEC = TokenSpec(codebook_sizes=(8, 4), downsample_factor=8, codebook_names=('vis', 'sem'))
IMAGES = np.random.default_rng(0).uniform(-1, 1, (10, 16, 16, 3)).astype(np.float32)


def darken(images):
    """A tokenizer for tests: dims the image; each id follows from a pixel."""
    ids = np.stack([np.floor((images[:, ::8, ::8, 0] + 1) * 3.999), np.zeros_like(images[:, ::8, ::8, 0])], -1)
    return images * np.float32(0.9), Tokens(jnp.asarray(ids.astype(np.int32)))


def batches(images, size, padding=0):
    """Batches of one size; padding images are white and come first, where they would hurt most."""
    mask = np.arange(len(images) + padding) >= padding
    images = np.concatenate([np.ones((padding, *images.shape[1:]), np.float32), images])
    assert len(images) % size == 0
    return [{'image': images[i : i + size], 'mask': mask[i : i + size]} for i in range(0, len(images), size)]


class MeanDifference(nn.Module):
    """A perceptual distance for tests."""

    @nn.compact
    def __call__(self, a, b):
        return jnp.abs(a - b).mean((1, 2, 3))


def test_figures_are_means_over_images():
    metrics = evaluate_tokenizer(darken, batches(IMAGES, 5), SPEC).metrics
    assert metrics['psnr'] == pytest.approx(psnr(IMAGES, IMAGES * np.float32(0.9)).mean(), abs=1e-9)
    assert metrics['ssim'] == pytest.approx(ssim(IMAGES, IMAGES * np.float32(0.9)).mean(), abs=1e-9)
    assert (metrics['images'], metrics['tokens']) == (10, 40)


def test_batches_and_padding_make_no_difference():
    expected = evaluate_tokenizer(darken, batches(IMAGES, 10), SPEC).metrics
    for padded in (batches(IMAGES, 1), batches(IMAGES, 4, padding=2), batches(IMAGES, 4, padding=6)):
        assert evaluate_tokenizer(darken, padded, SPEC).metrics == pytest.approx(expected, abs=1e-9)


def test_usage_counts_every_codebook_over_the_whole_set():
    ids = np.array([0, 1, 1, 5]).reshape(4, 1, 1)

    def reconstruct(images):
        rows = np.argmax(images[:, 0, 0], axis=-1) + 2 * (images[:, 0, 0].max(-1) > 0.75)
        return images, Tokens(jnp.asarray(np.stack([ids[rows], 0 * ids[rows]], -1).astype(np.int32)))

    images = np.full((4, 16, 16, 3), -1.0, np.float32)
    for row in range(4):
        images[row, 0, 0, row % 2] = 0.5 + 0.5 * (row // 2)
    metrics = evaluate_tokenizer(reconstruct, batches(images, 2, padding=2), SPEC).metrics
    assert metrics['usage/vis'] == 3 / 8
    assert metrics['usage/sem'] == 1 / 4
    assert metrics['perplexity/vis'] == pytest.approx(2 ** (0.25 * 2 + 0.25 * 2 + 0.5))
    assert metrics['perplexity/sem'] == 1
    assert metrics['tokens'] == 4


def test_an_id_outside_its_codebook_is_refused():
    spec = TokenSpec(codebook_sizes=(8, 4), downsample_factor=8, codebook_names=('vis', 'sem'))

    def reconstruct(images):
        return images, Tokens(jnp.full((len(images), 2, 2, 2), 4))

    with pytest.raises(ValueError, match='codebook sem has 4 codewords, got id 4'):
        evaluate_tokenizer(reconstruct, batches(IMAGES, 5), spec)


def test_the_perceptual_distance_bears_the_name_of_its_judge():
    network = FrozenNetwork(name='mean_difference', module=MeanDifference(), variables={})
    metrics = evaluate_tokenizer(darken, batches(IMAGES, 4, padding=2), SPEC, perceptual=network).metrics
    assert metrics['mean_difference'] == pytest.approx(0.1 * np.abs(IMAGES).mean(), rel=1e-5)


def test_the_first_real_images_are_kept_for_the_sheet():
    evaluation = evaluate_tokenizer(darken, batches(IMAGES, 4, padding=2), SPEC, shown=3)
    np.testing.assert_array_equal(evaluation.originals, IMAGES[:3])
    np.testing.assert_array_equal(evaluation.reconstructions, IMAGES[:3] * np.float32(0.9))
    assert evaluation.sheet().dtype == np.uint8


def test_no_images_are_no_evaluation():
    with pytest.raises(ValueError, match='no images'):
        evaluate_tokenizer(darken, batches(IMAGES[:0], 2, padding=2), SPEC)


PROCESS = """
import json, sys
import jax
jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
from test_evaluation import IMAGES, SPEC, batches, darken
from vistok.tokenizers.evaluation import evaluate_tokenizer
share = {0: batches(IMAGES[:3], 4, padding=1) + batches(IMAGES[3:7], 4), 1: batches(IMAGES[7:], 4, padding=5)}
print(json.dumps(evaluate_tokenizer(darken, share[int(sys.argv[2])], SPEC).metrics))
"""


@pytest.mark.slow
def test_processes_find_together_what_one_finds_alone(tmp_path, free_port):
    (tmp_path / 'process.py').write_text(PROCESS)
    environment = os.environ | {'PYTHONPATH': str(Path(__file__).parent), 'XLA_FLAGS': ''}
    processes = [
        subprocess.Popen(
            [sys.executable, 'process.py', f'127.0.0.1:{free_port}', str(i)],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    try:
        found = [json.loads(process.communicate(timeout=120)[0].splitlines()[-1]) for process in processes]
    finally:
        for process in processes:
            process.kill()
    expected = evaluate_tokenizer(darken, batches(IMAGES, 5), SPEC).metrics
    assert found[0] == found[1]
    assert found[0] == pytest.approx(expected, abs=1e-9)


@pytest.fixture
def free_port():
    import socket

    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


def test_shares_of_the_grains_are_counted_and_shown():
    spec = TokenSpec((8,), 8, grains=(1, 2))

    def reconstruct(images):
        grain = np.where(images[:, :1, :1, 0] > 0, 2, 1) * np.ones((1, 2, 2), np.int32)
        return images, Tokens(jnp.zeros((len(images), 2, 2, 1), jnp.int32), jnp.asarray(grain.astype(np.int32)))

    result = evaluate_tokenizer(reconstruct, batches(IMAGES, 4, padding=2), spec, shown=3)
    share = np.mean(IMAGES[:, 0, 0, 0] > 0)
    assert result.metrics['grain/2'] == pytest.approx(share)
    assert result.metrics['grain/1'] == pytest.approx(1 - share)
    assert result.grain.shape == (3, 2, 2)
    plain = evaluate_tokenizer(lambda x: (x, Tokens(reconstruct(x)[1].ids)), batches(IMAGES, 5), TokenSpec((8,), 8))
    assert plain.grain is None
    assert result.sheet().shape[0] > plain.sheet().shape[0]
