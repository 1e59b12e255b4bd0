"""Tokens of an image as the body of its bitstream: tiles or packets."""

import dataclasses
import itertools

import numpy as np
from jaxtyping import Bool

from vistok.compression.entropy.token_coding import decode_tile, encode_tile
from vistok.compression.format.bitstream import BitstreamReader, BitstreamWriter
from vistok.compression.format.header import BitstreamError, Header
from vistok.compression.format.packets import (
    PacketShape,
    count_packets,
    find_packets,
    max_packet_bytes,
    packet_area,
    packet_areas,
    read_packet_shape,
    serialize_packet,
)
from vistok.compression.format.time_limit import TimeLimit
from vistok.compression.priors.prior import Prior
from vistok.tokenizers.tokenizer import Tokens


@dataclasses.dataclass(frozen=True, eq=False)
class PartialTokens:
    """Tokens of an image, some of which may be lost.

    Attributes:
      tokens: a batch of one; lost ids are 0.
      known: True where ids have arrived, `[h, w]`.
    """

    tokens: Tokens
    known: Bool[np.ndarray, 'h w']

    @property
    def lost(self) -> float:
        """Share of the grid that was lost."""
        return 1 - float(self.known.mean())


def write_tokens(writer: BitstreamWriter, header: Header, tokens: Tokens, prior: Prior | None) -> None:
    """Writes the body of a bitstream, after its header and alpha channel.

    Raises:
      UserError: the tokens do not belong to such a header.
    """
    ids, spec, shape = np.asarray(tokens.ids)[0], header.spec(), read_packet_shape(header)
    if shape is not None:
        for part in packet_areas(header, shape):
            writer.write_packet(serialize_packet(part.number, encode_tile(ids[part.slices], None, spec, prior)))
        return
    for area in header.tiles():
        here = np.s_[area.top : area.top + area.rows, area.left : area.left + area.columns]
        grain = None if tokens.grain is None else np.asarray(tokens.grain)[0][here]
        writer.write_tile(encode_tile(ids[here], grain, spec, prior))
    writer.write_end()


def read_tokens(reader: BitstreamReader, prior: Prior | None) -> Tokens:
    """Reads the tokens that `write_tokens` wrote with the same prior, after the alpha channel has been read.

    Raises:
      BitstreamError: data is missing or damaged, or a prior is needed and none is given.
    """
    header = reader.header
    shape = read_packet_shape(header)
    if shape is not None:
        return _read_packets(reader, shape, prior, partial=False).tokens
    rows, columns = header.grid
    ids = np.zeros((1, rows, columns, len(header.codebook_sizes)), np.int32)
    grain = np.ones((1, rows, columns), np.int32) if len(header.grains) > 1 else None
    limit = TimeLimit(reader.limits.seconds)
    for number, (area, record) in enumerate(reader.read_tiles(), 1):
        here = np.s_[0, area.top : area.top + area.rows, area.left : area.left + area.columns]
        ids[here], sides = decode_tile(record, area, header.spec(), prior)
        if grain is not None and sides is not None:
            grain[here] = sides
        limit.check(number, header.tile_count)
    return Tokens(ids, grain)


def read_partial_tokens(reader: BitstreamReader, prior: Prior | None) -> PartialTokens:
    """Reads tokens from a file some of whose packets may be missing or damaged.

    Raises:
      BitstreamError: no packet has arrived, or the file has no packets and is damaged.
    """
    shape = read_packet_shape(reader.header)
    if shape is None:
        return PartialTokens(read_tokens(reader, prior), np.ones(reader.header.grid, bool))
    return _read_packets(reader, shape, prior, partial=True)


def _read_packets(reader: BitstreamReader, shape: PacketShape, prior: Prior | None, *, partial: bool) -> PartialTokens:
    header = reader.header
    # Bytes that do not belong there may lie between the packets, but not without end.
    found = find_packets(reader.read_rest(2 * max_packet_bytes(header, shape) + (1 << 16)), header, shape)
    ids, known = np.zeros((1, *header.grid, len(header.codebook_sizes)), np.int32), np.zeros(header.grid, bool)
    arrived, expected = set[int](), count_packets(header, shape)
    limit = TimeLimit(reader.limits.seconds)
    for done, (number, record) in enumerate(found.records.items(), 1):
        limit.check(done, len(found.records))
        part = packet_area(header, shape, number)
        assert part is not None  # else it would not have been found
        try:
            ids[0][part.slices], _ = decode_tile(record, part.area, header.spec(), prior)
        except BitstreamError:
            if not partial:
                raise
        else:
            known[part.slices] = True
            arrived.add(number)
    if not arrived:
        raise BitstreamError(f'none of the {expected} packets has arrived whole')
    if not partial and (len(arrived) < expected or found.stray_bytes):
        numbers = (part.number for part in packet_areas(header, shape) if part.number not in arrived)
        missing = [*itertools.islice(numbers, 9)]  # there may be millions
        listed = ', '.join(map(str, missing[:8])) + (', …' if len(missing) > 8 else '')
        wrong = (
            f'packets {listed} of {expected} are missing' if missing else f'{found.stray_bytes} bytes are of no packet'
        )
        raise BitstreamError(f'the bitstream is damaged: {wrong}; with --partial, lost ids are restored')
    return PartialTokens(Tokens(ids), known)
