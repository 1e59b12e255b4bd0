"""Container format of compressed images: the layout of a `.bin` file, without the entropy coding of ids.

The format is specified in docs/bitstream.md, with an example.  A file is a header, an optional alpha channel, and one
record per tile in raster order, and is read sequentially.  Any bytes give a value or a `BitstreamError`, and reading
them allocates no more memory than `Limits` allows.
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
    encode_header,
    encode_varint,
    parse_header,
)

MAGIC = b'\x8aTSX'
VERSION = 1
_MOST_PER_CELL = 24  # bytes: of a packet that holds one token, beside its ids; more than a grain's


@dataclasses.dataclass(frozen=True)
class SymbolStream:
    """Sequence of symbols (ids or grains) as bytes.

    Attributes:
      entropy_coded: True for range-coded symbols, False for symbols of fixed lengths.
      data: the bytes.
    """

    entropy_coded: bool
    data: bytes


@dataclasses.dataclass(frozen=True)
class TileRecord:
    """Coded tile as stored in the file.

    Attributes:
      ids: the stream of ids.
      grains: the stream of grains, where the tokens have several.
      checksum: CRC-16 of the decoded symbols.
    """

    ids: SymbolStream
    grains: SymbolStream | None
    checksum: int


@runtime_checkable
class Readable(Protocol):
    """Binary file or pipe open for reading."""

    def read(self, count: int, /) -> bytes | None:
        """Reads at most `count` bytes, none at the end."""
        ...


@runtime_checkable
class Writable(Protocol):
    """Binary file or pipe open for writing."""

    def write(self, data: bytes, /) -> int | None:
        """Writes all of `data`."""
        ...


class BitstreamWriter:
    """Sequential writer of a bitstream: header, alpha channel if there is one, tiles or packets, end.

    Args:
      file: receives the bytes; it is neither read nor repositioned.
    """

    def __init__(self, file: Writable) -> None:
        self._file = file
        self._crc = 0

    def write_header(self, header: Header) -> None:
        """Writes the header, which comes first."""
        fields = encode_header(header)
        start = MAGIC + bytes([VERSION]) + encode_varint(len(fields)) + fields
        self._write(start + struct.pack('<I', zlib.crc32(start)))

    def write_alpha(self, data: bytes) -> None:
        """Writes the compressed alpha channel, which follows the header."""
        self._write(encode_varint(len(data)) + data)

    def write_tile(self, record: TileRecord) -> None:
        """Writes the next tile."""
        streams = [record.ids] if record.grains is None else [record.grains, record.ids]
        parts = [encode_varint(2 * len(stream.data) + stream.entropy_coded) + stream.data for stream in streams]
        self._write(b''.join(parts) + struct.pack('<H', record.checksum))

    def write_packet(self, data: bytes) -> None:
        """Writes the next packet of a file that has packets instead of tiles, and no end."""
        self._write(data)

    def write_end(self) -> None:
        """Writes the checksum of the file, which comes last."""
        self._file.write(struct.pack('<I', self._crc))

    def _write(self, data: bytes) -> None:
        self._crc = zlib.crc32(data, self._crc)
        self._file.write(data)


class BitstreamReader:
    """Sequential reader of a bitstream.

    Args:
      file: bytes, or a binary file, of which no more than the bitstream is read.
      limits: bounds on what may be allocated.

    Attributes:
      header: of the bitstream.
      limits: as given, or the default ones.

    Raises:
      BitstreamError: the bytes are damaged or no bitstream; every method may raise it.
    """

    def __init__(self, file: Readable | bytes, limits: Limits | None = None) -> None:
        self._file = io.BytesIO(file) if isinstance(file, bytes) else file
        self._crc = 0
        self._position = 0
        self.limits = limits or Limits()
        self.header = self._read_header(self.limits)

    def read_alpha(self) -> bytes | None:
        """Reads the compressed alpha channel, if there is one."""
        header = self.header
        if not header.has_alpha:
            return None
        plain = header.width * header.height * header.bit_depth // 8
        return self._bytes(self._varint('length of the transparency', plain + plain // 64 + 64), 'the transparency')

    def read_tiles(self) -> Iterator[tuple[TileArea, TileRecord]]:
        """Yields the tiles; verifies the checksum and the end of the file after the last one."""
        header = self.header
        for number, area in enumerate(header.tiles()):
            name = f'tile {number}'
            grains = (
                self._stream(f'the grains of {name}', _most_flags(area, header)) if len(header.grains) > 1 else None
            )
            ids = self._stream(f'the ids of {name}', area.rows * area.columns * count_id_bits(header.codebook_sizes))
            yield area, TileRecord(ids, grains, struct.unpack('<H', self._bytes(2, name))[0])
        expected = self._crc
        found = struct.unpack('<I', self._bytes(4, 'the checksum of the file'))[0]
        if found != expected:
            raise BitstreamError(
                f'the bitstream is damaged: its checksum is {found:08x}, its bytes give {expected:08x}'
            )
        if self._file.read(1):
            raise BitstreamError(f'there are bytes after the end of the bitstream, which has {self._position}')

    def read_rest(self, most: int) -> bytes:
        """Reads the remaining bytes of a file with packets; raises BitstreamError for more than `most`."""
        data = _read_most(self._file, most + 1)
        if len(data) > most:
            raise BitstreamError(f'the bitstream is damaged: more than {most} bytes of packets')
        return data

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
        return parse_header(fields, limits)

    def _stream(self, name: str, most_bits: int) -> SymbolStream:
        number = self._varint(f'length of {name}', 2 * -(-most_bits // 8) + 1)
        return SymbolStream(bool(number & 1), self._bytes(number >> 1, name))

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


def read_bounded(file: Readable, limits: Limits | None = None) -> bytes:
    """Reads a bitstream whole, or at most so much of a file that its reader must notice that there is too much.

    Raises:
      BitstreamError: the file does not begin with a header that is within the limits.
    """
    start = _read_most(file, LONGEST_HEADER + 16)
    header = BitstreamReader(start, limits).header
    rows, columns = header.grid
    alpha = 2 * header.width * header.height * header.bit_depth // 8 if header.has_alpha else 0
    each = count_id_bits(header.codebook_sizes) // 8 + _MOST_PER_CELL
    return start + _read_most(file, alpha + 2 * rows * columns * each + (1 << 17))


def _read_most(file: Readable, most: int) -> bytes:
    """Reads `most` bytes, or what there is."""
    parts = []
    while most > 0 and (data := file.read(most)):
        parts.append(data)
        most -= len(data)
    return b''.join(parts)


def compute_symbol_checksum(*arrays: bytes) -> int:
    """Computes the CRC-16 (CCITT polynomial, initial value 0) of concatenated bytes."""
    crc = 0
    for array in arrays:
        crc = binascii.crc_hqx(array, crc)
    return crc


def count_id_bits(codebook_sizes: Sequence[int]) -> int:
    """Returns the bits of one token with ids of fixed lengths."""
    return sum((size - 1).bit_length() for size in codebook_sizes)


def _most_flags(area: TileArea, header: Header) -> int:
    """Returns the largest number of flags in the grain map of a tile: no cell has a coarse grain."""
    return sum(area.rows // side * (area.columns // side) for side in header.grains[1:])
