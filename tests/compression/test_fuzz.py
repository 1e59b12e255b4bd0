"""Whatever bytes a decoder is given, it answers with tokens or with one sentence, quickly and in bounded memory."""

import dataclasses
import random
import struct
import time
import tracemalloc
import zlib

import jax
import numpy as np
import pytest
from markov_generator import Markov
from toy_image_tokenizer import ToyTokenizer

from vistok.compression.codec import Codec
from vistok.compression.format import packets
from vistok.compression.format.bitstream import BitstreamReader
from vistok.compression.format.description import describe
from vistok.compression.format.header import BitstreamError, Limits
from vistok.compression.format.packets import PacketShape
from vistok.compression.loss_concealment import copy_nearest_known
from vistok.compression.nested.fitting import fit_nested
from vistok.compression.priors.fitting import fit_prior
from vistok.compression.priors.network import NetworkPrior
from vistok.compression.priors.prior import StaticPrior
from vistok.compression.transcode import transcode_to_level
from vistok.tokenizers.tokenizer import Tokens

WEIGHTS = b'weights!'
LIMITS = Limits(1 << 16, 1 << 20)
MOST_MEMORY = LIMITS.memory  # bytes
MOST_SECONDS = 2.0  # of this process
MEASURED = 50  # one file in so many has its memory measured, which takes time


@dataclasses.dataclass(frozen=True)
class Case:
    """A file and what is in it.

    Attributes:
      codec: that reads it.
      data: the file.
      tokens: in ids of the whole codebook.
    """

    codec: Codec
    data: bytes
    tokens: Tokens


def image(seed, channels=3, dtype=np.uint8):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, np.iinfo(dtype).max + 1, (3, 4, channels))
    return np.kron(coarse, np.ones((12, 12, 1))).astype(dtype)


def prior_of(tokenizer, codec):
    tokens = [codec.encode(image(i)) for i in range(4)]
    words = [np.arange(k, dtype=np.float32)[:, None] for k in tokenizer.spec.codebook_sizes]
    return fit_prior(tokens, words, tokenizer.spec, clusters=(4,))


@pytest.fixture(scope='module')
def cases():
    """See `made_cases`."""
    return made_cases()


def made_cases():
    """Files of every kind: with grains, transparency, 16 bits, tables, a network, a smaller codebook, packets."""
    found = []

    def add(codec, original, reader=None):
        data = codec.compress(original)
        reader = reader or codec
        found.append(Case(reader, data, reader.unpack(data).tokens))

    for tokenizer in (ToyTokenizer(), ToyTokenizer(8, levels=3, codebooks=3), ToyTokenizer(4, (1, 2, 4))):
        plain = Codec(tokenizer, WEIGHTS, tile=4, limits=LIMITS)
        prior = prior_of(tokenizer, plain)
        coded = Codec(tokenizer, WEIGHTS, prior, tile=8, limits=LIMITS)
        for codec in (plain, coded):
            for channels, dtype in ((3, np.uint8), (4, np.uint8), (3, np.uint16), (2, np.uint16)):
                add(codec, image(9, channels, dtype))
        words = [np.arange(k, dtype=np.float32)[:, None] for k in tokenizer.spec.codebook_sizes]
        nested = fit_nested(words, [np.ones(len(w), int) for w in words], (2, 1), WEIGHTS, restarts=1)
        levels = dataclasses.replace(coded, nested=nested)
        for level in range(3):
            add(levels.at_level(level), image(9), levels)
        if tokenizer.grains == (1,):
            for level in range(2):
                for codec in (levels, dataclasses.replace(levels, prior=None)):
                    codec = dataclasses.replace(codec, packets=PacketShape(2, 2), tile=5)
                    add(codec.at_level(level), image(9), codec)
    add(drawn_by_a_network(), np.kron(image(9)[:32, :32], np.ones((3, 3, 1), np.uint8)))
    assert BitstreamReader(found[-1].data).header.prior_kind == 2
    return found


