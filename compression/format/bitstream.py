"""The container of compressed images: what every byte of a `.bin` file means, and nothing about how ids become bits.

docs/bitstream.md has the same in words, with an example.  A file is a header, an optional plane of transparency, and
one record per tile in raster order; each can be read when the bytes before it have been.  Whatever the bytes are,
reading them gives a value or a `BitstreamError`, and no more memory than `Limits` allows is asked for on their account.
"""

import binascii
import dataclasses
import io
import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

from vistok.compression.format.header import (
    LONGEST_HEADER,
    BitstreamError,
    Header,
    Limits,
    TileArea,
    header_fields,
    parse_fields,
    varint,
)

MAGIC = b'\x8aTSX'
VERSION = 1


@dataclasses.dataclass(frozen=True)
class Stream:
    """Some symbols as bytes.

    Attributes:
      modelled: whether they are entropy coded; else they have their fixed lengths.
      data: the bytes.
    """

    modelled: bool
    data: bytes


@dataclasses.dataclass(frozen=True)
class TileRecord:
    """One tile as it lies in the file.

    Attributes:
      ids: the stream of ids.
      grains: the stream of grains, where the tokens have several.
      checksum: CRC-16 of the decoded symbols.
    """

    ids: Stream
    grains: Stream | None
    checksum: int


@runtime_checkable
class Readable(Protocol):
    """A binary file or pipe."""

    def read(self, count: int, /) -> bytes | None:
        """At most `count` bytes, none at the end."""
        ...


@runtime_checkable
class Writable(Protocol):
    """Likewise."""

    def write(self, data: bytes, /) -> int | None:
        """Appends all of `data`."""
        ...


class BitstreamWriter:
    """Writes a bitstream front to back: header, alpha if there is any, tiles, end.

    Args:
      file: gets the bytes; it is neither read nor repositioned.
    """

    def __init__(self, file: Writable) -> None:
        self._file = file
        self._crc = 0

    def header(self, header: Header) -> None:
        """The first thing to write."""
        fields = header_fields(header)
        start = MAGIC + bytes([VERSION]) + varint(len(fields)) + fields
        self._write(start + struct.pack('<I', zlib.crc32(start)))

    def alpha(self, data: bytes) -> None:
        """The plane of transparency, after the header."""
        self._write(varint(len(data)) + data)

    def tile(self, record: TileRecord) -> None:
        """The next tile."""
        streams = [record.ids] if record.grains is None else [record.grains, record.ids]
        parts = [varint(2 * len(stream.data) + stream.modelled) + stream.data for stream in streams]
        self._write(b''.join(parts) + struct.pack('<H', record.checksum))

    def packet(self, data: bytes) -> None:
        """The next packet, where a file has packets instead of tiles; after the last one nothing follows."""
        self._write(data)

    def end(self) -> None:
        """The last thing to write."""
        self._file.write(struct.pack('<I', self._crc))

    def _write(self, data: bytes) -> None:
        self._crc = zlib.crc32(data, self._crc)
        self._file.write(data)


