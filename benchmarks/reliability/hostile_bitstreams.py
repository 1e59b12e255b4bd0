"""Mutated and forged bitstreams, most of them with right checksums, read in every way.

    JAXTYPING_DISABLE=1 JAX_PLATFORMS=cpu python benchmarks/reliability/hostile_bitstreams.py --files=100000

The files are those of tests/compression/test_fuzz.py: every kind of stream, coded with tables, with a network, and not
at all.  A mutation damages bytes; a forgery is a well-formed file with extreme fields in its header and invented
streams, whose checksums (CRC-16 of tiles, CRC-32 of header, packets and file) are right.  Prints how many were refused
and read, the slowest one, and the peak of the process's memory.  Ends with 1 if a file raised anything but a
`BitstreamError`, or took more than 2 s or 512 MiB beyond the limits that it was read with.
"""

import argparse
import collections
import dataclasses
import io
import json
import random
import resource
import sys
import time
import zlib
from pathlib import Path

import numpy as np

TESTS = Path(__file__).parents[2] / 'tests'
sys.path[:0] = [str(TESTS), str(TESTS / 'compression')]

from test_fuzz import Case, Reading, made_cases, mutated  # noqa: E402

from vistok.compression.codec import Codec  # noqa: E402
from vistok.compression.entropy.entropy_coder import SymbolDecoder  # noqa: E402
from vistok.compression.entropy.token_coding import decode_grains  # noqa: E402
from vistok.compression.format.bitstream import (  # noqa: E402
    BitstreamReader,
    BitstreamWriter,
    SymbolStream,
    TileRecord,
    compute_symbol_checksum,
)
from vistok.compression.format.header import BitstreamError, Header, Limits, TileArea  # noqa: E402
from vistok.compression.format.packets import packet_area, read_packet_shape, serialize_packet  # noqa: E402
from vistok.errors import UserError  # noqa: E402

LIMITS = Limits(pixels=1 << 24, memory=1 << 28, seconds=1.0)
MOST_SECONDS = 2.0  # beyond both stages of decoding, each of which has the limit
MOST_MEMORY = 512 << 20  # bytes beyond the limit
_SIDES = (1, 2, 7, 64, 255, 256, 257, 1000, 4096)
_LARGE = ((4096, 4096), (1 << 24, 1), (1, 1 << 24), (64, 1 << 18), (1000, 1000), (1, 1 << 27), (1 << 40, 1 << 40))
_TILES = 40  # that a forgery has at most


def forge(case: Case, rng: random.Random) -> bytes:
    """Makes a file with invented content that the reader of a case takes for its own as far as possible."""
    codec = case.codec
    header = _change_header(BitstreamReader(case.data, LIMITS).header, rng)
    file = io.BytesIO()
    writer = BitstreamWriter(file)
    try:
        writer.write_header(header)
        shape = read_packet_shape(header)
        header.check(LIMITS)
    except UserError:
        return file.getvalue() + case.data  # the header alone is refused, so nothing fitting has to follow
    if header.has_alpha:
        size = header.width * header.height * header.bit_depth // 8
        plain = bytes(min(rng.choice((size, size + 1, 8 * size, 1000)), 1 << 25))
        writer.write_alpha(zlib.compress(plain, 1))
    if shape is not None:
        for _ in range(rng.randrange(_TILES)):
            number = rng.randrange(max(1, rng.choice((4, header.tile_count * shape.count))))
            part = packet_area(header, shape, number)
            if part is not None:
                writer.write_packet(serialize_packet(number, _invent(codec, header, part.area, rng)))
        return file.getvalue()
    for _, area in zip(range(_TILES), header.tiles(), strict=False):
        writer.write_tile(_invent(codec, header, area, rng))
    writer.write_end()
    return file.getvalue()


