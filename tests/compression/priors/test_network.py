"""A generator as model of ids: all ids come back, at the price that it names, or the file is refused in a sentence."""

import dataclasses
import functools
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from autoregressive_cases import GENERATORS, variables_of
from markov_generator import Markov
from toy_image_tokenizer import ToyTokenizer

from vistok.compression.codec import Codec
from vistok.compression.entropy.entropy_coder import BitCounter, SymbolDecoder, SymbolEncoder
from vistok.compression.entropy.token_coding import decode_tile, encode_tile
from vistok.compression.format.bitstream import BitstreamReader, count_id_bits
from vistok.compression.format.description import describe
from vistok.compression.format.header import BitstreamError, Feature, TileArea
from vistok.compression.priors import network
from vistok.compression.priors.fitting import fit_prior
from vistok.compression.priors.network import NETWORK_FEATURE, NetworkPrior, read_probe
from vistok.errors import UserError
from vistok.experiments import codecs as opening
from vistok.generators.trained import TrainedGenerator
from vistok.tokenizers.tokenizer import Tokens, TokenSpec
from vistok.weights.fingerprints import fingerprint_weights

SPECS = {'plain': TokenSpec((64,), 8, ('colour',)), 'factorized': TokenSpec((4, 4, 4), 8, ('red', 'green', 'blue'))}
WEIGHTS = b'weights!'
ROOT = Path(__file__).parents[3]
PROCESS = """
import pathlib, sys
import jax
import numpy as np
from golden_packs import random_variables
from vistok.compression.entropy.entropy_coder import SymbolDecoder, SymbolEncoder
from vistok.compression.priors.network import NetworkPrior
from vistok.generators.autoregressive.llamagen import LlamaGen
from vistok.tokenizers.tokenizer import TokenSpec

generator = LlamaGen(TokenSpec((1024,), 16), grid=(8, 8), num_classes=20, layers=2, heads=4, width=256)
variables = random_variables(jax.eval_shape(generator.init, jax.random.key(0)))
prior = NetworkPrior.from_variables(generator, variables)
ids = np.random.default_rng(0).integers(0, 1024, (10, 20, 1)).astype(np.int32)
path = pathlib.Path(sys.argv[1])
if not path.exists():
    encoder = SymbolEncoder()
    prior.code(encoder, ids, None)
    path.write_bytes(prior.probe + encoder.finish())
elif path.read_bytes()[:8] != prior.probe:
    sys.exit(3)
else:
    found = np.zeros_like(ids)
    prior.code(SymbolDecoder(path.read_bytes()[8:]), found, None)
    sys.exit(0 if (found == ids).all() else 4)
"""


@pytest.fixture(scope='module', params=SPECS)
def prior(request):
    return markov(request.param)


@functools.cache
def markov(name, **changes):
    generator = Markov(SPECS[name], **{'grid': (3, 4), 'num_classes': 3} | changes)
    return NetworkPrior.from_variables(generator, generator.init(jax.random.key(0)))


def coded(prior, ids):
    """Bytes, after they have been decoded to the same ids."""
    encoder, found = SymbolEncoder(), np.zeros_like(ids)
    prior.code(encoder, ids.copy(), None)
    data = encoder.finish()
    decoder = SymbolDecoder(data)
    prior.code(decoder, found, None)
    decoder.finish()
    np.testing.assert_array_equal(found, ids)
    return data


