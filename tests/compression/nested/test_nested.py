"""Nested codebooks: levels fit into each other, and a file made smaller is the file that had been smaller at once."""

import dataclasses
import itertools

import numpy as np
import pytest
from toy_image_tokenizer import ToyTokenizer

from vistok.compression.codec import Codec
from vistok.compression.format.description import describe
from vistok.compression.format.header import BitstreamError
from vistok.compression.format.packets import PacketShape
from vistok.compression.nested.codebooks import NestedCodebooks, NestedTable
from vistok.compression.nested.fitting import fit_nested
from vistok.compression.nested.prior import coarsen_prior
from vistok.compression.priors.fitting import fit_prior
from vistok.compression.transcode import transcode, transcode_to_level
from vistok.errors import UserError
from vistok.tokenizers.tokenizer import Tokens

WEIGHTS = b'weights!'
TOKENIZERS = {
    'plain': ToyTokenizer(),
    'factorized': ToyTokenizer(levels=8, codebooks=3),
    'grains': ToyTokenizer(4, (1, 2, 4)),
}
SIZES = {'plain': (16, 4, 1), 'factorized': (4, 2), 'grains': (16, 4)}


def image(seed=0, channels=3):
    rng = np.random.default_rng(seed)
    y, x = np.indices((90, 110))[..., None]
    waves = np.sin(y / rng.uniform(5, 40, channels) + x / rng.uniform(5, 40, channels) + rng.uniform(0, 6, channels))
    return ((waves + 1) * 127).astype(np.uint8)


def codewords(tokenizer):
    """The toy's colours."""
    if tokenizer.codebooks == 3:
        return [np.arange(tokenizer.levels, dtype=np.float32)[:, None]] * 3
    return [np.stack(np.unravel_index(np.arange(tokenizer.levels**3), (tokenizer.levels,) * 3), -1).astype(np.float32)]


def codec_of(name, *, with_prior=False):
    tokenizer = TOKENIZERS[name]
    codec = Codec(tokenizer, WEIGHTS, window=64, halo=16, tile=8)
    tokens = [codec.encode(image(100 + i)) for i in range(3)]
    sizes = tokenizer.spec.codebook_sizes
    usage = [
        np.bincount(np.concatenate([t.ids[..., j].ravel() for t in tokens]), minlength=size)
        for j, size in enumerate(sizes)
    ]
    nested = fit_nested(codewords(tokenizer), usage, SIZES[name], WEIGHTS, restarts=1)
    prior = fit_prior(tokens, codewords(tokenizer), tokenizer.spec, clusters=(4,)) if with_prior else None
    return dataclasses.replace(codec, nested=nested, prior=prior)


@pytest.fixture(scope='module')
def codecs():
    return {(name, prior): codec_of(name, with_prior=prior) for name in TOKENIZERS for prior in (False, True)}


def test_every_cluster_contains_those_of_the_level_before_and_its_own_member(codecs):
    for (name, _), codec in codecs.items():
        nested, sizes = codec.nested, TOKENIZERS[name].spec.codebook_sizes
        for j, size in enumerate(sizes):
            ids = np.zeros((1, 1, size, len(sizes)), np.int32)
            ids[..., j] = np.arange(size)
            levels = [nested.coarsen(Tokens(ids), 0, level) for level in range(len(SIZES[name]) + 1)]
            for level, (fine, coarse) in enumerate(itertools.pairwise(levels)):
                pairs = {*zip(fine.ids[0, 0, :, j].tolist(), coarse.ids[0, 0, :, j].tolist(), strict=True)}
                assert len(pairs) == nested.sizes(level)[j]  # one cluster for each
                assert {b for _, b in pairs} == set(range(nested.sizes(level + 1)[j]))
                again = nested.coarsen(nested.expand(coarse, level + 1), 0, level + 1)
                np.testing.assert_array_equal(again.ids, coarse.ids)


def test_a_codeword_counts_as_often_as_it_occurs_and_a_member_stands_for_its_cluster():
    line = np.array([0, 1, 2, 10, 11, 12, 30], np.float32)[:, None]
    usage = np.array([50, 1, 1, 1, 1, 50, 0])
    nested = fit_nested([line], [usage], (3, 2, 1), WEIGHTS)
    first, second, last = (tables[0] for tables in nested.levels)
    assert first.cluster_of.tolist() == [0, 0, 0, 1, 1, 1, 2]
    assert first.members.tolist() == [0, 5, 6]  # not the middle of the cluster, but what occurs
    assert second.cluster_of.tolist() == [0, 1, 1]
    assert second.members.tolist() == [0, 5]
    assert last.cluster_of.tolist() == [0, 0]
    assert float(nested.about['mean_squared_distance/0/3']) < float(nested.about['mean_squared_distance/0/2'])