def drawn_by_a_network():
    generator = Markov(ToyTokenizer().spec, grid=(3, 4), num_classes=1)
    network = NetworkPrior.from_variables(generator, generator.init(jax.random.key(0)))

    class Drawn(ToyTokenizer):
        def encode(self, images):
            return Tokens(generator.drawn(network.variables, 1, (12, 12))[None])

    return Codec(Drawn(), WEIGHTS, window=96, limits=Limits(1 << 14, 1 << 22), network=network)


def mutated(data, other, rng):
    """Some damage; every second time with the checksums of header and file mended, so that it gets further.

    Returns:
      The bytes, and whether checksums were mended.
    """
    data = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        place = rng.randrange(rng.choice((0, len(data) // 2)), len(data)) if data else 0
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
    mended = bool(rng.randrange(2)) and len(data) > 12
    if mended:
        end = 6 + data[5]
        data[end : end + 4] = struct.pack('<I', zlib.crc32(data[:end]))
        start = data.find(packets.MARKER, end + 4)
        stop = start + 6 + (data[start + 3] >> 1) if 0 <= start < len(data) - 12 else -1
        if start >= 0 and 0 <= stop <= len(data) - 4:  # where it is a packet, its checksum
            data[stop : stop + 4] = struct.pack('<I', zlib.crc32(data[start:stop]))
        else:
            data[-4:] = struct.pack('<I', zlib.crc32(data[:-4]))
    return bytes(data), mended


def split(data):
    """The header and the rest of a file; a header and its checksum have the same checksum, whichever it is."""
    end = 10 + data[5]
    return data[:end], data[end:]


class Reading:
    """All ways to read a file, of which one is chosen by chance; what is wrong is an AssertionError."""

    def __init__(self, cases, rng):
        self.cases, self.rng = cases, rng
        self.headers = {split(case.data)[0] for case in cases}
        self.ids_of = {}  # what follows the header may be the same where there is one codeword
        for case in cases:
            self.ids_of.setdefault(split(case.data)[1], []).append(case.tokens.ids)

    def read(self, case, data, mended):
        """The name of the way; BitstreamError where the file is refused."""
        ways = [self.tokens, self.tokens, self.tokens, self.described]
        if case.codec.packets is not None or not self.rng.randrange(8):
            ways.append(self.partial)
        if case.codec.nested is not None:
            ways.append(self.transcoded)
        way = self.rng.choice(ways)
        way(case, data, mended)
        return way.__name__

    def tokens(self, case, data, mended):
        content = case.codec.unpack(data)
        tokens, alpha = content.tokens, content.alpha
        if alpha is not None:
            assert alpha.shape == (content.header.height, content.header.width, 1)
        self._check(case.codec, tokens)
        if not mended:  # nothing but a whole file, or one with the whole header of another
            header, rest = split(data)
            assert header in self.headers
            assert any(np.array_equal(tokens.ids, ids) for ids in self.ids_of[rest])

    def described(self, case, data, mended):
        found = describe(data, case.codec.limits)
        assert sum(found.streams.values()) == found.size == len(data)
        assert found.lines()

    def partial(self, case, data, mended):
        seen = {}

        def restore(ids, known):
            seen['ids'], seen['known'] = ids, known
            return copy_nearest_known(ids, known)

        found = case.codec.decompress_partial(data, restore)
        self._check(case.codec, found.known)
        assert (found.lost > 0) == bool(seen)
        if seen:  # what is missing is flagged, and what has arrived is as it was written
            np.testing.assert_array_equal(found.known, seen['known'])
            self._check(case.codec, Tokens(seen['ids'][None]))
            if not mended:
                np.testing.assert_array_equal(seen['ids'][found.known], np.asarray(case.tokens.ids)[0][found.known])

    def transcoded(self, case, data, mended):
        codec = case.codec
        prior = codec.prior if isinstance(codec.prior, StaticPrior) else None
        smaller = transcode_to_level(data, codec.nested, len(codec.nested.levels), prior, codec.limits)
        self._check(codec, codec.unpack(smaller).tokens)

    @staticmethod
    def _check(codec, found):
        if isinstance(found, Tokens):
            assert found.ids.min() >= 0
            assert (found.ids < np.asarray(codec.tokenizer.spec.codebook_sizes)).all()
            assert found.grain is None or set(np.unique(found.grain)) <= set(codec.tokenizer.spec.grains)


@dataclasses.dataclass
class Fuzzed:
    """What came of it: by way and answer, how many; other numbers are the largest."""

    read: dict[str, int] = dataclasses.field(default_factory=dict)
    refused: int = 0
    sentences: set[str] = dataclasses.field(default_factory=set)
    seconds: float = 0.0
    memory: int = 0
    measured: int = 0


def fuzz(cases, rounds, seed=0):
    rng, found = random.Random(seed), Fuzzed()
    reading = Reading(cases, rng)
    for number in range(rounds):
        case = rng.choice(cases)
        # A whole packet of another image is none that is damaged, and fits in.
        other = case if case.codec.packets is not None else rng.choice(cases)
        damaged, mended = mutated(case.data, other.data, rng)
        if number % MEASURED == 0:
            tracemalloc.start()
        start = time.process_time()
        try:
            way = reading.read(case, damaged, mended)
        except BitstreamError as error:
            found.refused += 1
            found.sentences.add(str(error))
        else:
            found.read[way] = found.read.get(way, 0) + 1
        found.seconds = max(found.seconds, time.process_time() - start)
        if tracemalloc.is_tracing():
            found.memory = max(found.memory, tracemalloc.get_traced_memory()[1])
            found.measured += 1
            tracemalloc.stop()
    assert all(sentence.isprintable() for sentence in found.sentences)  # one line, whatever the file says
    assert found.seconds < MOST_SECONDS
    assert found.memory < MOST_MEMORY
    return found


def test_damaged_files_are_answered_in_a_sentence(cases):
    found = fuzz(cases, 1200, seed=11)
    assert found.refused > 0.85 * 1200  # what is left has damage in the transparency, packets to spare, or none
    assert len({sentence[:40] for sentence in found.sentences}) > 12
    assert set(found.read) == {'tokens', 'described', 'partial', 'transcoded'}
    assert found.measured == 1200 / MEASURED


@pytest.mark.usefixtures('annotations_unchecked')
@pytest.mark.parametrize('seed', [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 11))])
def test_a_million_damaged_files_are_answered_in_a_sentence(cases, seed):
    """In ten parts, which can run by themselves, and a small one."""
    found = fuzz(cases, 100_000 if seed else 3000, seed)
    found.sentences = {sentence[:40] for sentence in found.sentences}
    print(found)


@pytest.mark.usefixtures('annotations_unchecked')
def test_damage_inside_a_tile_is_noticed_by_the_tile(cases):
    """Even where the checksum of the file was made to fit."""
    noticed = harmless = 0
    for case in cases:
        codec, data = case.codec, case.data
        if (
            BitstreamReader(data, codec.limits).header.has_alpha
            or codec.packets is not None
            or codec.network is not None
        ):
            continue
        end = 6 + data[5] + 4
        for place in range(end + 1, len(data) - 4):
            damaged = bytearray(data)
            damaged[place] ^= 0x10
            damaged[-4:] = struct.pack('<I', zlib.crc32(damaged[:-4]))
            try:
                found = codec.unpack(bytes(damaged)).tokens
            except BitstreamError:
                noticed += 1
            else:  # the last bits of a coded stream may be anything
                assert (found.ids == case.tokens.ids).all()
                assert found.grain is None or (found.grain == case.tokens.grain).all()
                harmless += 1
    assert noticed > 20 * harmless


def test_random_bytes_are_refused(cases):
    rng = np.random.default_rng(0)
    for length in range(100):
        for start in (b'', b'\x8aTSX\x01'):
            with pytest.raises(BitstreamError):
                cases[0].codec.decompress(start + rng.bytes(length))
