"""What a bitstream holds, in numbers; without weights, and without decoding ids."""

import dataclasses

import numpy as np
from jaxtyping import Int, UInt8

from vistok.compression.entropy.token_coding import decode_grains
from vistok.compression.format.bitstream import BitstreamReader, TileRecord
from vistok.compression.format.header import Header, Limits
from vistok.compression.format.packets import find_packets, part_count, shape_of
from vistok.compression.nested.codebooks import level_of
from vistok.compression.priors.network import FEATURE, probe_of
from vistok.errors import UserError


@dataclasses.dataclass(frozen=True)
class Description:
    """A bitstream.

    Attributes:
      header: what it says of itself.
      size: of the file in bytes.
      streams: bytes of each kind of stream that occurs, and of all else.
      tiles: how many there are.
      packets: how many have arrived, where there are packets.
      grain: side of the block of each grid cell.
    """

    header: Header
    size: int
    streams: dict[str, int]
    tiles: int
    grain: Int[np.ndarray, 'h w']
    packets: int = 0

    def lines(self) -> list[tuple[str, str]]:
        """Names and values for people."""
        header = self.header
        rows, columns = header.grid
        lines = [
            ('picture', f'{header.width}x{header.height}, {header.channels_name}, {header.bit_depth} bits'),
            ('grid', f'{columns}x{rows} cells of {header.downsample_factor}x{header.downsample_factor} pixels'),
            ('codebooks', ', '.join(map(str, header.codebook_sizes))),
            ('weights', header.weights.hex()),
            ('prior', self._prior()),
            ('windows', f'{header.window} pixels, halo {header.halo}'),
            ('tiles', f'{self.tiles} of at most {header.tile}x{header.tile} cells'),
        ]
        if (level := level_of(header)) is not None:
            lines.insert(3, ('level', f'{level.number} of the nested codebooks {level.nested.hex()}'))
        if (shape := shape_of(header)) is not None:
            of = f'{self.packets} of {part_count(header, shape)}'
            lines.append(('packets', f'{of}, ids dealt out by {shape.rows}x{shape.columns}'))
        for side in sorted(header.grains, reverse=True) if len(header.grains) > 1 else ():
            here = self.grain == side
            lines.append((f'grain {side}', f'{int(here.sum()) // side**2} tokens, {here.mean():.1%} of the area'))
        pixels = header.width * header.height
        for name, count in [*self.streams.items(), ('file', self.size)]:
            lines.append((name, f'{count} bytes, {8 * count / pixels:.4f} bits per pixel'))
        return lines

    def _prior(self) -> str:
        if self.header.feature(FEATURE) is None:
            return self.header.prior.hex() or 'none'
        return f'{self.header.prior.hex()}, a network on {probe_of(self.header).computer}'

    def grain_image(self) -> UInt8[np.ndarray, 'h w 1']:
        """One pixel per grid cell, the finer the brighter; UserError if all tokens are of one size."""
        grains = self.header.grains
        if len(grains) == 1:
            raise UserError('there is no map of grains: all tokens are of one size')
        levels = np.searchsorted(grains, self.grain)
        return (255 - 255 * levels // (len(grains) - 1)).astype(np.uint8)[..., None]


def describe(data: bytes, limits: Limits | None = None) -> Description:
    """Reads a bitstream to its end.  Packets may be missing.

    Args:
      data: the bitstream.
      limits: what may be allocated.

    Raises:
      BitstreamError: it is damaged.
    """
    reader = BitstreamReader(data, limits)
    header = reader.header
    grain = np.ones(header.grid, np.int32)
    alpha = reader.alpha()
    streams = {'transparency': len(alpha or b''), 'grains, coded': 0, 'grains, plain': 0, 'ids, coded': 0}
    streams['ids, plain'] = tiles = 0
    shape = shape_of(header)
    if shape is not None:
        records = find_packets(reader.rest(len(data)), header, shape).records.values()
        for record in records:
            streams[_kind(record)] += len(record.ids.data)
        streams['header and checksums'] = len(data) - sum(streams.values())
        used = {name: n for name, n in streams.items() if n}
        return Description(header, len(data), used, header.tile_count, grain, len(records))
    for area, record in reader.tiles():
        tiles += 1
        streams[_kind(record)] += len(record.ids.data)
        if record.grains is not None:
            streams['grains, coded' if record.grains.modelled else 'grains, plain'] += len(record.grains.data)
            here = np.s_[area.top : area.top + area.rows, area.left : area.left + area.columns]
            grain[here] = decode_grains(record.grains, (area.rows, area.columns), header.grains)
    streams['header and checksums'] = len(data) - sum(streams.values())
    return Description(header, len(data), {name: n for name, n in streams.items() if n}, tiles, grain)


def _kind(record: TileRecord) -> str:
    return 'ids, coded' if record.ids.modelled else 'ids, plain'
