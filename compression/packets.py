"""Packets: some of a picture's ids each, spread over all of it, so that a lost one leaves no hole.

The ids of a tile are dealt out by their place: row r and column c belong to packet (r mod a, c mod b) of a*b.  Each
packet is coded by itself, with contexts that begin anew, and has a checksum of its own; between packets nothing has to
arrive.  Packets of the same place in all tiles follow each other, so that a file that was cut off has lost the last
places everywhere instead of the last rows.
"""

import dataclasses
import math
import struct
import zlib
from collections.abc import Iterator

from tesserax.compression.bitstream import Stream, TileRecord, id_bits
from tesserax.compression.header import BitstreamError, Feature, Header, TileArea, varint

FEATURE = 3
"""Number of the header's feature that gives the shape."""
MARKER = b'\xd7\x53'
MOST_PACKETS = 64
_CHECKSUMS = 6  # bytes: of the ids, of the packet


@dataclasses.dataclass(frozen=True)
class PacketShape:
    """How the places of a tile are dealt out.

    Attributes:
      rows: a, so many rows apart are the ids of a packet.
      columns: b.
    """

    rows: int
    columns: int

    @classmethod
    def of_count(cls, count: int) -> 'PacketShape':
        """The shape of so many packets that is nearest to a square.

        Raises:
          ValueError: fewer than 2 packets, or more than there may be.
        """
        if not 2 <= count <= MOST_PACKETS:
            raise ValueError(f'a tile has 2 to {MOST_PACKETS} packets, got {count}')
        rows = max(a for a in range(1, math.isqrt(count) + 1) if count % a == 0)
        return cls(rows, count // rows)

    @property
    def count(self) -> int:
        """Packets of a tile."""
        return self.rows * self.columns

    def feature(self) -> Feature:
        """As part of a header."""
        return Feature(FEATURE, bytes([self.rows, self.columns]))


@dataclasses.dataclass(frozen=True)
class Part:
    """The places of a packet.

    Attributes:
      number: of the packet in the picture.
      where: rows and columns of the token grid.
      area: as if they were a tile by themselves.
    """

    number: int
    where: tuple[slice, slice]
    area: TileArea


@dataclasses.dataclass(frozen=True)
class Found:
    """What has arrived.

    Attributes:
      records: by the numbers of their packets.
      strays: bytes that belong to no packet.
    """

    records: dict[int, TileRecord]
    strays: int


def shape_of(header: Header) -> PacketShape | None:
    """How the file is divided into packets; None: it is not.

    Raises:
      BitstreamError: the header says something impossible about it.
    """
    data = header.feature(FEATURE)
    if data is None:
        return None
    shape = PacketShape(*data) if len(data) == 2 else PacketShape(0, 0)
    if not 2 <= shape.count <= MOST_PACKETS:
        raise BitstreamError(f'the header is damaged: it says {data.hex()} about packets')
    try:
        check_dividable(header)
    except ValueError as error:
        raise BitstreamError(f'the header is damaged: {error}') from None
    return shape


def check_dividable(header: Header) -> None:
    """ValueError for what packets do not hold: several grains, transparency."""
    if len(header.grains) > 1:
        raise ValueError(f'packets hold tokens of one size, these have the grains {header.grains}')
    if header.has_alpha:
        raise ValueError('packets hold no transparency: it cannot be decoded in part')


def parts(header: Header, shape: PacketShape) -> Iterator[Part]:
    """All packets in the order of the file; tiles that are too small for a place have none there."""
    tiles = list(header.tiles())
    for place in range(shape.count):
        i, j = divmod(place, shape.columns)
        for number, tile in enumerate(tiles):
            rows, columns = len(range(i, tile.rows, shape.rows)), len(range(j, tile.columns, shape.columns))
            if rows and columns:
                vertical = slice(tile.top + i, tile.top + tile.rows, shape.rows)
                horizontal = slice(tile.left + j, tile.left + tile.columns, shape.columns)
                area = TileArea(tile.top + i, tile.left + j, rows, columns)
                yield Part(place * len(tiles) + number, (vertical, horizontal), area)


def packet_bytes(number: int, record: TileRecord) -> bytes:
    """Marker, number, twice the length plus 1 if coded, ids, their checksum, the packet's checksum."""
    ids = record.ids
    start = MARKER + varint(number) + varint(2 * len(ids.data) + ids.modelled) + ids.data
    start += struct.pack('<H', record.checksum)
    return start + struct.pack('<I', zlib.crc32(start))


def most_bytes(header: Header, shape: PacketShape) -> int:
    """Bytes of all packets at most."""
    return sum(_longest(part, header) + _CHECKSUMS + len(MARKER) + 12 for part in parts(header, shape))


def find_packets(data: bytes, header: Header, shape: PacketShape) -> Found:
    """The packets in some bytes, wherever they lie and whatever lies between them."""
    longest = {part.number: _longest(part, header) for part in parts(header, shape)}
    records: dict[int, TileRecord] = {}
    position = taken = 0
    while (start := data.find(MARKER, position)) >= 0:
        position = start + 1
        number, after = _number(data, start + len(MARKER))
        length, ids = _number(data, after)
        end = ids + (length >> 1) + _CHECKSUMS
        if not 0 <= length >> 1 <= longest.get(number, -1) or end > len(data):
            continue
        if struct.unpack_from('<I', data, end - 4)[0] != zlib.crc32(data[start : end - 4]):
            continue
        if number not in records:
            stream = Stream(bool(length & 1), data[ids : end - _CHECKSUMS])
            records[number] = TileRecord(stream, None, struct.unpack_from('<H', data, end - _CHECKSUMS)[0])
            taken += end - start
        position = end
    return Found(records, len(data) - taken)


def _longest(part: Part, header: Header) -> int:
    return -(-part.area.rows * part.area.columns * id_bits(header.codebook_sizes) // 8)


def _number(data: bytes, position: int) -> tuple[int, int]:
    """A varint and the position after it; -1 where there is none."""
    value = 0
    for shift in range(0, 42, 7):
        if position >= len(data):
            break
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
    return -1, position
