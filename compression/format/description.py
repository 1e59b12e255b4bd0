"""Description of a bitstream in numbers, without weights and without decoding ids."""

import dataclasses

import numpy as np
from jaxtyping import Int, UInt8

from vistok.compression.entropy.token_coding import decode_grains
from vistok.compression.format.bitstream import BitstreamReader, TileRecord
from vistok.compression.format.header import Header, Limits
from vistok.compression.format.packets import count_packets, find_packets, read_packet_shape
from vistok.compression.nested.codebooks import read_level
from vistok.compression.priors.network import NETWORK_FEATURE, read_probe
from vistok.errors import UserError


@dataclasses.dataclass(frozen=True)
class Description:
    """Content of a bitstream in numbers.

    Attributes:
      header: of the bitstream.
      size: of the file in bytes.
      streams: bytes of each kind of stream that occurs, and of everything else.
      tiles: number of tiles.
      packets: number of packets that have arrived; 0 in a file without packets.
      grain: side of the block of each grid cell.
    """

    header: Header
    size: int
    streams: dict[str, int]
    tiles: int
    grain: Int[np.ndarray, 'h w']
    packets: int = 0

    def lines(self) -> list[tuple[str, str]]:
        """Returns names and values as text."""
        header = self.header
        rows, columns = header.grid
        lines = [
            ('picture', f'{header.width}x{header.height}, {header.channels_name}, {header.bit_depth} bits'),
            ('grid', f'{columns}x{rows} cells of {header.downsample_factor}x{header.downsample_factor} pixels'),
            ('codebooks', ', '.join(map(str, header.codebook_sizes))),
            ('weights', header.weights_fingerprint.hex()),
            ('prior', self._prior()),
            ('windows', f'{header.window} pixels, halo {header.halo}'),
            ('tiles', f'{self.tiles} of at most {header.tile}x{header.tile} cells'),
        ]
        if (level := read_level(header)) is not None:
            lines.insert(3, ('level', f'{level.number} of the nested codebooks {level.nested_fingerprint.hex()}'))
        if (shape := read_packet_shape(header)) is not None:
            of = f'{self.packets} of {count_packets(header, shape)}'
            lines.append(('packets', f'{of}, ids dealt out by {shape.rows}x{shape.columns}'))
        for side in sorted(header.grains, reverse=True) if len(header.grains) > 1 else ():
            here = self.grain == side
            lines.append((f'grain {side}', f'{int(here.sum()) // side**2} tokens, {here.mean():.1%} of the area'))
        pixels = header.width * header.height
        for name, count in [*self.streams.items(), ('file', self.size)]:
            lines.append((name, f'{count} bytes, {8 * count / pixels:.4f} bits per pixel'))
        return lines

    def _prior(self) -> str:
        if self.header.feature(NETWORK_FEATURE) is None:
            return self.header.prior_fingerprint.hex() or 'none'
        return f'{self.header.prior_fingerprint.hex()}, a network on {read_probe(self.header).computer}'

    def grain_image(self) -> UInt8[np.ndarray, 'h w 1']:
        """Draws the grain map with one pixel per grid cell, the finer the brighter.

        Raises:
          UserError: all tokens are of one size.
        """
        grains = self.header.grains
        if len(grains) == 1:
            raise UserError('there is no map of grains: all tokens are of one size')
        levels = np.searchsorted(grains, self.grain)
        return (255 - 255 * levels // (len(grains) - 1)).astype(np.uint8)[..., None]


def describe(data: bytes, limits: Limits | None = None) -> Description:
    """Describes a bitstream, some of whose packets may be missing.

    Args:
      data: the bitstream.
      limits: bounds on what may be allocated.

    Raises:
      BitstreamError: it is damaged.
    """
    reader = BitstreamReader(data, limits)
    header = reader.header
    grain = np.ones(header.grid, np.int32)
    alpha = reader.read_alpha()
    streams = {'transparency': len(alpha or b''), 'grains, coded': 0, 'grains, plain': 0, 'ids, coded': 0}
    streams['ids, plain'] = tiles = 0
    shape = read_packet_shape(header)
    if shape is not None:
        records = find_packets(reader.read_rest(len(data)), header, shape).records.values()
        for record in records:
            streams[_kind(record)] += len(record.ids.data)
        streams['header and checksums'] = len(data) - sum(streams.values())
        used = {name: n for name, n in streams.items() if n}
        return Description(header, len(data), used, header.tile_count, grain, len(records))
    for area, record in reader.read_tiles():
        tiles += 1
        streams[_kind(record)] += len(record.ids.data)
        if record.grains is not None:
            streams['grains, coded' if record.grains.entropy_coded else 'grains, plain'] += len(record.grains.data)
            here = np.s_[area.top : area.top + area.rows, area.left : area.left + area.columns]
            grain[here] = decode_grains(record.grains, (area.rows, area.columns), header.grains)
    streams['header and checksums'] = len(data) - sum(streams.values())
    return Description(header, len(data), {name: n for name, n in streams.items() if n}, tiles, grain)


def _kind(record: TileRecord) -> str:
    return 'ids, coded' if record.ids.entropy_coded else 'ids, plain'
