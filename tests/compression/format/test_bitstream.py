"""The container: what is written is read, and whatever else is read is refused in a sentence."""

import dataclasses
import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest

from vistok.compression.format.bitstream import BitstreamReader, BitstreamWriter, SymbolStream, TileRecord
from vistok.compression.format.header import BitstreamError, Feature, Header, Limits, encode_header, parse_header

PLAIN = Header(70, 33, 3, 8, (1024,), 16, (1,), 2, 32, 0, b'weights!')
GRAINS = Header(300, 1, 4, 16, (512, 7), 4, (1, 2, 4), 64, 256, 32, b'weights!', 1, b'a prior.')
RECORD = TileRecord(SymbolStream(False, b'\x01\x02'), None, 7)


def written(header, records, alpha=None):
    file = io.BytesIO()
    writer = BitstreamWriter(file)
    writer.write_header(header)
    if alpha is not None:
        writer.write_alpha(alpha)
    for record in records:
        writer.write_tile(record)
    writer.write_end()
    return file.getvalue()


def plain():
    return written(PLAIN, [RECORD, dataclasses.replace(RECORD, checksum=0xBEEF)] * 3)


def read(data, **limits):
    reader = BitstreamReader(data, Limits(**limits))
    return reader.header, reader.read_alpha(), [record for _, record in reader.read_tiles()]


def with_checksums(data, header_end):
    """The bytes with the checksums that belong to them."""
    start = data[:header_end]
    body = start + struct.pack('<I', zlib.crc32(start)) + data[header_end + 4 : -4]
    return body + struct.pack('<I', zlib.crc32(body))


def test_what_is_written_is_read():
    assert read(plain()) == (PLAIN, None, [RECORD, dataclasses.replace(RECORD, checksum=0xBEEF)] * 3)
    record = TileRecord(SymbolStream(True, b'abcd'), SymbolStream(False, b''), 65535)
    records = [record, record]
    assert read(written(GRAINS, records, b'alpha')) == (GRAINS, b'alpha', records)


def test_tiles_cover_the_grid_once():
    for header in (PLAIN, GRAINS, dataclasses.replace(PLAIN, width=1, height=1000)):
        covered = np.zeros(header.grid, int)
        for area in header.tiles():
            covered[area.top : area.top + area.rows, area.left : area.left + area.columns] += 1
        assert (covered == 1).all()
        assert header.grid[0] * header.downsample_factor >= header.height > (header.grid[0] - 4) * header.cell
        assert header.grid[1] * header.downsample_factor >= header.width


class OneByteAtATime(io.RawIOBase):
    """A pipe."""

    def __init__(self, data):
        self.left = data

    def read(self, count=-1):
        given, self.left = self.left[:1], self.left[1:]
        assert count > 0
        return given


def test_a_tile_is_read_as_soon_as_its_bytes_are_there():
    data = plain()
    pipe = OneByteAtATime(data)
    tiles = BitstreamReader(pipe).read_tiles()
    next(tiles)
    record = 1 + 2 + 2
    assert len(pipe.left) == 5 * record + 4
    assert len(list(tiles)) == 5


def test_every_cut_is_noticed():
    data = plain()
    for length in range(len(data)):
        with pytest.raises(BitstreamError, match=r'ends after|no bitstream'):
            read(data[:length])
    with pytest.raises(BitstreamError, match='after the end'):
        read(data + b'\0')


def test_every_flipped_bit_is_noticed():
    data = plain()
    for position in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[position // 8] ^= 1 << position % 8
        with pytest.raises(BitstreamError):
            read(bytes(damaged))


@pytest.mark.parametrize(
    'change',
    [
        {'width': 0}, {'height': 0}, {'channels': 5}, {'bit_depth': 10}, {'codebook_sizes': ()},
        {'codebook_sizes': (0,)}, {'codebook_sizes': (1 << 30,)}, {'codebook_sizes': (2,) * 65}, {'grains': (2,)},
        {'grains': (1, 2, 3)}, {'grains': (1, 1)}, {'downsample_factor': 0}, {'tile': 0}, {'window': 40},
        {'window': 1 << 20}, {'halo': 16}, {'weights_fingerprint': b'short'}, {'prior_fingerprint': b'8 bytes.'},
        {'prior_kind': 1},
    ],
    ids=str,
)  # fmt: skip
def test_impossible_headers_are_not_written(change):
    with pytest.raises(ValueError, match='impossible'):
        written(dataclasses.replace(PLAIN, **change), [])


def test_other_files_and_versions_are_named():
    with pytest.raises(BitstreamError, match='no bitstream: it begins with 89504e47'):
        read(b'\x89PNG\r\n')
    with pytest.raises(BitstreamError, match='version 9; this program reads version 1'):
        read(plain()[:4] + b'\x09' + plain()[5:])


def test_a_header_cannot_ask_for_more_memory_than_is_allowed():
    huge = dataclasses.replace(PLAIN, width=1 << 19, height=1 << 19)
    with pytest.raises(BitstreamError, match=r'524288x524288 pixels .* above the limit of 1000'):
        read(written(huge, []), pixels=1000)
    with pytest.raises(BitstreamError, match='above the limit'):  # few pixels, many ids
        read(written(dataclasses.replace(PLAIN, codebook_sizes=(2,) * 64, downsample_factor=1), []), pixels=4000)
    allowed = dataclasses.replace(PLAIN, width=1000, height=1000, channels=4, tile=64)
    data = bytearray(written(allowed, [], b''))
    tracemalloc.start()
    for claim in (b'\xff\xff\xff\x01', b'\xff\xff\xff\xff\xff\xff\xff\xff\x7f'):
        with pytest.raises(BitstreamError):
            read(bytes(data[:-5]) + claim + b'x' * 50)
    assert tracemalloc.get_traced_memory()[1] < 2_000_000
    tracemalloc.stop()


def test_features_come_back_and_must_be_known():
    header = dataclasses.replace(PLAIN, features=(Feature(1, b'data'),))
    assert parse_header(encode_header(header), Limits()) == header
    assert (header.feature(1), header.feature(2)) == (b'data', None)
    for wrong in ((Feature(1, b''), Feature(1, b'')), (Feature(0, b''),), (Feature(1, b'x' * 256),)):
        with pytest.raises(ValueError, match='impossible features') as error:
            written(dataclasses.replace(PLAIN, features=wrong), [])
        assert len(str(error.value)) < 120  # none of the file's bytes


def test_unknown_fields_are_refused():
    data = written(PLAIN, [])
    end = len(data) - 8
    longer = data[:5] + bytes([data[5] + 1]) + data[6:end] + b'\0' + data[end:]
    with pytest.raises(BitstreamError, match='has the feature 0, which this program does not know'):
        read(with_checksums(longer, end + 1))
    form = data.index(b'\x03\x10')  # channels and depth, then the factor
    with pytest.raises(BitstreamError, match='more than this version knows'):
        read(with_checksums(data[:form] + b'\x13' + data[form + 1 :], end))
