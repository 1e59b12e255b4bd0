"""Range coding of symbols with integer frequencies (by the library constriction).

Encoder, decoder and bit counter share one signature, `(table, symbol) -> symbol`.  A probability model is written once,
as a loop that passes each symbol through such a function, and cannot differ between encoder and decoder.
"""

import functools
import math
from collections.abc import Callable, Sequence

import constriction
import numpy as np

from vistok.compression.format.header import BitstreamError
from vistok.errors import UserError

PRECISION = 24
TOTAL = 1 << PRECISION
"""Sum of the frequencies of a table."""

_SLACK = 64
"""Bits by which a decoder's symbols may cost more than its bytes hold.

While coding, the range is at least 2^32 of 2^64, and every 32 bits by which it has shrunk are one word.  The end adds
at least another word, and rounding makes the range smaller than the ideal one: the symbols of a stream of n bytes cost
at most 8 n bits.
"""

_Categorical = constriction.stream.model.Categorical


class FrequencyTable:
    """Frequencies of symbols, integers of at least 1 that add up to `TOTAL`.

    The frequency of symbol i is `1 + floor(count_i (TOTAL - n) / sum)`; the first symbol with the largest count also
    gets the remainder.  Integer arithmetic only: every machine has the same table.

    Args:
      counts: integers of at least 0 and less than 2^32, one per symbol; only their ratios matter.  All 0 means that
        all symbols are equally likely.

    Raises:
      UserError: no symbols, more than half of `TOTAL`, or counts outside of their range.
    """

    __slots__ = ('_model', 'frequencies')

    def __init__(self, counts: Sequence[int] | np.ndarray) -> None:
        array = np.asarray(counts, np.int64)
        n = array.size
        if not 1 <= n <= TOTAL // 2 or array.min() < 0 or array.max() >= 1 << 32:
            raise UserError(f'a table needs 1 to {TOTAL // 2} counts in [0, 2^32), got {n} of them')
        if not array.any():
            array = np.ones_like(array)
        self.frequencies = 1 + array * (TOTAL - n) // int(array.sum())
        self.frequencies[np.argmax(array)] += TOTAL - int(self.frequencies.sum())
        # The library turns weights into frequencies as 1 + floor(cumulated weights * scale), with scale = (2^24 - n)
        # / sum.  These weights have the sum 2^24 - n, so that the scale is 1 and the frequencies are exactly ours.
        self._model = _Categorical((self.frequencies - 1).astype(np.float64), perfect=False) if n > 1 else None

    def bits(self, symbol: int) -> float:
        """Returns the ideal code length of a symbol in bits."""
        return PRECISION - math.log2(self.frequencies[symbol])


SymbolCoder = Callable[[FrequencyTable, int], int]
"""Encodes the symbol and returns it, or ignores it and returns the decoded one."""


class SymbolEncoder:
    """Range encoder of symbols."""

    def __init__(self) -> None:
        self._coder = constriction.stream.queue.RangeEncoder()

    def __call__(self, table: FrequencyTable, symbol: int) -> int:
        """Encodes a symbol and returns it; raises IndexError for one that the table does not have."""
        if not 0 <= symbol < table.frequencies.size:
            raise IndexError(f'symbol {symbol} of a table of {table.frequencies.size}')
        if table._model is not None:
            self._coder.encode(symbol, table._model)
        return symbol

    def finish(self) -> bytes:
        """Returns all symbols as little-endian words of 32 bits; no bytes for no symbols."""
        return self._coder.get_compressed().astype('<u4').tobytes()


class SymbolDecoder:
    """Range decoder of the symbols that a `SymbolEncoder` encoded.

    Behind their end, bytes would decode to symbols for ever; the decoder stops where symbols cost more bits than the
    bytes hold.

    Args:
      data: bytes of `SymbolEncoder.finish`.

    Raises:
      BitstreamError: the bytes are damaged; every method may raise it.
    """

    def __init__(self, data: bytes) -> None:
        if len(data) % 4:
            raise BitstreamError(f'the bitstream is damaged: {len(data)} bytes of coded symbols are no whole words')
        self._coder = constriction.stream.queue.RangeDecoder(np.frombuffer(data, '<u4').astype(np.uint32))
        self._size, self._left = len(data), 8.0 * len(data) + _SLACK

    def __call__(self, table: FrequencyTable, symbol: int = 0) -> int:
        """Decodes and returns the next symbol; ignores the given one."""
        if table._model is None:
            return 0
        try:
            found = self._coder.decode(table._model)
        except (AssertionError, ValueError):
            raise BitstreamError('the bitstream is damaged: its coded symbols are impossible') from None
        self._left -= table.bits(found)
        if self._left < 0:
            raise BitstreamError(f'the bitstream is damaged: {self._size} bytes are too few for its coded symbols')
        return found

    def finish(self) -> None:
        """Checks, after the last symbol, that all bytes were decoded."""
        if not self._coder.maybe_exhausted():
            raise BitstreamError('the bitstream is damaged: there are more coded symbols than tokens')


class BitCounter:
    """Counter of the ideal code length of symbols, in bits."""

    def __init__(self) -> None:
        self.bits = 0.0

    def __call__(self, table: FrequencyTable, symbol: int) -> int:
        """Adds the code length of a symbol and returns the symbol."""
        self.bits += table.bits(symbol)
        return symbol


class AdaptiveBit:
    """Adaptive probability model of a binary symbol."""

    __slots__ = ('_no', '_yes')
    _MOST = 510  # sum at which both counts are halved, which weights recent symbols more and bounds the cache

    def __init__(self) -> None:
        self._no = self._yes = 1  # in halves: the estimator of Krichevsky and Trofimov (1981)

    def code(self, coder: SymbolCoder, bit: bool) -> bool:
        """Codes a bit, updates the counts and returns the coded bit."""
        coded = bool(coder(_bit_table(self._no, self._yes), int(bit)))
        if coded:
            self._yes += 2
        else:
            self._no += 2
        if self._no + self._yes > self._MOST:
            self._no, self._yes = self._no // 2 | 1, self._yes // 2 | 1
        return coded


@functools.lru_cache(maxsize=1 << 16)
def _bit_table(no: int, yes: int) -> FrequencyTable:
    return FrequencyTable((no, yes))