def image(side=96, seed=0):
    rng = np.random.default_rng(seed)
    return np.kron(rng.integers(0, 256, (side // 8, side // 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)


@pytest.mark.parametrize('shape', [(1, 1), (3, 4), (7, 13)])
def test_any_ids_come_back_from_tiles_of_any_size(prior, shape):
    rng = np.random.default_rng(0)
    coded(prior, np.stack([rng.integers(0, size, shape) for size in prior.codebook_sizes], -1).astype(np.int32))


def test_a_tile_costs_what_the_generator_says(prior):
    ids = prior.generator.drawn(prior.variables, 1, (9, 16))
    named = prior.generator.bits(prior.variables, 1, ids) + 12 * np.log2(6)  # a class, of three, for every block
    size = 8 * len(coded(prior, ids))
    assert named < size <= 1.01 * named + 32
    assert size < 0.8 * 144 * count_id_bits(prior.codebook_sizes)
    record = encode_tile(ids, None, prior.generator.spec, prior)
    assert record.ids.entropy_coded
    np.testing.assert_array_equal(decode_tile(record, TileArea(0, 0, 9, 16), prior.generator.spec, prior)[0], ids)


def test_the_class_is_the_one_that_costs_least(prior):
    """Of a block that was drawn from no class the encoder says so, in one bit; a class takes more."""
    generator, variables = prior.generator, prior.variables
    classes = [1, 0, 3, 2]
    blocks = [generator.drawn(variables, label, (3, 4), label) for label in classes]
    best = [
        min(generator.bits(variables, c, block) + (1 if c == 3 else np.log2(6)) for c in range(4)) for block in blocks
    ]
    meter = BitCounter()
    prior.code(meter, np.concatenate(blocks, axis=1), None)
    assert meter.bits == pytest.approx(sum(best), rel=1e-3)
    assert meter.bits < sum(generator.bits(variables, 3, block) + 1 for block in blocks)


def test_generators_without_a_null_condition_and_with_many_classes_fit():
    for changes in ({'condition_dropout': 0.0}, {'num_classes': 40}, {'num_classes': 40, 'condition_dropout': 0.0}):
        prior = markov('plain', **changes)
        coded(prior, prior.generator.drawn(prior.variables, 2, (6, 8)))


def test_what_does_not_decode_is_not_trusted(prior):
    class Unsteady(NetworkPrior):
        def code(self, coder, ids, grain):
            asked = self if isinstance(coder, SymbolEncoder) else other
            NetworkPrior.code(asked, coder, ids, grain)

    changed = dataclasses.replace(prior.generator, sharpness=1.02)
    other = NetworkPrior(changed, prior.variables, prior.fingerprint)
    unsteady = Unsteady(prior.generator, prior.variables, prior.fingerprint)
    ids = prior.generator.drawn(prior.variables, 1, (6, 16))
    assert encode_tile(ids, None, prior.generator.spec, prior).ids.entropy_coded
    assert not encode_tile(ids, None, prior.generator.spec, unsteady).ids.entropy_coded


class Drawn(ToyTokenizer):
    """Sees ids that its generator likes, whatever the image."""

    def encode(self, images):
        prior = markov('plain')
        return Tokens(prior.generator.drawn(prior.variables, 1, (12, 12))[None])


@pytest.fixture(scope='module')
def written():
    """A codec with a network, and what it writes."""
    codec = Codec(Drawn(), WEIGHTS, window=96, halo=0, network=markov('plain'))
    return codec, codec.compress(image())


def test_a_file_says_what_it_was_written_with(written):
    codec, data = written
    tokens = codec.encode(image())
    assert len(data) < len(dataclasses.replace(codec, network=None).compress(image()))
    content = codec.unpack(data)
    assert content.header.prior_kind == 2
    assert content.header.prior_fingerprint == codec.network.fingerprint
    assert read_probe(content.header).probe == codec.network.probe
    np.testing.assert_array_equal(content.tokens.ids, tokens.ids)
    assert 'a network on cpu' in dict(describe(data).lines())['prior']


def test_other_probabilities_are_refused(written, monkeypatch):
    codec, data = written
    slightly = dataclasses.replace(codec.network.generator, sharpness=1 + 1e-6)
    elsewhere = NetworkPrior.from_variables(slightly, codec.network.variables)
    assert elsewhere.fingerprint == codec.network.fingerprint
    here = r'other probabilities here than .* written, also on cpu, jaxlib [\d.]+: the processor, .* differ; its ids'
    with pytest.raises(BitstreamError, match=here):
        dataclasses.replace(codec, network=elsewhere).decompress(data)
    monkeypatch.setattr(network, '_computer', lambda: 'tpu, jaxlib 1')
    with pytest.raises(
        BitstreamError, match=r'written, on cpu, jaxlib [\d.]+, and not on tpu, jaxlib 1; its ids can be'
    ):
        dataclasses.replace(codec, network=elsewhere).decompress(data)
    with pytest.raises(BitstreamError, match=f'written with prior {codec.network.fingerprint.hex()}, got none'):
        dataclasses.replace(codec, network=None).decompress(data)
    changed = {'params': {'table_0': codec.network.variables['params']['table_0'] + 1}}
    other = NetworkPrior.from_variables(codec.network.generator, changed)
    with pytest.raises(BitstreamError, match=f'got {other.fingerprint.hex()}'):
        dataclasses.replace(codec, network=other).decompress(data)


def test_of_two_priors_the_smaller_file_is_written(written):
    codec, data = written
    spec, words = codec.tokenizer.spec, [np.arange(64, dtype=np.float32)[:, None]]
    tables = fit_prior([codec.encode(image())] * 3, words, spec, clusters=(1, 2))
    both = dataclasses.replace(codec, prior=tables)
    assert both.compress(image()) == min(dataclasses.replace(both, network=None).compress(image()), data, key=len)
    for found in (data, dataclasses.replace(both, network=None).compress(image())):
        np.testing.assert_array_equal(both.decompress(found), codec.decompress(data))


def test_what_a_file_says_about_its_computer_is_one_line(written):
    codec, data = written
    header = BitstreamReader(data).header
    said = Feature(NETWORK_FEATURE, codec.network.probe + b'cpu\n\x1b[31m\xff')
    assert read_probe(dataclasses.replace(header, features=(said,))).computer == 'cpu??[31m\ufffd'


def test_a_network_fits_its_tokens_only():
    with pytest.raises(ValueError, match='the prior is one of codebooks'):
        Codec(ToyTokenizer(4, (1, 2, 4)), WEIGHTS, network=markov('plain'))
    with pytest.raises(ValueError, match='the prior is one of codebooks'):
        Codec(ToyTokenizer(), WEIGHTS, network=markov('factorized'))


@pytest.mark.parametrize('name', ['class', pytest.param('far', marks=pytest.mark.slow)])
def test_networks_cost_what_their_loss_says(name):
    """The loss is computed in one pass over all positions and is only nearly what single steps give."""
    generator, variables = GENERATORS[name], variables_of(name)
    prior, labels = NetworkPrior.from_variables(generator, variables), generator.num_classes + 1
    rng = np.random.default_rng(0)
    ids = np.stack([rng.integers(0, size, (4, 6)) for size in prior.codebook_sizes], -1).astype(np.int32)
    blocks = ids.reshape(2, 2, 2, 3, -1).swapaxes(1, 2).reshape(4, 6, -1)

    @jax.jit
    def entropies(rows, cond):
        found = generator.cross_entropies(variables, rows, cond, jax.random.key(0), train=False)
        return sum(entropy.nll.sum(-1) for entropy in found) / np.log(2)

    each = entropies(np.repeat(blocks, labels, axis=0), jnp.tile(jnp.arange(labels), 4)).reshape(4, labels)
    named = (np.asarray(each) + np.array([np.log2(2 * labels - 2)] * (labels - 1) + [1.0])).min(axis=1).sum()
    size = 8 * len(coded(prior, ids))
    assert 0.999 * named < size <= 1.01 * named + 32


def test_a_run_of_a_generator_is_opened(tmp_path, monkeypatch):
    class Model(ToyTokenizer):
        variables = {'params': {'x': np.arange(3.0)}}

    prior, run = markov('plain'), tmp_path / 'llamagen'
    trained = TrainedGenerator(prior.generator, prior.variables, tokenizer=Model())
    run.mkdir()
    monkeypatch.setattr(opening, 'open_tokenizer', lambda weights: Model())
    monkeypatch.setattr(opening, 'load', lambda path: trained)
    codec = opening.open_codec('runs/toy', str(run))
    assert codec.network.fingerprint == prior.fingerprint
    assert codec.prior is None

    class Other(ToyTokenizer):
        variables = {'params': {'x': np.arange(4.0)}}

    trained = dataclasses.replace(trained, tokenizer=Other())
    theirs = fingerprint_weights(Other.variables).hex()
    with pytest.raises(
        UserError, match=f'for the tokenizer with weights {theirs}, got {codec.weights_fingerprint.hex()}'
    ):
        opening.open_codec('runs/toy', str(run))
    trained = Model()
    with pytest.raises(UserError, match='holds a Model; as a prior, only generators fit'):
        opening.open_codec('runs/toy', str(run))
    monkeypatch.undo()
    monkeypatch.setattr(opening, 'open_tokenizer', lambda weights: Model())
    with pytest.raises(UserError, match='is no run folder: it has no config'):
        opening.open_codec('runs/toy', str(run))
    with pytest.raises(UserError, match='there is no file'):
        opening.open_codec('runs/toy', str(tmp_path / 'absent'))


@pytest.mark.slow
def test_another_process_with_another_number_of_threads_reads_the_same_ids(tmp_path):
    for threads in (1, 8, 2, 1):
        environment = {k: v for k, v in os.environ.items() if k not in ('XLA_FLAGS', 'JAX_COMPILATION_CACHE_DIR')}
        environment |= {'NPROC': str(threads), 'PYTHONPATH': str(ROOT / 'tests')}
        command = [sys.executable, '-c', PROCESS, str(tmp_path / 'ids')]
        ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
        assert ended.returncode == 0, ended.stderr