class BitstreamReader:
    """Reads a bitstream front to back.

    Args:
      file: bytes, or a binary file, of which no more than the bitstream is read.
      limits: what may be allocated.

    Attributes:
      header: what the file says of itself.

    Raises:
      BitstreamError: also by every method, for bytes that no writer wrote.
    """

    def __init__(self, file: Readable | bytes, limits: Limits | None = None) -> None:
        self._file = io.BytesIO(file) if isinstance(file, bytes) else file
        self._crc = 0
        self._position = 0
        self.header = self._read_header(limits or Limits())

    def alpha(self) -> bytes | None:
        """The plane of transparency as it was packed, if there is one."""
        header = self.header
        if not header.has_alpha:
            return None
        plain = header.width * header.height * header.bit_depth // 8
        return self._bytes(self._varint('length of the transparency', plain + plain // 64 + 64), 'the transparency')

    def tiles(self) -> Iterator[tuple[TileArea, TileRecord]]:
        """The tiles; after the last one, the checksum of the whole is compared and the end of the file expected."""
        header = self.header
        for number, area in enumerate(header.tiles()):
            name = f'tile {number}'
            grains = (
                self._stream(f'the grains of {name}', _most_flags(area, header)) if len(header.grains) > 1 else None
            )
            ids = self._stream(f'the ids of {name}', area.rows * area.columns * id_bits(header.codebook_sizes))
            yield area, TileRecord(ids, grains, struct.unpack('<H', self._bytes(2, name))[0])
        expected = self._crc
        found = struct.unpack('<I', self._bytes(4, 'the checksum of the file'))[0]
        if found != expected:
            raise BitstreamError(
                f'the bitstream is damaged: its checksum is {found:08x}, its bytes give {expected:08x}'
            )
        if self._file.read(1):
            raise BitstreamError(f'there are bytes after the end of the bitstream, which has {self._position}')

    def rest(self, most: int) -> bytes:
        """What is left of a file with packets; BitstreamError for more bytes than there may be."""
        parts, left = [], most + 1
        while left and (data := self._file.read(left)):
            parts.append(data)
            left -= len(data)
        if not left:
            raise BitstreamError(f'the bitstream is damaged: more than {most} bytes of packets')
        return b''.join(parts)

    def _read_header(self, limits: Limits) -> Header:
        magic = self._bytes(4, 'the header')
        if magic != MAGIC:
            raise BitstreamError(f'this is no bitstream: it begins with {magic.hex()}, not with {MAGIC.hex()}')
        version = self._bytes(1, 'the header')[0]
        if version != VERSION:
            raise BitstreamError(f'the bitstream has version {version}; this program reads version {VERSION}')
        fields = self._bytes(self._varint('length of the header', LONGEST_HEADER), 'the header')
        expected = self._crc
        found = struct.unpack('<I', self._bytes(4, 'the header'))[0]
        if found != expected:
            raise BitstreamError(f'the header is damaged: its checksum is {found:08x}, its bytes give {expected:08x}')
        return parse_fields(fields, limits)

    def _stream(self, name: str, most_bits: int) -> Stream:
        number = self._varint(f'length of {name}', 2 * -(-most_bits // 8) + 1)
        return Stream(bool(number & 1), self._bytes(number >> 1, name))

    def _varint(self, name: str, most: int) -> int:
        value = 0
        for shift in range(0, 42, 7):
            byte = self._bytes(1, name)[0]
            value |= (byte & 127) << shift
            if byte < 128:
                break
        else:
            raise BitstreamError(f'the bitstream is damaged: the {name} does not end')
        if value > most:
            raise BitstreamError(f'the bitstream is damaged: {name} {value}, at most {most} is possible')
        return value

    def _bytes(self, count: int, name: str) -> bytes:
        data = b''
        while len(data) < count and (more := self._file.read(count - len(data))):
            data += more  # a pipe gives what it has
        self._position += len(data)
        if len(data) < count:
            raise BitstreamError(f'the bitstream ends after {self._position} bytes, inside {name}')
        self._crc = zlib.crc32(data, self._crc)
        return data


def checksum_of_symbols(*arrays: bytes) -> int:
    """CRC-16 (CCITT, start 0) over some bytes one after the other."""
    crc = 0
    for array in arrays:
        crc = binascii.crc_hqx(array, crc)
    return crc


def id_bits(codebook_sizes: Sequence[int]) -> int:
    """Bits of one token whose ids have fixed lengths."""
    return sum((size - 1).bit_length() for size in codebook_sizes)


def _most_flags(area: TileArea, header: Header) -> int:
    """Flags of a tile in which no cell has a coarse grain."""
    return sum(area.rows // side * (area.columns // side) for side in header.grains[1:])
