"""Memory grows with the image and one row of windows, and with nothing else; large images are within limits."""

import tracemalloc

import numpy as np
import pytest
from toy_image_tokenizer import ToyTokenizer

from vistok.compression.codec import Codec, build_header
from vistok.compression.format.header import Header, Limits

WEIGHTS = b'weights!'


def decoding_bytes(header):
    """What decoding allocates at most: image, ids, a row of windows with its joint, rows that are converted."""
    rows, columns = header.grid
    factor, k = header.downsample_factor, len(header.codebook_sizes)
    width, strip_rows = columns * factor, min(rows * factor, header.window)
    image = header.width * header.height * header.channels * header.bit_depth // 8
    joint = min(2 * header.halo, strip_rows)
    windows = 8 * 3 * 8 * header.window**2  # some copies of the one that is decoded, whatever its network takes
    return image + 4 * rows * columns * k + 12 * width * (strip_rows + joint + 5 * 32) + windows


@pytest.mark.parametrize(('height', 'width'), [(1200, 400), (200, 3000), (1100, 1100)])
def test_decoding_takes_a_image_and_a_row_of_windows(height, width):
    codec = Codec(ToyTokenizer(16), WEIGHTS, window=128, halo=32)
    header = build_header(codec, np.zeros((height, width, 3), np.uint8))
    tokens = codec.encode(np.zeros((height, width, 3), np.uint8))
    tracemalloc.start()
    codec.decode(tokens, header)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= decoding_bytes(header)
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
    assert decoding_bytes(header) < 2 * 1024**3


def test_a_row_of_windows_has_a_limit_of_its_own():
    """An image that is one pixel high is decoded a whole cell high."""
    low = Header(100_000_000, 1, 3, 8, (16384,), 16, (1,), 256, 512, 64, WEIGHTS)
    with pytest.raises(
        ValueError, match='in windows of 512 are strips of 1600000000 pixels, above the limit of 67108864'
    ):
        low.check(Limits())
    with pytest.raises(ValueError, match='above the limit of 134217728'):
        Header(12_000, 12_000, 3, 8, (16384,), 16, (1,), 256, 512, 64, WEIGHTS).check(Limits())
