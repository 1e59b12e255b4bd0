"""The codec in Python: sizes are met by a keyword, priors and nested codebooks are fitted to images."""

import inspect

import numpy as np
import pytest
from toy_image_tokenizer import ToyTokenizer

from vistok.compression.calibration import count_codewords, embed_codewords
from vistok.compression.codec import Codec
from vistok.compression.format.description import describe
from vistok.compression.nested.codebooks import NestedCodebooks
from vistok.compression.priors.prior import StaticPrior
from vistok.compression.transcode import transcode
from vistok.tokenizers.tokenizer import Tokens


class Embedding(ToyTokenizer):
    """Codewords are the colours that ids stand for; with several codebooks, one colour channel each."""

    def embed(self, tokens):
        ids = np.asarray(tokens.ids)
        base = np.array([self.levels**2, self.levels, 1])
        return (ids if self.codebooks == 3 else ids // base % self.levels).astype(np.float32)


def image(seed, height=120, width=160, dtype=np.uint8):
    rng = np.random.default_rng(seed)
    y, x = np.indices((height, width))[..., None]
    waves = np.sin(y / rng.uniform(20, 60, 3) + x / rng.uniform(20, 60, 3) + rng.uniform(0, 6, 3))
    return ((waves + 1) / 2 * np.iinfo(dtype).max).astype(dtype)


IMAGES = [image(seed) for seed in range(4)]


def codec(*, window=64, **settings):
    return Codec(Embedding(**settings), b'weights!', window=window, halo=16)


def test_there_are_ten_public_methods():
    public = [
        name
        for name, value in vars(Codec).items()
        if not name.startswith('_') and (inspect.isfunction(value) or isinstance(value, property))
    ]
    assert sorted(public) == [
        'at_level', 'compress', 'decode', 'decompress', 'decompress_partial', 'encode', 'fit_prior', 'nest', 'pack',
        'unpack',
    ]  # fmt: skip


@pytest.mark.parametrize('settings', [{}, {'levels': 5, 'codebooks': 3}, {'factor': 4, 'grains': (1, 2, 4)}])
def test_a_prior_fitted_to_images_makes_others_smaller(settings, tmp_path):
    plain = codec(**settings)
    fitted = plain.fit_prior(image(seed, 240, 320) for seed in range(4))
    original = image(9, 240, 320)
    data = fitted.compress(original)
    assert len(data) < len(plain.compress(original))
    np.testing.assert_array_equal(fitted.decompress(data), plain.decompress(plain.compress(original)))
    fitted.prior.save(tmp_path / 'prior.safetensors')
    assert StaticPrior.load(tmp_path / 'prior.safetensors').fingerprint == fitted.prior.fingerprint


def test_nested_codebooks_fitted_to_images_meet_sizes(tmp_path):
    plain = codec()
    nested = plain.nest(IMAGES, sizes=[16, 4], restarts=1)
    assert [nested.nested.sizes(level) for level in range(3)] == [(64,), (16,), (4,)]
    ids = np.concatenate([np.asarray(plain.encode(x).ids).ravel() for x in IMAGES])
    assert nested.nested.about['used_codewords/0'] == str(len(np.unique(ids)))
    original = image(9)
    files = [nested.at_level(level).compress(original) for level in range(3)]
    assert nested.compress(original, max_bytes=len(files[1])) == files[1]
    assert nested.compress(original, bpp=8 * len(files[2]) / (120 * 160)) == files[2]
    assert transcode(files[0], nested.nested, codewords=16) == files[1]
    nested.nested.save(tmp_path / 'nested.safetensors')
    assert NestedCodebooks.load(tmp_path / 'nested.safetensors').fingerprint == nested.nested.fingerprint
    with pytest.raises(ValueError, match='fitted at level 0, the codec is at level 1'):
        nested.at_level(1).fit_prior(IMAGES)


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
def test_a_rate_is_met_by_grains(dtype):
    model, original = codec(window=512, factor=4, grains=(1, 2, 4)), image(5, 240, 320, dtype)
    for bpp in (0.2, 0.3):
        data = model.compress(original, bpp=bpp)
        assert abs(8 * len(data) / (240 * 320) / bpp - 1) < 0.02
    assert len(model.compress(original, max_bytes=2000)) <= 2000
    assert describe(data).header.bit_depth == 8 * original.dtype.itemsize
    even = model.compress(original, grain_ratios=(0.5, 0.25, 0.25))
    found = describe(even).grain
    assert [(found == side).mean() for side in (4, 2, 1)] == pytest.approx([0.5, 0.25, 0.25], abs=0.05)


def test_only_one_keyword_determines_the_size():
    with pytest.raises(ValueError, match='only one of bpp, max_bytes and grain_ratios'):
        codec().compress(image(0), bpp=0.1, max_bytes=100)
    with pytest.raises(ValueError, match='an image is uint8 or uint16'):
        codec().compress(np.zeros((4, 4, 5), np.uint8), bpp=0.1)


def test_codewords_are_counted_and_embedded_for_each_codebook():
    tokenizer = Embedding(levels=3, codebooks=3)
    ids = np.array([[[[0, 1, 2], [0, 1, 1]]]], np.int32)
    assert [counts.tolist() for counts in count_codewords([Tokens(ids)], tokenizer.spec)] == [
        [2, 0, 0], [0, 2, 0], [0, 1, 1],
    ]  # fmt: skip
    for j, vectors in enumerate(embed_codewords(tokenizer)):
        np.testing.assert_array_equal(vectors[:, j], np.arange(3))
        np.testing.assert_array_equal(np.delete(vectors, j, axis=1), 0)
