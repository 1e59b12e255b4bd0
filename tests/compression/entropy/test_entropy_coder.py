"""The coder: integer frequencies decide about every bit, and nothing else does."""

import numpy as np
import pytest

from vistok.compression.entropy.entropy_coder import (
    TOTAL,
    AdaptiveBit,
    BitCounter,
    FrequencyTable,
    SymbolDecoder,
    SymbolEncoder,
)
from vistok.compression.format.header import BitstreamError


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_frequencies_follow_the_written_rule():
    assert FrequencyTable([1, 0, 2]).frequencies.tolist() == [5592405, 1, 11184810]
    assert FrequencyTable([5]).frequencies.tolist() == [TOTAL]
    assert FrequencyTable([0, 0]).frequencies.tolist() == [TOTAL // 2, TOTAL // 2]
    many = FrequencyTable(np.arange(100_000) % 7)
    assert many.frequencies.min() == 1
    assert many.frequencies.sum() == TOTAL
    for wrong in ([], [-1, 2], [1 << 32, 1]):
        with pytest.raises(ValueError, match='a table needs'):
            FrequencyTable(wrong)


@pytest.mark.parametrize('n', [2, 3, 1000, 65536])
def test_the_library_codes_with_exactly_these_frequencies(rng, n):
    table = FrequencyTable(rng.integers(0, 1 << 32, n) >> rng.integers(0, 32, n))
    ends = np.cumsum(table.frequencies)
    step = (2**64 - 1) >> 24  # of the first symbol: the whole range, divided by the total
    for symbol in [0, n - 1, *rng.integers(0, n, 50).tolist()]:
        first, last = int(ends[symbol] - table.frequencies[symbol]), int(ends[symbol]) - 1
        for point in (first * step, (last + 1) * step - 1):
            words = np.array([point >> 32, point & 0xFFFFFFFF], '<u4')
            assert SymbolDecoder(words.tobytes())(table) == symbol


def test_symbols_come_back_at_the_price_of_their_frequencies(rng):
    tables = [FrequencyTable(rng.integers(0, 1000, n)) for n in (1, 2, 5, 300, 70_000)]
    chosen = [tables[i] for i in rng.integers(0, len(tables), 3000)]
    symbols = [int(rng.integers(t.frequencies.size)) for t in chosen]
    encoder, meter = SymbolEncoder(), BitCounter()
    for table, symbol in zip(chosen, symbols, strict=True):
        assert encoder(table, symbol) == meter(table, symbol) == symbol
    data = encoder.finish()
    assert meter.bits <= 8 * len(data) <= 1.0001 * meter.bits + 64
    decoder = SymbolDecoder(data)
    assert [decoder(table) for table in chosen] == symbols
    decoder.finish()


def test_nothing_costs_nothing():
    assert SymbolEncoder().finish() == b''
    decoder = SymbolDecoder(b'')
    assert decoder(FrequencyTable([1])) == 0
    decoder.finish()


def test_symbols_never_cost_more_than_their_bytes(rng):
    """However skewed the tables are, at every length: a decoder may stop where a stream's bits are spent."""
    for _ in range(150):
        tables = [FrequencyTable(rng.integers(0, 1 << 32, n) >> rng.integers(0, 32, n)) for n in (1, 2, 3, 100)]
        encoder, meter, coded = SymbolEncoder(), BitCounter(), []
        for i in rng.integers(0, 4, rng.integers(1, 60)).tolist():
            likely = rng.integers(2)
            symbol = int(tables[i].frequencies.argmax() if likely else rng.integers(tables[i].frequencies.size))
            coded.append((tables[i], meter(tables[i], encoder(tables[i], symbol))))
        data = encoder.finish()
        assert meter.bits <= 8 * len(data)
        decoder = SymbolDecoder(data)
        assert [decoder(table) for table, _ in coded] == [symbol for _, symbol in coded]
        decoder.finish()


@pytest.mark.parametrize('data', [b'', bytes(4), b'\x80' * 8])
def test_few_bytes_do_not_decode_to_many_symbols(data):
    table, decoder = FrequencyTable([1, 1, 1, 1]), SymbolDecoder(data)
    decoded = [decoder(table) for _ in range(4 * len(data) + 32)]
    assert len(decoded) == 4 * len(data) + 32  # 2 bits each: 64 bits more than there are
    with pytest.raises(BitstreamError, match=f'{len(data)} bytes are too few'):
        decoder(table)


def test_a_symbol_that_the_table_lacks_is_refused():
    for symbol in (-1, 2):
        with pytest.raises(IndexError):
            SymbolEncoder()(FrequencyTable([1, 1]), symbol)


def test_damage_is_an_error_or_other_symbols(rng):
    table = FrequencyTable([1, 1, 1])
    with pytest.raises(BitstreamError, match='no whole words'):
        SymbolDecoder(b'abc')
    decoder = SymbolDecoder(b'\xff' * 16)
    with pytest.raises(BitstreamError, match='impossible'):
        [decoder(table) for _ in range(100)]
    decoder = SymbolDecoder(rng.bytes(400))
    decoder(table)
    with pytest.raises(BitstreamError, match='more coded symbols'):
        decoder.finish()


def test_adaptive_bits_learn(rng):
    bits = (rng.random(4000) < 0.02).tolist()
    encoder, model = SymbolEncoder(), AdaptiveBit()
    for bit in bits:
        model.code(encoder, bit)
    data = encoder.finish()
    entropy = -(0.02 * np.log2(0.02) + 0.98 * np.log2(0.98))
    assert 8 * len(data) < 1.1 * entropy * len(bits) + 64
    decoder, model = SymbolDecoder(data), AdaptiveBit()
    assert [model.code(decoder, False) for _ in bits] == bits
