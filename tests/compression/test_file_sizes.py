"""Files are as small as the models of what is in them: within 1 % of -log2 p, and header and checksums.

What a model says is computed here once more, from counts and in floating point, without a coder.
"""

import dataclasses

import jax
import numpy as np
import pytest
from markov_generator import Markov
from toy_image_tokenizer import ToyTokenizer

from vistok.compression.codec import Codec, build_header
from vistok.compression.entropy.token_coding import encode_tile
from vistok.compression.format.description import describe
from vistok.compression.format.packets import PacketShape, packet_areas
from vistok.compression.nested.fitting import fit_nested
from vistok.compression.nested.prior import coarsen_prior
from vistok.compression.priors.fitting import fit_prior
from vistok.compression.priors.network import NetworkPrior
from vistok.tokenizers.tokenizer import Tokens

WEIGHTS = b'weights!'
WORD = 32  # bits: streams are whole words, and the coder's last one may be half empty
TOKENIZERS = {
    'one codebook': ToyTokenizer(),
    'three sub-codebooks': ToyTokenizer(levels=5, codebooks=3),
    'grains': ToyTokenizer(4, (1, 2, 4)),
}
SIDE = {'one codebook': 400, 'three sub-codebooks': 320, 'grains': 256}


def image(side, seed=0):
    rng = np.random.default_rng(seed)
    y, x = np.indices((side, side))[..., None]
    waves = np.sin(y / rng.uniform(9, 60, 3) + x / rng.uniform(9, 60, 3) + rng.uniform(0, 6, 3))
    return np.clip((waves / 2 + 0.5) ** 3 * 255 + rng.normal(0, 12, waves.shape), 0, 255).astype(np.uint8)  # dark ones


def codec_of(name, clusters):
    tokenizer = TOKENIZERS[name]
    codec = Codec(tokenizer, WEIGHTS, window=SIDE[name], halo=0, tile=1024)
    if clusters is None:
        return codec
    words = [np.arange(k, dtype=np.float32)[:, None] for k in tokenizer.spec.codebook_sizes]
    tokens = [codec.encode(image(SIDE[name], seed)) for seed in (0, 1)]  # with the one that is measured
    return dataclasses.replace(codec, prior=fit_prior(tokens, words, tokenizer.spec, clusters=(clusters,)))


def bits_of_ids(prior, ids, grain):
    """-log2 of what counted tables say, token by token."""
    height, width = ids.shape[:2]
    clusters = np.stack([table.clusters[ids[..., j]] for j, table in enumerate(prior.tables)], -1)
    around = np.pad(clusters, ((1, 0), (1, 0), (0, 0)))
    total = 0.0
    for y in range(height):
        for x in range(width):
            side = 1 if grain is None else int(grain[y, x])
            if y % side or x % side:
                continue
            g = prior.grains.index(side)
            for j, table in enumerate(prior.tables):
                other = clusters[y, x, j - 1] if j else around[y, x + 1, j]
                row = table.contexts[g, around[y + 1, x, j], other].astype(float)
                same = table.counts[g, table.clusters == clusters[y, x, j]].astype(float)
                likely = [(row, row[clusters[y, x, j] - 1]), (same, float(table.counts[g, ids[y, x, j]]))]
                for counts, count in likely:
                    p = count / counts.sum() if counts.sum() else 1 / len(counts)
                    total -= np.log2(max(p, 2.0**-24))
    return total


