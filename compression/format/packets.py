"""Packets: some of an image's ids each, spread over all of it, so that a lost one leaves no hole.

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

from vistok.compression.format.bitstream import Stream, TileRecord, id_bits
from vistok.compression.format.header import BitstreamError, Feature, Header, TileArea, varint
from vistok.errors import UserError

FEATURE = 3
"""Number of the header's feature that gives the shape."""
MARKER = b'\xd7\x53'
MOST_PACKETS = 64
_CHECKSUMS = 6  # bytes: of the ids, of the packet
_PATIENCE = 8  # damaged packets are looked at once; what looks like one inside of them is rare


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
          UserError: fewer than 2 packets, or more than there may be.
        """
        if not 2 <= count <= MOST_PACKETS:
            raise UserError(f'a tile has 2 to {MOST_PACKETS} packets, got {count}')
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
      number: of the packet in the image.
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
    """UserError for what packets do not hold: several grains, transparency."""
    if len(header.grains) > 1:
        raise UserError(f'packets hold tokens of one size, these have the grains {header.grains}')
    if header.has_alpha:
        raise UserError('packets hold no transparency: it cannot be decoded in part')


def parts(header: Header, shape: PacketShape) -> Iterator[Part]:
    """All packets in the order of the file; tiles that are too small for a place have none there."""
    every = (part_of(header, shape, number) for number in range(shape.count * header.tile_count))
    return (part for part in every if part is not None)


def part_of(header: Header, shape: PacketShape, number: int) -> Part | None:
    """The packet with a number, if there is one."""
    place, tile_number = divmod(number, header.tile_count)
    if not 0 <= place < shape.count:
        return None
    (i, j), tile = divmod(place, shape.columns), header.tile_area(tile_number)
    rows, columns = len(range(i, tile.rows, shape.rows)), len(range(j, tile.columns, shape.columns))
    if not rows or not columns:
        return None
    vertical = slice(tile.top + i, tile.top + tile.rows, shape.rows)
    horizontal = slice(tile.left + j, tile.left + tile.columns, shape.columns)
    return Part(number, (vertical, horizontal), TileArea(tile.top + i, tile.left + j, rows, columns))


def part_count(header: Header, shape: PacketShape) -> int:
    """How many packets a whole file has; a header may claim millions, so they are not gone through."""
    sides = zip(header.grid, (shape.rows, shape.columns), strict=True)
    return math.prod(cells // header.tile * min(header.tile, n) + min(cells % header.tile, n) for cells, n in sides)


def packet_bytes(number: int, record: TileRecord) -> bytes:
    """Marker, number, twice the length plus 1 if coded, ids, their checksum, the packet's checksum."""
    ids = record.ids
    start = MARKER + varint(number) + varint(2 * len(ids.data) + ids.modelled) + ids.data
    start += struct.pack('<H', record.checksum)
    return start + struct.pack('<I', zlib.crc32(start))


def most_bytes(header: Header, shape: PacketShape) -> int:
    """Bytes of all packets at most."""
    rows, columns = header.grid
    each = 1 + _CHECKSUMS + len(MARKER) + 12  # a byte that is not full, numbers
    return rows * columns * id_bits(header.codebook_sizes) // 8 + each * part_count(header, shape)


def find_packets(data: bytes, header: Header, shape: PacketShape) -> Found:
    """The packets in some bytes, wherever they lie and whatever lies between them.

    What looks like a packet and has the wrong checksum may be the beginning of many that are one inside the other:
    after `_PATIENCE` times the length of the data nothing more is looked for, so that time is bounded by the length.
    """
    records: dict[int, TileRecord] = {}
    position = taken = wrong = 0
    while (start := data.find(MARKER, position)) >= 0 and wrong <= _PATIENCE * len(data):
        position = start + 1
        number, after = _number(data, start + len(MARKER))
        length, ids = _number(data, after)
        end = ids + (length >> 1) + _CHECKSUMS
        part = part_of(header, shape, number)
        if part is None or not 0 <= length >> 1 <= _longest(part, header) or end > len(data):
            continue
        if struct.unpack_from('<I', data, end - 4)[0] != zlib.crc32(data[start : end - 4]):
            wrong += end - start
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
