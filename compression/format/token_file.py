"""The tokens of an image <-> what follows the header of its bitstream: tiles, or packets."""

import dataclasses
import itertools

import numpy as np
from jaxtyping import Bool

from vistok.compression.entropy.token_coding import decode_tile, encode_tile
from vistok.compression.format.bitstream import BitstreamReader, BitstreamWriter
from vistok.compression.format.header import BitstreamError, Header
from vistok.compression.format.packets import (
    PacketShape,
    find_packets,
    most_bytes,
    packet_bytes,
    part_count,
    part_of,
    parts,
    shape_of,
)
from vistok.compression.priors.prior import Prior
from vistok.tokenizers.tokenizer import Tokens


@dataclasses.dataclass(frozen=True, eq=False)
class Received:
    """What has arrived of an image.

    Attributes:
      tokens: a batch of one; unknown ids are 0.
      known: where ids have arrived, `[h, w]`.
    """

    tokens: Tokens
    known: Bool[np.ndarray, 'h w']

    @property
    def lost(self) -> float:
        """Share of the grid that has not arrived."""
        return 1 - float(self.known.mean())


def write_tokens(writer: BitstreamWriter, header: Header, tokens: Tokens, prior: Prior | None) -> None:
    """All that comes after header and transparency.

    Raises:
      UserError: tokens that do not belong to such a header.
    """
    ids, spec, shape = np.asarray(tokens.ids)[0], header.spec(), shape_of(header)
    if shape is not None:
        for part in parts(header, shape):
            writer.packet(packet_bytes(part.number, encode_tile(ids[part.where], None, spec, prior)))
        return
    for area in header.tiles():
        here = np.s_[area.top : area.top + area.rows, area.left : area.left + area.columns]
        grain = None if tokens.grain is None else np.asarray(tokens.grain)[0][here]
        writer.tile(encode_tile(ids[here], grain, spec, prior))
    writer.end()


def read_tokens(reader: BitstreamReader, prior: Prior | None) -> Tokens:
    """What `write_tokens` was given, after the transparency has been read, with the prior that was given.

    Raises:
      BitstreamError: something is missing or damaged, or a prior is needed and there is none.
    """
    header = reader.header
    shape = shape_of(header)
    if shape is not None:
        return _read_packets(reader, shape, prior, partial=False).tokens
    rows, columns = header.grid
    ids = np.zeros((1, rows, columns, len(header.codebook_sizes)), np.int32)
    grain = np.ones((1, rows, columns), np.int32) if len(header.grains) > 1 else None
    for area, record in reader.tiles():
        here = np.s_[0, area.top : area.top + area.rows, area.left : area.left + area.columns]
        ids[here], sides = decode_tile(record, area, header.spec(), prior)
        if grain is not None and sides is not None:
            grain[here] = sides
    return Tokens(ids, grain)


def read_what_arrived(reader: BitstreamReader, prior: Prior | None) -> Received:
    """As `read_tokens`, but packets may be missing or damaged; a file without packets must be whole.

    Raises:
      BitstreamError: nothing has arrived, or the file has no packets and is damaged.
    """
    shape = shape_of(reader.header)
    if shape is None:
        return Received(read_tokens(reader, prior), np.ones(reader.header.grid, bool))
    return _read_packets(reader, shape, prior, partial=True)


def _read_packets(reader: BitstreamReader, shape: PacketShape, prior: Prior | None, *, partial: bool) -> Received:
    header = reader.header
    # Bytes that do not belong there may lie between the packets, but not without end.
    found = find_packets(reader.rest(2 * most_bytes(header, shape) + (1 << 16)), header, shape)
    ids, known = np.zeros((1, *header.grid, len(header.codebook_sizes)), np.int32), np.zeros(header.grid, bool)
    arrived, expected = set[int](), part_count(header, shape)
    for number, record in found.records.items():
        part = part_of(header, shape, number)
        assert part is not None  # else it would not have been found
        try:
            ids[0][part.where], _ = decode_tile(record, part.area, header.spec(), prior)
        except BitstreamError:
            if not partial:
                raise
        else:
            known[part.where] = True
            arrived.add(number)
    if not arrived:
        raise BitstreamError(f'none of the {expected} packets has arrived whole')
    if not partial and (len(arrived) < expected or found.strays):
        numbers = (part.number for part in parts(header, shape) if part.number not in arrived)
        missing = [*itertools.islice(numbers, 9)]  # there may be millions
        listed = ', '.join(map(str, missing[:8])) + (', …' if len(missing) > 8 else '')
        wrong = f'packets {listed} of {expected} are missing' if missing else f'{found.strays} bytes are of no packet'
        raise BitstreamError(f'the bitstream is damaged: {wrong}; with --partial, lost ids are restored')
    return Received(Tokens(ids), known)
