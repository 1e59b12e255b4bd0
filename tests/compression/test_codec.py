"""Codecs: images of every size and kind go through any tokenizer, and files of others are refused by name."""

import dataclasses
import io
import tracemalloc

import jax
import numpy as np
import pytest
from golden_packs import random_variables
from toy_image_tokenizer import ToyTokenizer

from vistok.compression.codec import Codec
from vistok.compression.format.header import BitstreamError, Limits
from vistok.compression.pixel_formats import check_image
from vistok.compression.priors.fitting import fit_prior
from vistok.experiments import registry
from vistok.experiments.config_files import load_config
from vistok.metrics.image_quality import psnr
from vistok.tokenizers.trained import TrainedTokenizer
from vistok.weights.fingerprints import fingerprint_weights

WEIGHTS = bytes(range(8))
TOKENIZERS = {
    'plain': ToyTokenizer(),
    'factorized': ToyTokenizer(levels=5, codebooks=3),
    'grains': ToyTokenizer(4, (1, 2, 4)),
}


def image(height, width, channels=3, dtype=np.uint8, seed=0):
    """A smooth one with some noise."""
    rng = np.random.default_rng(seed)
    y, x = np.indices((height, width))[..., None]
    waves = np.sin(y / rng.uniform(5, 40, channels) + x / rng.uniform(5, 40, channels) + rng.uniform(0, 6, channels))
    most = np.iinfo(dtype).max
    return ((waves + 1) * 0.45 * most + rng.uniform(0, 0.1 * most, waves.shape)).astype(dtype)


def assert_equal(tokens, others):
    np.testing.assert_array_equal(tokens.ids, others.ids)
    assert (tokens.grain is None) == (others.grain is None)
    if tokens.grain is not None:
        np.testing.assert_array_equal(tokens.grain, others.grain)


def codec(tokenizer, **changes):
    return Codec(tokenizer, WEIGHTS, **{'window': 64, 'halo': 16, 'tile': 16} | changes)


@pytest.mark.parametrize('tokenizer', TOKENIZERS.values(), ids=TOKENIZERS)
@pytest.mark.parametrize('size', [(1, 1), (1, 300), (300, 1), (7, 5), (64, 64), (65, 129), (131, 97)])
def test_tokens_come_back_exactly_and_images_in_their_size(tokenizer, size):
    original, model = image(*size), codec(tokenizer)
    tokens = model.encode(original)
    data = model.compress(original)
    assert data == model.pack(original, tokens)
    content = model.unpack(data)
    assert content.alpha is None
    assert_equal(content.tokens, tokens)
    decoded = model.decompress(data)
    assert decoded.shape == original.shape
    assert decoded.dtype == np.uint8
    if tokenizer.grains == (1,):  # an eighth of the range, and what varies inside a cell
        assert np.abs(decoded.astype(int) - original).mean() < 45


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
@pytest.mark.parametrize('channels', [1, 2, 3, 4])
def test_every_kind_of_image_comes_back_in_its_kind(channels, dtype):
    original, model = image(40, 33, channels, dtype), codec(ToyTokenizer(8, levels=16))
    decoded = model.decompress(io.BytesIO(model.compress(original)))
    assert decoded.dtype == dtype
    assert decoded.shape == original.shape
    if channels in (2, 4):
        np.testing.assert_array_equal(decoded[..., -1], original[..., -1])
    scale = np.iinfo(dtype).max
    assert np.abs(decoded[..., 0].astype(float) - original[..., 0]).mean() < 0.13 * scale


def test_sixteen_bits_are_not_reduced_to_eight():
    class Exact(ToyTokenizer):
        def encode(self, images, **_):
            self.seen.append(np.asarray(images))
            return super().encode(images)

        seen: list = []

    model = codec(Exact())
    original = image(16, 16, 3, np.uint16)
    model.compress(original)
    np.testing.assert_allclose((Exact.seen[0][0] + 1) / 2 * 65535, original, atol=0.01)


def test_windows_give_what_one_window_gives():
    """This tokenizer has no context: seams would be mistakes of the windows."""
    original = image(200, 150)
    small, large = codec(ToyTokenizer(8, levels=16)), codec(ToyTokenizer(8, levels=16), window=256)
    assert_equal(small.encode(original), large.encode(original))
    decoded = [model.decompress(model.compress(original)) for model in (small, large)]
    assert np.abs(decoded[0].astype(int) - decoded[1]).max() <= 1


def test_windows_are_decoded_with_their_grains():
    class Shaded(ToyTokenizer):
        """As bright as the grain of a cell, which a decoder must be told."""

        def decode(self, tokens):
            shades = np.repeat(np.repeat(np.asarray(tokens.grain)[..., None] / 8, self.factor, 1), self.factor, 2)
            return np.repeat(shades, 3, -1).astype(np.float32)

    model, original = codec(Shaded(4, (1, 2, 4))), image(200, 150)
    grain = np.asarray(model.encode(original).grain)[0]
    assert len(np.unique(grain)) == 3
    decoded = model.decompress(model.compress(original))
    expected = np.floor((grain / 8 + 1) * 127.5 + 0.5)
    inside = decoded[2::4, 2::4, 0]  # grain maps are the same in all windows that see a cell, so blending changes none
    np.testing.assert_array_equal(inside, expected[: inside.shape[0], : inside.shape[1]])


