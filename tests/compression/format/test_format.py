"""The format stays as it is: the documented example, and files that were written once and decode for ever.

`python tests/compression/test_format.py NAMES` writes golden files: new ones, or all for a new version of the format.
"""

import dataclasses
import io
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from vistok.compression.codec import Codec
from vistok.compression.entropy.token_coding import encode_tile
from vistok.compression.format.bitstream import BitstreamWriter
from vistok.compression.format.description import describe
from vistok.compression.format.header import Header
from vistok.compression.format.packets import PacketShape
from vistok.compression.nested.codebooks import NestedCodebooks
from vistok.compression.nested.fitting import fit_nested
from vistok.compression.priors.fitting import fit_prior
from vistok.compression.priors.prior import StaticPrior

ROOT = Path(__file__).resolve().parents[3]
GOLDEN = ROOT / 'tests/golden/bitstream'
WEIGHTS = bytes.fromhex('3fa9c2d07b1e5866')
CASES = ('plain', 'factorized', 'grains', 'transparent', 'level', 'packets')


def tokenizer(name):
    from toy_image_tokenizer import ToyTokenizer

    return {
        'factorized': ToyTokenizer(8, levels=5, codebooks=3),
        'grains': ToyTokenizer(4, (1, 2, 4)),
    }.get(name, ToyTokenizer())


def image(seed, channels=3, dtype=np.uint8):
    rng = np.random.default_rng(seed)
    y, x = np.indices((150, 200))[..., None]
    waves = np.sin(y / rng.uniform(5, 40, channels) + x / rng.uniform(5, 40, channels) + rng.uniform(0, 6, channels))
    return ((waves + 1) / 2 * np.iinfo(dtype).max).astype(dtype)


def prior_of(name):
    path = GOLDEN / f'{name}.prior.safetensors'
    return StaticPrior.load(path) if path.is_file() else None


def test_the_documented_example_is_what_is_written():
    text = (ROOT / 'docs/bitstream.md').read_text()
    block = text[text.index('## An example') :].split('```')[1]
    documented = bytes.fromhex(''.join(re.match(r'((?:[0-9a-f]{2} ?)*)', line)[0] for line in block.splitlines()))
    header = Header(20, 12, 3, 8, (16,), 8, (1, 2), 256, 64, 16, WEIGHTS)
    ids = np.array([[5, 5, 1, 2], [5, 5, 3, 4]], np.int32)[..., None]
    grain = np.array([[2, 2, 1, 1], [2, 2, 1, 1]], np.int32)
    file = io.BytesIO()
    writer = BitstreamWriter(file)
    writer.write_header(header)
    writer.write_tile(encode_tile(ids, grain, header.spec(), None))
    writer.write_end()
    assert file.getvalue().hex(' ') == documented.hex(' ')


@pytest.mark.parametrize('name', CASES)
def test_old_files_decode_to_the_same_tokens_for_ever(name):
    data = (GOLDEN / f'{name}.bin').read_bytes()
    nested = NestedCodebooks.load(GOLDEN / 'level.nested.safetensors') if name == 'level' else None
    codec = Codec(tokenizer(name), WEIGHTS, prior_of(name), nested=nested)
    content = codec.unpack(data)
    alpha, tokens = content.alpha, content.tokens
    with np.load(GOLDEN / f'{name}.npz') as expected:
        np.testing.assert_array_equal(tokens.ids, expected['ids'])
        assert (tokens.grain is None) == ('grain' not in expected)
        if tokens.grain is not None:
            np.testing.assert_array_equal(tokens.grain, expected['grain'])
        assert (alpha is None) == ('alpha' not in expected)
        if alpha is not None:
            np.testing.assert_array_equal(codec.decompress(data)[..., -1], expected['alpha'])
    if alpha is None:
        plain, coded = ('ids, plain' in describe(data).streams, 'ids, coded' in describe(data).streams)
        assert (plain, coded) == (codec.prior is None, codec.prior is not None)


def write_golden_files(names):
    GOLDEN.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(CASES):
        if name not in names:
            continue
        codec = Codec(tokenizer(name), WEIGHTS, tile=32)
        spec = codec.tokenizer.spec
        if name in ('factorized', 'grains'):
            tokens = [codec.encode(image(100 + i)) for i in range(4)]
            words = [np.arange(k, dtype=np.float32)[:, None] for k in spec.codebook_sizes]
            prior = fit_prior(tokens, words, spec, clusters=(4,))
            prior.save(GOLDEN / f'{name}.prior.safetensors')
            codec = Codec(codec.tokenizer, WEIGHTS, prior, tile=32)
        if name == 'level':
            cubes = np.stack(np.unravel_index(np.arange(64), (4, 4, 4)), -1).astype(np.float32)
            nested = fit_nested([cubes], [np.ones(64, int)], (16, 8), WEIGHTS)
            nested.save(GOLDEN / 'level.nested.safetensors')
            codec = dataclasses.replace(codec, nested=nested)
        if name == 'packets':
            codec = dataclasses.replace(codec, packets=PacketShape(2, 3), tile=8)
        original = image(seed, 4, np.uint16) if name == 'transparent' else image(seed)
        tokens = codec.encode(original)
        data = codec.at_level(2).compress(original) if name == 'level' else codec.pack(original, tokens)
        tokens = codec.unpack(data).tokens if name == 'level' else tokens
        (GOLDEN / f'{name}.bin').write_bytes(data)
        known = {'ids': np.asarray(tokens.ids).astype(np.int16)}
        known |= {} if tokens.grain is None else {'grain': np.asarray(tokens.grain).astype(np.int8)}
        known |= {'alpha': original[..., -1]} if name == 'transparent' else {}
        np.savez_compressed(GOLDEN / f'{name}.npz', **known)


if __name__ == '__main__':
    write_golden_files(sys.argv[1:] or CASES)
