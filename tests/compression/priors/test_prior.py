"""Priors: every token grid comes back, at the price that the tables say, and never above fixed lengths."""

import time

import numpy as np
import pytest

from vistok.compression.entropy.entropy_coder import BitCounter
from vistok.compression.entropy.token_coding import decode_tile, encode_tile
from vistok.compression.format.bitstream import SymbolStream, TileRecord, count_id_bits
from vistok.compression.format.header import BitstreamError, TileArea
from vistok.compression.priors.fitting import fit_prior
from vistok.compression.priors.prior import StaticPrior, check_prior_fits
from vistok.errors import UserError
from vistok.tokenizers.tokenizer import Tokens, TokenSpec
from vistok.weights.files import save_variables

PLAIN = TokenSpec((60,), 8)
FACTORIZED = TokenSpec((30, 17, 1), 8, ('a', 'b', 'c'))
GRAINS = TokenSpec((60,), 4, grains=(1, 2, 4))
SPECS = {'plain': PLAIN, 'factorized': FACTORIZED, 'grains': GRAINS}


def image(rng, spec, shape=(32, 24)):
    """Tokens that look like their neighbours, and sub-codebooks like each other; one image in a batch."""
    block = max(spec.grains)
    walk = np.cumsum(rng.normal(0, 0.3, (shape[0], 1)), 0) + np.cumsum(rng.normal(0, 0.3, (1, shape[1])), 1)
    levels = [np.clip(walk / 4 + 0.5 + rng.normal(0, 0.02, shape), 0, 0.999) for _ in spec.codebook_sizes]
    ids = np.stack([(x * k).astype(np.int32) for x, k in zip(levels, spec.codebook_sizes, strict=True)], -1)
    if len(spec.grains) == 1:
        return Tokens(ids[None])
    sides = rng.choice(spec.grains, (shape[0] // block, shape[1] // block))
    grain = np.kron(sides, np.ones((block, block))).astype(np.int32)
    y, x = np.indices(shape)
    return Tokens(ids[y - y % grain, x - x % grain][None], grain[None])


def codewords(spec):
    return [np.arange(k, dtype=np.float32)[:, None] for k in spec.codebook_sizes]


@pytest.fixture(scope='module', params=SPECS)
def case(request):
    spec = SPECS[request.param]
    rng = np.random.default_rng(0)
    return spec, fit_prior([image(rng, spec) for _ in range(12)], codewords(spec), spec, clusters=(1, 6))


def coded(tokens, spec, prior):
    """The record of the tokens, after it has been decoded to the same."""
    ids, grain = tokens.ids[0], None if tokens.grain is None else tokens.grain[0]
    record = encode_tile(ids, grain, spec, prior)
    found, found_grain = decode_tile(record, TileArea(0, 0, *ids.shape[:2]), spec, prior)
    np.testing.assert_array_equal(found, ids)
    assert (grain is None) == (found_grain is None)
    if grain is not None:
        np.testing.assert_array_equal(found_grain, grain)
    return record


def test_any_tokens_come_back(case):
    spec, prior = case
    rng = np.random.default_rng(1)
    for shape in ((4, 4), (8, 20), (32, 24)):
        likely = image(rng, spec, shape)
        noise = Tokens(np.stack([rng.integers(0, k, shape) for k in spec.codebook_sizes], -1)[None], likely.grain)
        if likely.grain is not None:
            y, x = np.indices(shape)
            noise = noise.replace(ids=noise.ids[:, y - y % likely.grain[0], x - x % likely.grain[0]])
        for tokens in (likely, noise):
            coded(tokens, spec, prior)
            coded(tokens, spec, None)


@pytest.mark.usefixtures('annotations_unchecked')
def test_a_large_tile_of_few_bytes_is_refused_at_once(case):
    spec, prior = case
    area = TileArea(0, 0, 4096, 4096)
    for data in (b'', bytes(4), bytes(64)):
        stream, start = SymbolStream(True, data), time.process_time()
        with pytest.raises(BitstreamError, match='too few for its coded symbols'):
            decode_tile(TileRecord(stream, None if len(spec.grains) == 1 else stream, 0), area, spec, prior)
        assert time.process_time() - start < 0.5


@pytest.mark.usefixtures('annotations_unchecked')
def test_a_file_costs_what_the_tables_say(case):
    spec, prior = case
    tokens = image(np.random.default_rng(2), spec, (128, 96))
    grain = None if tokens.grain is None else tokens.grain[0]
    meter, ids = BitCounter(), tokens.ids[0].copy()
    prior.code(meter, ids, grain)
    np.testing.assert_array_equal(ids, tokens.ids[0])
    record = coded(tokens, spec, prior)
    assert record.ids.entropy_coded
    assert meter.bits <= 8 * len(record.ids.data) <= 1.01 * meter.bits + 32


@pytest.mark.usefixtures('annotations_unchecked')
def test_neighbours_help(case):
    spec, prior = case
    rng = np.random.default_rng(0)
    alone = fit_prior([image(rng, spec) for _ in range(12)], codewords(spec), spec, clusters=(1,))
    assert all(table.contexts.shape[-1] == 1 for table in alone.tables)
    tokens = image(np.random.default_rng(3), spec, (64, 64))
    sizes = [len(coded(tokens, spec, model).ids.data) for model in (prior, alone, None)]
    assert sizes[0] < 0.9 * sizes[1] <= sizes[1] <= sizes[2]


def test_fixed_lengths_are_kept_where_tables_do_not_help(case):
    spec, prior = case
    rng = np.random.default_rng(4)
    ids = np.stack([rng.integers(0, k, (16, 16)) for k in spec.codebook_sizes], -1)
    grain = None if spec.grains == (1,) else np.ones((16, 16), np.int32)
    record = encode_tile(ids, grain, spec, prior)
    assert not record.ids.entropy_coded
    assert len(record.ids.data) == 256 * count_id_bits(spec.codebook_sizes) // 8


def test_a_stored_prior_is_the_same(case, tmp_path):
    spec, prior = case
    prior.save(tmp_path / 'prior.safetensors', {'pictures': '12'})
    loaded = StaticPrior.load(tmp_path / 'prior.safetensors')
    assert loaded.fingerprint == prior.fingerprint
    tokens = image(np.random.default_rng(5), spec)
    assert coded(tokens, spec, loaded) == coded(tokens, spec, prior)
    check_prior_fits(loaded, spec)
    with pytest.raises(ValueError, match='the tokenizer has'):
        check_prior_fits(loaded, TokenSpec((61,), 8))


def test_other_tables_have_another_fingerprint(case):
    _, prior = case
    first = prior.tables[0]
    counts = first.counts.copy()
    counts[0, 0] += 1
    changed = type(first)(first.clusters, first.contexts, counts)
    assert StaticPrior((changed, *prior.tables[1:]), prior.grains).fingerprint != prior.fingerprint
    fewer = type(first)(first.clusters, first.contexts[:, :-1], first.counts)
    with pytest.raises(ValueError, match='do not fit together'):
        StaticPrior((fewer, *prior.tables[1:]), prior.grains)
    with pytest.raises(ValueError, match='do not fit together'):
        StaticPrior(prior.tables, (1, 2, 4, 8))


def test_a_file_that_is_no_prior_is_refused(tmp_path):
    save_variables(tmp_path / 'weights.safetensors', 'llamagen_vq16', {'params': {'x': np.zeros(1)}})
    with pytest.raises(UserError, match='holds no prior but a llamagen_vq16'):
        StaticPrior.load(tmp_path / 'weights.safetensors')


def test_a_prior_needs_images():
    with pytest.raises(ValueError, match='at least two images, got 1'):
        fit_prior([image(np.random.default_rng(0), PLAIN)], codewords(PLAIN), PLAIN)


def test_tokens_that_are_no_tokens_of_the_spec_are_refused():
    ids, grain = np.zeros((8, 8, 1), np.int32), np.full((8, 8), 2, np.int32)
    with pytest.raises(ValueError, match='do not belong to codebooks'):
        encode_tile(ids + 60, grain, GRAINS, None)
    with pytest.raises(ValueError, match='need a map of grains'):
        encode_tile(ids, None, GRAINS, None)
    with pytest.raises(ValueError, match='have no map of grains'):
        encode_tile(ids, grain, PLAIN, None)
    with pytest.raises(ValueError, match='the tokens of a block differ'):
        encode_tile(np.arange(64).reshape(8, 8, 1) % 60, grain, GRAINS, None)
    with pytest.raises(ValueError, match='grains are none of'):
        encode_tile(ids, 0 * grain + 3, GRAINS, None)


def test_coded_tokens_need_the_prior(case):
    spec, prior = case
    record = coded(image(np.random.default_rng(6), spec, (64, 64)), spec, prior)
    with pytest.raises(BitstreamError, match='written with a prior, and none is given'):
        decode_tile(record, TileArea(0, 0, 64, 64), spec, None)
