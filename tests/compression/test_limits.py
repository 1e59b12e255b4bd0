"""Memory grows with the image and one row of windows, and with nothing else; large images are within limits."""

import io
import tracemalloc
import zlib

import numpy as np
import pytest
from toy_image_tokenizer import ToyTokenizer

from vistok.compression.codec import Codec, build_header
from vistok.compression.format.bitstream import read_bounded
from vistok.compression.format.header import BitstreamError, Header, Limits
from vistok.compression.pixel_formats import unpack_alpha

WEIGHTS = b'weights!'


@pytest.mark.parametrize(('height', 'width'), [(1200, 400), (200, 3000), (1100, 1100)])
def test_decoding_takes_a_image_and_a_row_of_windows(height, width):
    codec = Codec(ToyTokenizer(16), WEIGHTS, window=128, halo=32)
    header = build_header(codec, np.zeros((height, width, 3), np.uint8))
    tokens = codec.encode(np.zeros((height, width, 3), np.uint8))
    tracemalloc.start()
    codec.decode(tokens, header)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= header.decoding_bytes
    assert peak > 3 * height * width  # what is counted is what is allocated


def test_encoding_takes_ids_and_a_window():
    codec = Codec(ToyTokenizer(16), WEIGHTS, window=128, halo=32)
    image = np.zeros((1200, 1200, 3), np.uint8)
    tracemalloc.start()
    codec.encode(image)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 76**2 + 8 * 3 * 8 * 128**2 < image.nbytes


@pytest.mark.parametrize('size', [(10_000, 10_000), (11_585, 11_585), (131_072, 1024), (1000, 134_217)])
def test_a_hundred_megapixels_fit_into_two_gigabytes(size):
    header = Header(*size, 4, 8, (16384,), 16, (1,), 256, 512, 64, WEIGHTS)
    header.check(Limits())
    assert size[0] * size[1] >= 100_000_000
    assert header.decoding_bytes < 2 * 1024**3


def test_a_row_of_windows_has_a_limit_of_its_own():
    """An image that is one pixel high is decoded a whole cell high."""
    low = Header(100_000_000, 1, 3, 8, (16384,), 16, (1,), 256, 512, 64, WEIGHTS)
    with pytest.raises(ValueError, match='take 42655 MiB of memory, above the limit of 4096; --max_memory=42655'):
        low.check(Limits())
    with pytest.raises(ValueError, match='above the limit of 134217728'):
        Header(12_000, 12_000, 3, 8, (16384,), 16, (1,), 256, 512, 64, WEIGHTS).check(Limits())


def peak_memory(function, *arguments, refused=False):
    tracemalloc.start()
    if refused:
        with pytest.raises(BitstreamError):
            function(*arguments)
    else:
        function(*arguments)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_transparency_takes_two_planes_and_no_bomb_is_unpacked():
    header = Header(512, 512, 2, 16, (16384,), 16, (1,), 256, 512, 64, WEIGHTS)
    plane = 2 * 512 * 512
    assert peak_memory(unpack_alpha, zlib.compress(bytes(plane)), header) < 2.2 * plane + (1 << 17)
    bomb = zlib.compress(bytes(100 * plane))
    assert len(bomb) < plane
    assert peak_memory(unpack_alpha, bomb, header, refused=True) < 2.2 * plane + (1 << 17)


class Endless(io.RawIOBase):
    """A device that never ends, behind some bytes."""

    def __init__(self, start):
        self.start, self.given = start, 0

    def read(self, count=-1):
        assert count >= 0
        self.given += count
        begin, self.start = self.start[:count], self.start[count:]
        return begin + bytes(count - len(begin))


@pytest.mark.parametrize('channels', [3, 4])
def test_a_file_is_read_only_as_far_as_its_header_says(channels):
    codec = Codec(ToyTokenizer(16), WEIGHTS)
    image = np.random.default_rng(0).integers(0, 256, (40, 50, channels)).astype(np.uint8)
    data = codec.compress(image)
    assert read_bounded(io.BytesIO(data)) == data
    for start, most in ((b'', 2000), (data, 1 << 18)):
        endless = Endless(start)
        with pytest.raises(BitstreamError):
            codec.decompress(read_bounded(endless))
        assert endless.given < most
