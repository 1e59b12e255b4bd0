"""The benchmark of streams: raw masks as the official code counts them, and what tables without neighbours are."""

import importlib
from pathlib import Path

import numpy as np
import pytest
from toy_image_tokenizer import ToyTokenizer

from vistok.compression.codec import Codec
from vistok.compression.priors.fitting import fit_prior
from vistok.tokenizers.tokenizer import Tokens

FOLDER = Path(__file__).resolve().parents[2] / 'benchmarks'
TOKENIZER = ToyTokenizer(4, (1, 2, 4))


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module('stream_sizes')


def test_raw_masks_have_a_bit_for_each_cell_and_a_byte_that_counts_what_fills_up(script):
    mask_bytes = script.mask_bytes
    grain = np.ones((1, 16, 24), np.int32)
    ids = np.zeros((1, 16, 24, 1), np.int32)
    assert mask_bytes(Tokens(ids, grain), TOKENIZER.spec) == 0
    grain[:, :4] = 2
    assert mask_bytes(Tokens(ids, grain), TOKENIZER.spec) == 1 + 13  # 96 cells, and 8 bits that fill up
    grain[:, 4:8] = 4
    assert mask_bytes(Tokens(ids, grain), TOKENIZER.spec) == 14 + 1 + 4  # 24 cells and 8 bits
    grain[:, 8:] = 4
    assert mask_bytes(Tokens(ids, grain), TOKENIZER.spec) == 1 + 4  # of two grains, the mask of one


def test_every_part_of_a_file_is_measured(script, tmp_path):
    module, rng = script, np.random.default_rng(0)
    images = [np.kron(rng.integers(0, 256, (30, 40, 3)), np.ones((4, 4, 1))).astype(np.uint8) for _ in range(3)]
    codec = Codec(TOKENIZER, b'weights!', window=128, halo=0)
    words = [np.arange(64, dtype=np.float32)[:, None]]
    prior = fit_prior([codec.encode(p) for p in images], words, TOKENIZER.spec, clusters=(4,))
    codec = Codec(TOKENIZER, b'weights!', prior, window=128, halo=0)
    assert module.without_neighbours(prior).codebook_sizes == prior.codebook_sizes
    found = {shares: module.measure(codec, images[0], shares) for shares in ((0.0, 0.0, 1.0), (0.3, 0.6, 0.1))}
    fine, mixed = found.values()
    assert fine.tokens == 32 * 40
    assert fine.masks == 0
    assert fine.fixed == fine.tokens * 6 / 8
    assert fine.quadtree < 10
    assert mixed.masks == 80 // 8 + 320 // 8 + 4
    assert mixed.tokens < fine.tokens
    assert mixed.neighbours <= mixed.static <= mixed.fixed
    assert mixed.file == len(codec.compress(images[0], grain_ratios=(0.3, 0.6, 0.1)))
    module.write(found, tmp_path)
    assert len((tmp_path / 'stream_sizes.csv').read_text().splitlines()) == 3
    assert '| 0.3, 0.6, 0.1 |' in (tmp_path / 'stream_sizes.md').read_text()