def test_what_a_file_looks_like_does_not_depend_on_the_codec_that_reads_it():
    data = codec(TOKENIZERS['plain']).compress(image(100, 90))
    expected = codec(TOKENIZERS['plain']).decompress(data)
    other = codec(TOKENIZERS['plain'], window=128, halo=0, tile=4)
    np.testing.assert_array_equal(other.decompress(data), expected)


def test_transparency_that_says_little_costs_little():
    opaque = np.concatenate([image(200, 200), np.full((200, 200, 1), 255, np.uint8)], -1)
    model = codec(TOKENIZERS['plain'])
    assert len(model.compress(opaque)) < len(model.compress(opaque[..., :3])) + 80


def test_progress_counts_all_windows():
    calls = []
    codec(TOKENIZERS['plain']).compress(image(100, 150), progress=lambda done, total: calls.append((done, total)))
    assert calls == [(i + 1, len(calls)) for i in range(len(calls))]
    assert len(calls) > 4


def test_other_weights_priors_and_tokenizers_are_named():
    original, model = image(40, 40), codec(TOKENIZERS['plain'])
    data = model.compress(original)
    with pytest.raises(BitstreamError, match='written with weights 0001020304050607, got 6f74686572212121'):
        Codec(TOKENIZERS['plain'], b'other!!!').decompress(data)
    with pytest.raises(BitstreamError, match='bitstream has tokens of'):
        codec(TOKENIZERS['grains']).decompress(data)
    spec = TOKENIZERS['plain'].spec
    tokens = [model.encode(image(200, 200, seed=i)) for i in range(3)]
    prior = fit_prior(tokens, [np.arange(64, dtype=np.float32)[:, None]], spec, clusters=(1, 4))
    with_prior = dataclasses.replace(model, prior=prior)
    smaller = with_prior.compress(image(200, 200, seed=9))
    assert len(smaller) < 0.9 * len(model.compress(image(200, 200, seed=9)))
    np.testing.assert_array_equal(with_prior.decompress(data), model.decompress(data))  # written without any
    with pytest.raises(BitstreamError, match=f'written with prior {prior.fingerprint.hex()}, got none'):
        model.decompress(smaller)
    with pytest.raises(ValueError, match='the prior is one of codebooks'):
        codec(TOKENIZERS['grains'], prior=prior)


def test_what_is_no_image_is_refused():
    for wrong in (np.zeros((4, 4)), np.zeros((4, 4, 3)), np.zeros((4, 4, 5), np.uint8), np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(ValueError, match='an image is uint8 or uint16'):
            check_image(wrong)
    with pytest.raises(ValueError, match='above the limit of 10'):
        codec(TOKENIZERS['plain'], limits=Limits(10)).compress(image(4, 4))
    with pytest.raises(ValueError, match='a fingerprint has 8 bytes'):
        Codec(TOKENIZERS['plain'], b'')


def test_fingerprints_follow_values_and_not_names():
    tree = {'params': {'a': np.arange(6, dtype=np.float32), 'b': {'c': np.ones((2, 3), np.float32)}}}
    renamed = {'other': {'x': np.ones((2, 3), np.float32)}, 'y': np.arange(6, dtype=np.float32)}
    assert (
        fingerprint_weights(tree)
        == fingerprint_weights(renamed)
        == fingerprint_weights(jax.tree.map(jax.numpy.asarray, tree))
    )
    changed = {'params': tree['params'] | {'a': np.arange(6, dtype=np.float32) * (1 + 1e-7)}}
    assert fingerprint_weights(changed) != fingerprint_weights(tree)
    assert fingerprint_weights(tree).hex() == '04fd9872709a93e4'


@pytest.mark.parametrize('config', ['fqgan.py:tiny', 'control_gic.py:tiny', 'dq_vae.py:tiny'])
def test_real_tokenizers_go_through(config):
    module = registry.build_tokenizer(load_config(f'configs/{config}').model)
    # Random numbers instead of an initialization, which would be compiled as well.
    variables = dict(random_variables(jax.eval_shape(module.init, jax.random.key(0), np.zeros((1, 32, 32, 3)))))
    model = Codec(TrainedTokenizer(module, variables), fingerprint_weights(variables), window=32, halo=16, tile=8)
    original = image(45, 40)
    tokens = model.encode(original)
    data = model.pack(original, tokens)
    assert_equal(model.unpack(data).tokens, tokens)
    assert model.decompress(data).shape == original.shape
    only = model.encode(original[:32, :32])
    expected = model.tokenizer.encode(original[None, :32, :32].astype(np.float32) / 127.5 - 1)
    assert_equal(only, expected)


def test_quality_is_that_of_the_tokenizer():
    """One window, no crop: the bitstream adds no loss."""
    original, tokenizer = image(64, 64), TOKENIZERS['plain']
    images = original[None].astype(np.float32) / 127.5 - 1
    expected = psnr(images, tokenizer.decode(tokenizer.encode(images)))
    decoded = codec(tokenizer).decompress(codec(tokenizer).compress(original))
    np.testing.assert_allclose(psnr(images, decoded[None].astype(np.float32) / 127.5 - 1), expected, atol=1e-6)


@pytest.mark.slow
def test_a_large_image_takes_little_more_memory_than_itself():
    original = np.zeros((3000, 4000, 3), np.uint8)
    original[::7] = 200
    model = codec(ToyTokenizer(16), window=512, halo=32, tile=256)
    tracemalloc.start()
    decoded = model.decompress(model.compress(original))
    assert tracemalloc.get_traced_memory()[1] < 3 * original.nbytes
    tracemalloc.stop()
    assert decoded.shape == original.shape