@pytest.mark.parametrize('with_prior', [False, True], ids=['plain', 'tables'])
@pytest.mark.parametrize('name', TOKENIZERS)
def test_tokens_of_every_level_come_back_and_smaller_files_are_those_of_that_level(codecs, name, with_prior):
    codec, original = codecs[name, with_prior], image(1, 4 if name == 'plain' else 3)
    levels = range(len(SIZES[name]) + 1)
    files = [codec.at_level(level).compress(original) for level in levels]
    assert sorted(map(len, files), reverse=True) == [len(data) for data in files]
    whole = codec.encode(original)
    for level, data in enumerate(files):
        expected = codec.nested.expand(codec.nested.coarsen(whole, 0, level), level)
        found = codec.unpack(data).tokens
        np.testing.assert_array_equal(found.ids, expected.ids)
        np.testing.assert_array_equal(codec.decompress(data), codec.at_level(level).decompress(data))
        streams = describe(data).streams
        if with_prior and level < 2:
            assert streams.get('ids, coded', 0) > 0
        for start in range(level + 1):
            assert transcode_to_level(files[start], codec.nested, level, codec.prior) == data


def test_packets_stay_packets(codecs):
    codec = dataclasses.replace(codecs['plain', True], packets=PacketShape(2, 2))
    files = [codec.at_level(level).compress(image(2)) for level in range(3)]
    assert transcode_to_level(files[0], codec.nested, 2, codec.prior) == files[2]
    assert transcode_to_level(files[1], codec.nested, 2, codec.prior) == files[2]


def test_the_most_codewords_that_fit_are_kept(codecs):
    codec = codecs['plain', False]
    files = [codec.at_level(level).compress(image(3)) for level in range(4)]
    assert transcode(files[0], codec.nested, max_bytes=len(files[0])) == files[0]
    assert transcode(files[0], codec.nested, max_bytes=len(files[0]) - 1) == files[1]
    assert transcode(files[1], codec.nested, max_bytes=len(files[2])) == files[2]
    assert transcode(files[0], codec.nested, codewords=4) == files[2]
    with pytest.raises(ValueError, match='give either the number of codewords or the largest number of bytes'):
        transcode(files[0], codec.nested)
    with pytest.raises(ValueError, match=r'with 1 codewords, the fewest there are, the file has .* more than 20'):
        transcode(files[0], codec.nested, max_bytes=20)


def test_what_does_not_fit_is_refused_by_name(codecs):
    codec, other = codecs['plain', False], codecs['factorized', False]
    original = image(4)
    data = codec.at_level(1).compress(original)
    ours = codec.nested.fingerprint.hex()
    without = dataclasses.replace(codec, nested=None)
    with pytest.raises(BitstreamError, match=f'written with nested codebooks {ours}, got none'):
        without.decompress(data)
    twisted = dataclasses.replace(codec.nested, levels=codec.nested.levels[:2])
    with pytest.raises(BitstreamError, match=f'{ours}, got {twisted.fingerprint.hex()}'):
        dataclasses.replace(codec, nested=twisted).decompress(data)
    with pytest.raises(BitstreamError, match=f'{ours}, got {twisted.fingerprint.hex()}'):
        transcode_to_level(data, twisted, 2)
    with pytest.raises(BitstreamError, match='bitstream has the level 1, the codec 2'):
        codec.at_level(2).decompress(data)
    with pytest.raises(BitstreamError, match='bitstream has the level 0, the codec 2'):
        codec.at_level(2).decompress(codec.compress(original))
    with pytest.raises(BitstreamError, match='the nested codebooks are of 6f74686572212121'):
        transcode_to_level(data, dataclasses.replace(codec.nested, weights_fingerprint=b'other!!!'), 2)
    with pytest.raises(ValueError, match='the bitstream has 16 codewords, fewer than 64'):
        transcode_to_level(data, codec.nested, 0)
    with pytest.raises(ValueError, match='there is no level of 7 codewords; there are: 64; 16; 4; 1'):
        codec.nested.find_level(7)
    assert codec.nested.find_level(4) == 2
    with pytest.raises(ValueError, match='there is no level 9'):
        codec.at_level(9)
    with pytest.raises(ValueError, match='no level 1: the codec has no nested codebooks'):
        without.at_level(1)
    with pytest.raises(ValueError, match='the nested codebooks are those of'):
        dataclasses.replace(codec, nested=other.nested).at_level(1)