def bits_of_grains(grain, grains):
    """-log2 of flags, each by what was seen before in the same context: the estimate of Krichevsky and Trofimov."""
    total, sides = 0.0, sorted(grains, reverse=True)
    for coarser, side in zip([sides[0], *sides], sides[:-1], strict=False):
        cells, seen = grain[::side, ::side], {}
        for (y, x), value in np.ndenumerate(cells):
            if value > side:
                continue
            left, above = x > 0 and cells[y, x - 1] >= side, y > 0 and cells[y - 1, x] >= side
            context = (y % (coarser // side), x % (coarser // side), bool(left), bool(above))
            counts = seen.setdefault(context, [1, 1])
            flag = int(value == side)
            total -= np.log2(counts[flag] / sum(counts))
            counts[flag] += 2
            if sum(counts) > 510:
                seen[context] = [counts[0] // 2 | 1, counts[1] // 2 | 1]
    return total


def payload(data):
    """Bits of the file without header and checksums."""
    streams = describe(data).streams
    return 8 * (len(data) - streams['header and checksums']), streams


@pytest.mark.parametrize('name', TOKENIZERS)
def test_fixed_lengths_are_the_logarithm_of_the_codebooks(name):
    codec = codec_of(name, None)
    tokens = codec.encode(image(SIDE[name]))
    data = codec.pack(image(SIDE[name]), tokens)
    count = tokens.ids[..., 0].size if tokens.grain is None else int((1 / np.asarray(tokens.grain) ** 2).sum())
    _, streams = payload(data)
    lengths = [(size - 1).bit_length() for size in codec.tokenizer.spec.codebook_sizes]
    assert streams['ids, plain'] == -(-count * sum(lengths) // 8)
    assert 'ids, coded' not in streams


@pytest.mark.parametrize('clusters', [1, 6], ids=['a table for each grain and sub-codebook', 'tables of neighbours'])
@pytest.mark.parametrize('name', TOKENIZERS)
def test_files_with_tables_take_what_the_counts_say(name, clusters):
    codec = codec_of(name, clusters)
    tokens = codec.encode(image(SIDE[name]))
    grain = None if tokens.grain is None else tokens.grain[0]
    named = bits_of_ids(codec.prior, tokens.ids[0], grain)
    found, streams = payload(codec.pack(image(SIDE[name]), tokens))
    if grain is not None:
        named += bits_of_grains(grain, codec.tokenizer.spec.grains)
    assert streams['ids, coded'] > 400  # so that 1 % is more than a word
    assert 0.999 * named < found <= 1.01 * named + 2 * WORD


def test_maps_of_grains_take_what_was_seen_before_says():
    codec = codec_of('grains', None)
    tokens = codec.encode(image(3 * SIDE['grains'], 3))
    _, streams = payload(codec.pack(image(3 * SIDE['grains'], 3), tokens))
    named = bits_of_grains(tokens.grain[0], codec.tokenizer.spec.grains)
    assert named > 2000
    assert 0.999 * named < 8 * streams['grains, coded'] <= 1.01 * named + WORD


@pytest.mark.parametrize('name', TOKENIZERS)
def test_files_of_smaller_codebooks_take_what_their_counts_say(name):
    codec, sizes = codec_of(name, 6), TOKENIZERS[name].spec.codebook_sizes
    words = [np.arange(size, dtype=np.float32)[:, None] for size in sizes]
    nested = fit_nested(words, [np.ones(size, int) for size in sizes], (4, 3), WEIGHTS, restarts=1)
    codec = dataclasses.replace(codec, nested=nested)
    whole = codec.encode(image(SIDE[name]))
    for level in (1, 2):
        tokens, prior = nested.coarsen(whole, 0, level), coarsen_prior(codec.prior, nested, level)
        grain = None if tokens.grain is None else tokens.grain[0]
        named = bits_of_ids(prior, tokens.ids[0], grain)
        found, streams = payload(codec.at_level(level).pack(image(SIDE[name]), tokens))
        named += 0 if grain is None else bits_of_grains(grain, codec.tokenizer.spec.grains)
        assert 'ids, coded' in streams
        assert 0.999 * named < found <= 1.01 * named + 2 * WORD


def test_packets_take_what_the_counts_say_of_each_by_itself():
    name = 'one codebook'
    codec = dataclasses.replace(codec_of(name, 6), packets=PacketShape(2, 2))
    tokens = codec.encode(image(SIDE[name]))
    data = codec.pack(image(SIDE[name]), tokens)
    every = list(packet_areas(build_header(codec, image(SIDE[name])), codec.packets))
    named = sum(bits_of_ids(codec.prior, tokens.ids[0][part.slices], None) for part in every)
    found, streams = payload(data)
    assert 'ids, coded' in streams
    assert 0.999 * named < found <= 1.01 * named + len(every) * WORD


def test_files_with_a_network_take_what_the_generator_says():
    spec = TOKENIZERS['one codebook'].spec
    generator = Markov(spec, grid=(4, 4), num_classes=1, condition_dropout=0.0)
    network = NetworkPrior.from_variables(generator, generator.init(jax.random.key(0)))
    codec = Codec(TOKENIZERS['one codebook'], WEIGHTS, network=network)
    ids = generator.drawn(network.variables, 0, (24, 24))
    named = generator.bits(network.variables, 0, ids)
    found, streams = payload(codec.pack(np.zeros((192, 192, 3), np.uint8), Tokens(ids[None])))
    assert 'ids, coded' in streams
    assert 0.999 * named < found <= 1.01 * named + WORD


def test_where_models_say_more_than_fixed_lengths_these_are_taken():
    """So that the bound holds for every image, whatever was counted."""
    codec, rng = codec_of('one codebook', 6), np.random.default_rng(0)
    ids = rng.integers(0, 64, (40, 40, 1)).astype(np.int32)
    record = encode_tile(ids, None, codec.tokenizer.spec, codec.prior)
    assert bits_of_ids(codec.prior, ids, None) > 8 * len(record.ids.data) == 1600 * 6
