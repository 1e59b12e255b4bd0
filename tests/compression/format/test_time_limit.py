"""Decoding that would take too long is refused after a moment, with the time and the flag that allows it."""

import itertools
import types

import numpy as np
import pytest
from toy_image_tokenizer import ToyTokenizer

from vistok.compression.codec import Codec
from vistok.compression.format import time_limit
from vistok.compression.format.header import BitstreamError, Limits
from vistok.compression.format.packets import PacketShape
from vistok.compression.format.time_limit import TimeLimit
from vistok.errors import UserError

WEIGHTS = b'weights!'


@pytest.fixture
def slow_clock(monkeypatch):
    """Two seconds pass between any two looks at the clock."""
    clock = itertools.count(0.0, 2.0)
    monkeypatch.setattr(time_limit, 'time', types.SimpleNamespace(monotonic=lambda: next(clock)))


@pytest.mark.usefixtures('slow_clock')
def test_the_time_of_all_parts_is_estimated_from_the_first():
    limit = TimeLimit(40.0)
    limit.check(1, 100)
    limit.check(2, 100)
    with pytest.raises(BitstreamError, match='about 200 s on this machine, above the limit of 40 s; --max_seconds=200'):
        limit.check(3, 100)
    enough = TimeLimit(40.0)
    for done in range(1, 21):
        enough.check(done, 20)


@pytest.mark.usefixtures('slow_clock')
@pytest.mark.parametrize('settings', [{'tile': 4}, {'tile': 256}, {'tile': 4, 'packets': PacketShape(1, 2)}], ids=str)
def test_tokens_and_windows_have_the_limit(settings):
    class Counting(ToyTokenizer):
        def decode(self, tokens):
            decoded.append(tokens)
            return super().decode(tokens)

    decoded: list = []
    codec = Codec(Counting(), WEIGHTS, window=32, halo=8, limits=Limits(seconds=40.0), **settings)
    data = codec.compress(np.zeros((300, 300, 3), np.uint8))
    with pytest.raises(BitstreamError, match='--max_seconds='):
        codec.decompress(data)
    assert len(decoded) == (3 if settings['tile'] == 256 else 0)


def test_limits_are_above_zero():
    for wrong in ({'pixels': 0}, {'memory': -1}, {'seconds': 0.0}, {'seconds': float('nan')}):
        with pytest.raises(UserError, match=f'a limit of {next(iter(wrong))} is above 0, got'):
            Limits(**wrong)
