"""Sizes that are asked for: met, never exceeded, or refused with what is possible."""

import numpy as np
import pytest
from toy_image_tokenizer import ToyTokenizer

from vistok.compression.codec import Codec
from vistok.compression.rate_control import SizeTarget, binomial_grain_ratios, compress_to_size, pack_to_size

PIXELS = 100_000


def smooth(shares):
    """A file whose size grows with the number of tokens."""
    coarse, medium, fine = shares
    return bytes(round(400 + 1000 * (coarse + 4 * medium + 16 * fine)))


@pytest.mark.parametrize('count', [2, 3, 4])
def test_shares_lie_on_a_curve_from_coarse_to_fine(count):
    curve = np.array([binomial_grain_ratios(t, count) for t in np.linspace(0, 1, 11)])
    np.testing.assert_allclose(curve.sum(1), 1)
    assert (curve >= 0).all()
    assert curve[0].tolist() == [1] + [0] * (count - 1)
    assert curve[-1].tolist() == [0] * (count - 1) + [1]
    codes = curve @ 4.0 ** np.arange(count)
    assert (np.diff(codes) > 0).all()


@pytest.mark.parametrize('size', [1400, 1500, 5000, 12345, 16390])
def test_a_size_is_met_and_never_exceeded(size):
    calls = []

    def compress(shares):
        calls.append(shares)
        return smooth(shares)

    near = compress_to_size(SizeTarget(size, never_above=False), compress, 3, PIXELS)
    assert abs(len(near) - size) <= 0.005 * size
    below = compress_to_size(SizeTarget(size, never_above=True), compress, 3, PIXELS)
    assert 0.99 * size <= len(below) <= size
    assert len(calls) < 30


def test_steps_are_respected():
    """Sizes come in steps of 700 bytes: the best one below the limit, the nearest one for a rate."""

    def compress(shares):
        return bytes(1400 + (len(smooth(shares)) - 1400) // 700 * 700)

    assert len(compress_to_size(SizeTarget(4100, never_above=True), compress, 3, PIXELS)) == 3500
    assert len(compress_to_size(SizeTarget(4100, never_above=False), compress, 3, PIXELS)) == 4200


def test_more_than_everything_is_everything_and_less_than_the_least_is_refused():
    assert len(compress_to_size(SizeTarget(99_999, never_above=True), smooth, 3, PIXELS)) == 16400
    with pytest.raises(ValueError, match=r'has 1400 bytes \(0.1120 bits per pixel\), more than the target of 900'):
        compress_to_size(SizeTarget(900, never_above=True), smooth, 3, PIXELS)


def test_one_grain_has_one_size():
    def compress(shares):
        assert shares is None
        return bytes(1000)

    assert len(compress_to_size(SizeTarget(1000, never_above=True), compress, 1, PIXELS)) == 1000
    assert len(compress_to_size(SizeTarget(5000, never_above=True), compress, 1, PIXELS)) == 1000
    assert len(compress_to_size(SizeTarget.from_bpp(0.081, PIXELS, 1), compress, 1, PIXELS)) == 1000
    for target in (SizeTarget(999, never_above=True), SizeTarget(5000, never_above=False)):
        with pytest.raises(ValueError, match='one grain, so the size of an image is given: 1000 bytes'):
            compress_to_size(target, compress, 1, PIXELS)


def test_the_most_codewords_that_fit_are_taken():
    asked = []

    def pack(level):
        asked.append(level)
        return bytes([1000, 500, 250][level])

    assert len(pack_to_size(SizeTarget(600, never_above=True), pack, 2, PIXELS)) == 500
    assert asked == [0, 1]
    assert len(pack_to_size(SizeTarget(1000, never_above=True), pack, 2, PIXELS)) == 1000
    assert len(pack_to_size(SizeTarget(999, never_above=True), pack, 2, PIXELS)) == 500
    assert len(pack_to_size(SizeTarget(990, never_above=False), pack, 2, PIXELS)) == 1000
    assert len(pack_to_size(SizeTarget(970, never_above=False), pack, 2, PIXELS)) == 500
    with pytest.raises(ValueError, match=r'fewest codewords there are, this image has 250 bytes .* target of 240'):
        pack_to_size(SizeTarget(240, never_above=True), pack, 2, PIXELS)


def test_rates_are_positive():
    assert SizeTarget.from_bpp(0.5, 100, 80) == SizeTarget(500, never_above=False)
    for wrong in (0.0, -1.0, float('nan'), float('inf')):
        with pytest.raises(ValueError, match='bits per pixel must be a number above 0'):
            SizeTarget.from_bpp(wrong, 10, 10)


def test_files_of_a_image_have_the_size():
    rng = np.random.default_rng(0)
    image = np.kron(rng.integers(0, 256, (40, 60, 3)), np.ones((5, 5, 1))).astype(np.uint8)
    codec = Codec(ToyTokenizer(4, (1, 2, 4)), b'weights!', window=128, halo=16)

    def compress(shares):
        return codec.compress(image, grain_ratios=shares)

    for bpp in (0.1, 0.25):
        size = 8 * len(compress_to_size(SizeTarget.from_bpp(bpp, 300, 200), compress, 3, 60_000)) / 60_000
        assert abs(size - bpp) < 0.02 * bpp
    assert 1900 < len(compress_to_size(SizeTarget(2000, never_above=True), compress, 3, 60_000)) <= 2000