def _change_header(header: Header, rng: random.Random) -> Header:
    width, height = rng.choice((*_LARGE, (rng.choice(_SIDES), rng.choice(_SIDES))))
    header = dataclasses.replace(header, width=width, height=height)
    changes = {'tile': max(header.grains) * rng.choice(_SIDES), 'window': header.cell * rng.choice((1, 2, 3, 64))}
    changes |= {'halo': header.cell * rng.randrange(3)}
    changes |= {'channels': rng.randint(1, 4), 'bit_depth': rng.choice((8, 16))}
    chosen = rng.sample(sorted(changes), rng.randint(0, 4))
    return dataclasses.replace(header, **{name: changes[name] for name in chosen})


def _invent(codec: Codec, header: Header, area: TileArea, rng: random.Random) -> TileRecord:
    """Makes up the streams of a tile, with the checksum of what they decode to."""
    grains = _invent_stream(rng) if len(header.grains) > 1 else None
    ids = _invent_stream(rng)
    checksum = 0
    try:
        shape = (area.rows, area.columns)
        grain = None if grains is None else decode_grains(grains, shape, header.grains)
        found = np.zeros((*shape, len(header.codebook_sizes)), np.int32)
        prior = codec.prior if codec.network is None else codec.network
        if ids.entropy_coded and prior is not None and prior.codebook_sizes == header.codebook_sizes:
            prior.code(SymbolDecoder(ids.data), found, grain)
        parts = [found.astype('<i4').tobytes(), *([] if grain is None else [grain.astype('u1').tobytes()])]
        checksum = compute_symbol_checksum(*parts)
    except BitstreamError:
        pass
    return TileRecord(ids, grains, checksum)


def _invent_stream(rng: random.Random) -> SymbolStream:
    size = 4 * rng.choice((0, 1, 1, 2, 4, 16, 100))
    data = rng.choice((bytes(size), b'\xff' * size, rng.randbytes(size), b'\0\0\0\1' * (size // 4)))
    return SymbolStream(rng.random() < 0.7, data)


def main() -> int:
    """Reads the files and prints the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument('--files', type=int, default=1000)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--minutes', type=float, default=float('inf'), help='ends earlier')
    arguments = parser.parse_args()
    cases = [dataclasses.replace(case, codec=dataclasses.replace(case.codec, limits=LIMITS)) for case in made_cases()]
    rng = random.Random(arguments.seed)
    reading = Reading(cases, rng)
    before, end = _peak(), time.monotonic() + 60 * arguments.minutes
    answers: collections.Counter[str] = collections.Counter()
    slowest, faults = 0.0, []
    for number in range(arguments.files):
        if time.monotonic() > end:
            break
        case, forged = rng.choice(cases), rng.random() < 0.5
        other = case if case.codec.packets is not None else rng.choice(cases)  # a whole packet of another would fit in
        data, mended = (forge(case, rng), True) if forged else mutated(case.data, other.data, rng)
        start = time.process_time()
        try:
            answer = reading.read(case, data, mended)
        except BitstreamError:
            answer = 'refused'
        except Exception as error:
            answer = 'fault'
            faults.append(f'{number}: {type(error).__name__}: {error}')
        seconds = time.process_time() - start
        if seconds > 2 * LIMITS.seconds + MOST_SECONDS:
            faults.append(f'{number}: {seconds:.1f} s')
        slowest = max(slowest, seconds)
        answers[f'{"forged" if forged else "mutated"}, {answer}'] += 1
    memory = _peak() - before
    if memory > LIMITS.memory + MOST_MEMORY:
        faults.append(f'{memory >> 20} MiB')
    figures = {'files': sum(answers.values()), 'slowest_seconds': round(slowest, 2), 'memory_mib': memory >> 20}
    print(json.dumps(figures | dict(sorted(answers.items())) | {'faults': faults[:20]}, indent=1))
    return min(1, len(faults))


def _peak() -> int:
    """Returns the largest resident memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == '__main__':
    sys.exit(main())
