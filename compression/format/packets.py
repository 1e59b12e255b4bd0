"""Packets of interleaved ids (multiple description coding), so that a lost packet leaves no contiguous hole.

The ids of a tile are interleaved: row r and column c belong to packet (r mod a, c mod b) of a*b.  Each packet is coded
independently, with contexts of its own, and has a checksum of its own.  Packets of the same phase (r mod a, c mod b)
in all tiles follow each other, so that a truncated file lacks the last phases everywhere instead of the last rows.
"""

import dataclasses
import math
import struct
import zlib
from collections.abc import Iterator

from vistok.compression.format.bitstream import SymbolStream, TileRecord, count_id_bits
from vistok.compression.format.header import BitstreamError, Feature, Header, TileArea, encode_varint
from vistok.errors import UserError

PACKETS_FEATURE = 3
"""Number of the header field with the shape of packets."""
MARKER = b'\xd7\x53'
MOST_PACKETS = 64
_CHECKSUMS = 6  # bytes: of the ids, of the packet
_PATIENCE = 8  # bytes with wrong checksums that are searched at most, in lengths of the data


@dataclasses.dataclass(frozen=True)
class PacketShape:
    """Interleaving of the ids of a tile.

    Attributes:
      rows: distance of the ids of a packet in rows (a).
      columns: distance of the ids of a packet in columns (b).
    """

    rows: int
    columns: int

    @classmethod
    def from_count(cls, count: int) -> 'PacketShape':
        """Returns the shape with `count` packets per tile that is nearest to a square.

        Raises:
          UserError: fewer than 2 packets, or more than there may be.
        """
        if not 2 <= count <= MOST_PACKETS:
            raise UserError(f'a tile has 2 to {MOST_PACKETS} packets, got {count}')
        rows = max(a for a in range(1, math.isqrt(count) + 1) if count % a == 0)
        return cls(rows, count // rows)

    @property
    def count(self) -> int:
        """Number of packets per tile."""
        return self.rows * self.columns

    def feature(self) -> Feature:
        """Returns the header field with this shape."""
        return Feature(PACKETS_FEATURE, bytes([self.rows, self.columns]))


@dataclasses.dataclass(frozen=True)
class PacketArea:
    """Positions of a packet's ids in the token grid.

    Attributes:
      number: of the packet in the image.
      slices: rows and columns of the token grid, with steps.
      area: of the ids as a tile of their own.
    """

    number: int
    slices: tuple[slice, slice]
    area: TileArea


@dataclasses.dataclass(frozen=True)
class FoundPackets:
    """Packets that were found in a file.

    Attributes:
      records: by the numbers of their packets.
      stray_bytes: number of bytes that belong to no packet.
    """

    records: dict[int, TileRecord]
    stray_bytes: int


def read_packet_shape(header: Header) -> PacketShape | None:
    """Reads the shape of packets from a header; returns None for a file without packets.

    Raises:
      BitstreamError: the shape is impossible.
    """
    data = header.feature(PACKETS_FEATURE)
    if data is None:
        return None
    shape = PacketShape(*data) if len(data) == 2 else PacketShape(0, 0)
    if not 2 <= shape.count <= MOST_PACKETS:
        raise BitstreamError(f'the header is damaged: it says {data.hex()} about packets')
    try:
        check_packets_possible(header)
    except ValueError as error:
        raise BitstreamError(f'the header is damaged: {error}') from None
    return shape


def check_packets_possible(header: Header) -> None:
    """Checks that an image can be divided into packets.

    Raises:
      UserError: its tokens have several grains, or it has an alpha channel.
    """
    if len(header.grains) > 1:
        raise UserError(f'packets hold tokens of one size, these have the grains {header.grains}')
    if header.has_alpha:
        raise UserError('packets hold no transparency: it cannot be decoded in part')


def packet_areas(header: Header, shape: PacketShape) -> Iterator[PacketArea]:
    """Returns all packets in the order of the file; tiles smaller than the shape have fewer of them."""
    every = (packet_area(header, shape, number) for number in range(shape.count * header.tile_count))
    return (part for part in every if part is not None)


def packet_area(header: Header, shape: PacketShape, number: int) -> PacketArea | None:
    """Returns the packet with a number, or None if it would be empty or does not exist."""
    place, tile_number = divmod(number, header.tile_count)
    if not 0 <= place < shape.count:
        return None
    (i, j), tile = divmod(place, shape.columns), header.tile_area(tile_number)
    rows, columns = len(range(i, tile.rows, shape.rows)), len(range(j, tile.columns, shape.columns))
    if not rows or not columns:
        return None
    vertical = slice(tile.top + i, tile.top + tile.rows, shape.rows)
    horizontal = slice(tile.left + j, tile.left + tile.columns, shape.columns)
    return PacketArea(number, (vertical, horizontal), TileArea(tile.top + i, tile.left + j, rows, columns))


def count_packets(header: Header, shape: PacketShape) -> int:
    """Counts the packets of an undamaged file in constant time, since a header may claim millions."""
    sides = zip(header.grid, (shape.rows, shape.columns), strict=True)
    return math.prod(cells // header.tile * min(header.tile, n) + min(cells % header.tile, n) for cells, n in sides)


def serialize_packet(number: int, record: TileRecord) -> bytes:
    """Serializes a packet: marker, number, twice the length plus 1 if entropy coded, ids and two checksums."""
    ids = record.ids
    start = MARKER + encode_varint(number) + encode_varint(2 * len(ids.data) + ids.entropy_coded) + ids.data
    start += struct.pack('<H', record.checksum)
    return start + struct.pack('<I', zlib.crc32(start))


def max_packet_bytes(header: Header, shape: PacketShape) -> int:
    """Returns an upper bound on the bytes of all packets."""
    rows, columns = header.grid
    each = 1 + _CHECKSUMS + len(MARKER) + 12  # a byte that is not full, numbers
    return rows * columns * count_id_bits(header.codebook_sizes) // 8 + each * count_packets(header, shape)


def find_packets(data: bytes, header: Header, shape: PacketShape) -> FoundPackets:
    """Finds the packets in a sequence of bytes, with any bytes between them.

    Apparent packets with wrong checksums may overlap, so that checking all of them would take quadratic time: the
    search ends after `_PATIENCE` times the length of the data.
    """
    records: dict[int, TileRecord] = {}
    position = taken = wrong = 0
    while (start := data.find(MARKER, position)) >= 0 and wrong <= _PATIENCE * len(data):
        position = start + 1
        number, after = _number(data, start + len(MARKER))
        length, ids = _number(data, after)
        end = ids + (length >> 1) + _CHECKSUMS
        part = packet_area(header, shape, number)
        if part is None or not 0 <= length >> 1 <= _longest(part, header) or end > len(data):
            continue
        if struct.unpack_from('<I', data, end - 4)[0] != zlib.crc32(data[start : end - 4]):
            wrong += end - start
            continue
        if number not in records:
            stream = SymbolStream(bool(length & 1), data[ids : end - _CHECKSUMS])
            records[number] = TileRecord(stream, None, struct.unpack_from('<H', data, end - _CHECKSUMS)[0])
            taken += end - start
        position = end
    return FoundPackets(records, len(data) - taken)


def _longest(part: PacketArea, header: Header) -> int:
    return -(-part.area.rows * part.area.columns * count_id_bits(header.codebook_sizes) // 8)


def _number(data: bytes, position: int) -> tuple[int, int]:
    """Reads a variable-length number; returns it (-1 if there is none) and the position after it."""
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
