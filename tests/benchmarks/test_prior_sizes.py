"""The benchmark of priors: it writes with each model of ids, and reads what the generator's file says."""

import dataclasses
import importlib
from pathlib import Path

import jax
import numpy as np
import pytest
from markov_generator import Markov
from toy_image_tokenizer import ToyTokenizer

from vistok.compression.codec import Codec
from vistok.compression.priors.fitting import fit_prior
from vistok.compression.priors.network import NetworkPrior
from vistok.tokenizers.tokenizer import Tokens

FOLDER = Path(__file__).resolve().parents[2] / 'benchmarks'


def test_each_model_of_ids_is_measured_and_the_ids_come_back(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(FOLDER))
    module = importlib.import_module('prior_sizes')
    tokenizer = ToyTokenizer(8)
    generator = Markov(tokenizer.spec, grid=(3, 4), num_classes=3)
    network = NetworkPrior.from_variables(generator, generator.init(jax.random.key(0)))
    drawn = generator.drawn(network.variables, 1, (12, 16))
    tokens = Tokens(drawn[None])
    words = [np.arange(64, dtype=np.float32)[:, None]]
    monkeypatch.setattr(Codec, 'encode', lambda self, image: tokens)
    codec = Codec(
        tokenizer, b'weights!', fit_prior([tokens] * 2, words, tokenizer.spec, clusters=(4,)), network=network
    )
    sizes = module.measure(codec, np.zeros((96, 128, 3), np.uint8))
    assert sizes.ids == 12 * 16
    assert sizes.fixed == 6
    assert sizes.network < 0.8 * sizes.fixed
    assert sizes.network < sizes.tables < sizes.fixed
    assert sizes.bytes_network < sizes.bytes_fixed
    module.write({'one': sizes, 'mean': sizes}, tmp_path)
    assert len((tmp_path / 'prior_sizes.csv').read_text().splitlines()) == 3
    unpack = Codec.unpack
    other = Tokens(drawn[None] ^ 1)
    monkeypatch.setattr(Codec, 'unpack', lambda self, data: dataclasses.replace(unpack(self, data), tokens=other))
    with pytest.raises(ValueError, match='other ids came back'):
        module.measure(codec, np.zeros((96, 128, 3), np.uint8))