def test_tables_of_other_grains_are_refused(codecs):
    """The header says which grains there are, and it may say anything."""
    codec = codecs['grains', True]
    plain = dataclasses.replace(codec, tokenizer=ToyTokenizer(4, (1, 2, 8)), prior=None)
    with pytest.raises(BitstreamError, match=r'of the grains \(1, 2, 8\), the prior is one of \(1, 2, 4\)'):
        transcode_to_level(plain.compress(image(5)), codec.nested, 1, codec.prior)


def test_tables_that_a_file_needs_are_asked_for(codecs):
    codec = codecs['plain', True]
    data = codec.at_level(1).compress(image(5))
    named = coarsen_prior(codec.prior, codec.nested, 1).fingerprint.hex()
    with pytest.raises(BitstreamError, match=f'written with prior {named}, got none'):
        transcode_to_level(data, codec.nested, 2)
    with pytest.raises(BitstreamError, match=f'written with prior {named}, got none'):
        dataclasses.replace(codec, prior=None).decompress(data)


def test_counts_of_a_level_are_sums(codecs):
    for name in TOKENIZERS:
        codec = codecs[name, True]
        for level in range(1, len(SIZES[name]) + 1):
            smaller = coarsen_prior(codec.prior, codec.nested, level)
            assert smaller.codebook_sizes == codec.nested.sizes(level)
            for table, before in zip(smaller.tables, codec.prior.tables, strict=True):
                np.testing.assert_array_equal(table.counts.sum(1), before.counts.sum(1))
                np.testing.assert_array_equal(table.contexts.sum((1, 2, 3)), before.contexts.sum((1, 2, 3)))
                assert table.contexts[:, 0, 1:].sum() == before.contexts[:, 0, 1:].sum()  # outside stays outside


def test_a_description_names_the_level(codecs):
    codec = codecs['plain', False]
    lines = dict(describe(codec.at_level(2).compress(image(6))).lines())
    assert lines['codebooks'] == '4'
    assert lines['level'] == f'2 of the nested codebooks {codec.nested.fingerprint.hex()}'
    assert 'level' not in dict(describe(codec.compress(image(6))).lines())


def test_tables_are_kept_in_a_file(codecs, tmp_path):
    nested = codecs['factorized', False].nested
    nested.save(tmp_path / 'nested.safetensors')
    found = NestedCodebooks.load(tmp_path / 'nested.safetensors')
    assert found.fingerprint == nested.fingerprint
    assert found.weights_fingerprint == WEIGHTS
    assert found.about == nested.about
    codecs['factorized', True].prior.save(tmp_path / 'prior.safetensors')
    with pytest.raises(UserError, match='holds no nested codebooks but a prior'):
        NestedCodebooks.load(tmp_path / 'prior.safetensors')


def test_tables_that_contradict_each_other_are_refused():
    table = NestedTable(np.array([0, 0, 1, 1]), np.array([0, 3]))
    good = NestedCodebooks(WEIGHTS, ((table,), (NestedTable(np.array([0, 0]), np.array([2])),)))
    assert good.sizes(2) == (1,)
    for wrong in (
        dataclasses.replace(table, members=np.array([0, 1])),  # a member of another cluster
        dataclasses.replace(table, members=np.array([0, 4])),
        dataclasses.replace(table, cluster_of=np.array([0, 0, 0, 0])),  # an empty cluster
    ):
        with pytest.raises(ValueError, match='the tables of level 1 do not fit'):
            NestedCodebooks(WEIGHTS, ((wrong,),))
    with pytest.raises(ValueError, match='the tables of level 2 do not fit'):
        NestedCodebooks(WEIGHTS, ((table,), (table,)))


def test_sizes_that_cannot_be_made_are_refused():
    words, usage = [np.repeat(np.arange(4, dtype=np.float32), 2)[:, None]], [np.ones(8, int)]
    for sizes in ((), (8,), (4, 4), (2, 4), (0,)):
        with pytest.raises(ValueError, match='sizes of levels fall from below 8 to 1 at least'):
            fit_nested(words, usage, sizes, WEIGHTS)
    with pytest.raises(ValueError, match='4 different codewords cannot make 5 clusters'):
        fit_nested(words, usage, (5,), WEIGHTS)
