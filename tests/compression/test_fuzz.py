"""Whatever bytes a decoder is given, it answers with tokens or with one sentence, quickly and in bounded memory."""

import random
import struct
import zlib

import numpy as np
import pytest
from toy_picture_tokenizer import ToyTokenizer

from tesserax.compression.codec import Codec
from tesserax.compression.header import BitstreamError, Limits
from tesserax.compression.prior_fit import fit_prior

WEIGHTS = b'weights!'


def picture(seed):
    rng = np.random.default_rng(seed)
    return np.kron(rng.integers(0, 256, (3, 4, 4)), np.ones((12, 12, 1))).astype(np.uint8)


@pytest.fixture(scope='module')
def cases():
    """See `made_cases`."""
    return made_cases()


def made_cases():
    """Codecs with and without prior and grains, each with a file of its own."""
    found = []
    for tokenizer in (ToyTokenizer(), ToyTokenizer(8, levels=3, codebooks=3), ToyTokenizer(4, (1, 2, 4))):
        codec = Codec(tokenizer, WEIGHTS, tile=4, limits=Limits(1 << 16))
        tokens = [codec.encode(picture(i)) for i in range(4)]
        words = [np.arange(k, dtype=np.float32)[:, None] for k in tokenizer.spec.codebook_sizes]
        prior = fit_prior(tokens, words, tokenizer.spec, clusters=(4,))
        with_prior = Codec(tokenizer, WEIGHTS, prior, tile=8, limits=Limits(1 << 16))
        found += [(c, c.compress(picture(9)[..., :channels])) for c in (codec, with_prior) for channels in (3, 4)]
    return found


def mutated(data, other, rng):
    """Some damage; every second time with the checksums of header and file mended, so that it gets further."""
    data = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        place = rng.randrange(len(data)) if data else 0
        kind = rng.randrange(6)
        if kind == 0 and data:
            data[place] ^= 1 << rng.randrange(8)
        elif kind == 1 and data:
            data[place] = rng.choice([0, 1, 127, 128, 255])
        elif kind == 2:
            del data[place : place + rng.randint(1, 8)]
        elif kind == 3:
            data[place:place] = rng.randbytes(rng.randint(1, 8))
        elif kind == 4:
            data[place:] = other[place:]
        else:
            data = data[:place]
    if rng.randrange(2) and len(data) > 12:
        end = 6 + data[5]
        data[end : end + 4] = struct.pack('<I', zlib.crc32(data[:end]))
        data[-4:] = struct.pack('<I', zlib.crc32(data[:-4]))
    return bytes(data)


def fuzz(cases, rounds, seed=0):
    rng = random.Random(seed)
    refused, sentences = 0, set[str]()
    for _ in range(rounds):
        codec, data = rng.choice(cases)
        damaged = mutated(data, rng.choice(cases)[1], rng)
        try:
            reader = codec.reader(damaged)
            reader.alpha()
            tokens = codec.unpack(reader)
        except BitstreamError as error:
            refused += 1
            sentences.add(str(error))
        else:
            assert tokens.ids.min() >= 0
            assert (tokens.ids < np.asarray(codec.tokenizer.spec.codebook_sizes)).all()
            assert tokens.grain is None or set(np.unique(tokens.grain)) <= set(codec.tokenizer.spec.grains)
    assert all('\n' not in sentence for sentence in sentences)
    return refused / rounds, {sentence[:40] for sentence in sentences}


def test_damaged_files_are_answered_in_a_sentence(cases):
    refused, sentences = fuzz(cases, 3000)
    assert refused > 0.95  # what is left has damage in the transparency, or none
    assert len(sentences) > 12


@pytest.mark.slow
@pytest.mark.parametrize('seed', range(1, 11))
def test_a_million_damaged_files_are_answered_in_a_sentence(cases, seed):
    """In ten parts, which can run by themselves."""
    fuzz(cases, 100_000, seed)


def test_damage_inside_a_tile_is_noticed_by_the_tile(cases):
    """Even where the checksum of the file was made to fit."""
    noticed = harmless = 0
    for codec, data in cases:
        if codec.reader(data).header.has_alpha:
            continue
        end = 6 + data[5] + 4
        for place in range(end + 1, len(data) - 4):
            damaged = bytearray(data)
            damaged[place] ^= 0x10
            damaged[-4:] = struct.pack('<I', zlib.crc32(damaged[:-4]))
            try:
                found = codec.unpack(codec.reader(bytes(damaged)))
            except BitstreamError:
                noticed += 1
            else:  # the last bits of a coded stream may be anything
                tokens = codec.unpack(codec.reader(data))
                assert (found.ids == tokens.ids).all()
                assert found.grain is None or (found.grain == tokens.grain).all()
                harmless += 1
    assert noticed > 20 * harmless


def test_random_bytes_are_refused(cases):
    rng = np.random.default_rng(0)
    for length in range(100):
        for start in (b'', b'\x8aTSX\x01'):
            with pytest.raises(BitstreamError):
                cases[0][0].decompress(start + rng.bytes(length))
