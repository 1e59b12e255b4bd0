"""Coding of a tile's tokens: streams of grains and ids, each entropy coded or of fixed lengths."""

import numpy as np
from jaxtyping import Integer

from vistok.compression.entropy.entropy_coder import SymbolDecoder, SymbolEncoder
from vistok.compression.entropy.grain_map import code_grains, flags_to_grain_map, grain_map_to_flags
from vistok.compression.format.bitstream import SymbolStream, TileRecord, compute_symbol_checksum, count_id_bits
from vistok.compression.format.header import BitstreamError, TileArea
from vistok.compression.priors.prior import Prior
from vistok.errors import UserError
from vistok.tokenizers.tokenizer import TokenSpec

Ids = Integer[np.ndarray, 'h w k']
Grain = Integer[np.ndarray, 'h w']


def encode_tile(ids: Ids, grain: Grain | None, spec: TokenSpec, prior: Prior | None) -> TileRecord:
    """Encodes the tokens of a tile, each stream in the shorter of its two forms.

    Args:
      ids: of the tile.
      grain: side of the block of each position; None for 1 everywhere.
      spec: of the tokens.
      prior: probability model of the ids; None for fixed lengths.  Ids coded with a prior that is not portable are
        decoded again, and stored at fixed lengths if they differ.

    Raises:
      UserError: ids or grains are outside of the spec, or differ within the block of a coarse token.
    """
    ids = ids.astype(np.int32)
    if (ids < 0).any() or (ids >= np.asarray(spec.codebook_sizes)).any():
        raise UserError(f'ids from {ids.min()} to {ids.max()} do not belong to codebooks of {spec.codebook_sizes}')
    if (grain is None) != (len(spec.grains) == 1):
        raise UserError(f'tokens of grains {spec.grains} {"need a" if grain is None else "have no"} map of grains')
    grains = None if grain is None else _encode_grains(grain.astype(np.int32), ids, spec)
    stream = SymbolStream(False, _pack(ids[_mark_block_corners(grain, ids.shape[:2])], spec))
    if prior is not None:
        encoder = SymbolEncoder()
        prior.code(encoder, ids.copy(), grain)
        shorter = _choose_shorter(SymbolStream(True, encoder.finish()), stream)
        if prior.portable or not shorter.entropy_coded or _verify_decoding(shorter, ids, grain, prior):
            stream = shorter
    return TileRecord(stream, grains, _compute_checksum(ids, grain))


def decode_tile(
    record: TileRecord, area: TileArea, spec: TokenSpec, prior: Prior | None
) -> tuple[Integer[np.ndarray, 'h w k'], Integer[np.ndarray, 'h w'] | None]:
    """Decodes ids and grains of a tile.

    Raises:
      BitstreamError: the record is damaged, or needs a prior and there is none.
    """
    shape = (area.rows, area.columns)
    grain = None if record.grains is None else decode_grains(record.grains, shape, spec.grains)
    ids = np.zeros((*shape, len(spec.codebook_sizes)), np.int32)
    if not record.ids.entropy_coded:
        chosen = _mark_block_corners(grain, shape)
        ids[chosen] = _unpack(record.ids.data, int(chosen.sum()), spec)
        if grain is not None:
            y, x = np.indices(shape)
            ids = ids[y - y % grain, x - x % grain]
    elif prior is None:
        raise BitstreamError('the bitstream was written with a prior, and none is given')
    else:
        _decode(record.ids, ids, grain, prior)
    if _compute_checksum(ids, grain) != record.checksum:
        raise BitstreamError(
            f'the bitstream is damaged: the tile at row {area.top}, column {area.left} of the grid decodes to other '
            'tokens than were written'
        )
    return ids, grain


def _decode(stream: SymbolStream, ids: Ids, grain: Grain | None, prior: Prior) -> None:
    """Decodes an entropy-coded stream into `ids`."""
    decoder = SymbolDecoder(stream.data)
    prior.code(decoder, ids, grain)
    decoder.finish()


def _verify_decoding(stream: SymbolStream, ids: Ids, grain: Grain | None, prior: Prior) -> bool:
    """Checks that an entropy-coded stream decodes to the ids."""
    found = np.zeros_like(ids)
    try:
        _decode(stream, found, grain, prior)
    except BitstreamError:
        return False
    return bool((found == ids).all())


def decode_grains(stream: SymbolStream, shape: tuple[int, int], grains: tuple[int, ...]) -> Integer[np.ndarray, 'h w']:
    """Decodes the grain map of a tile.

    Raises:
      BitstreamError: the stream is damaged.
    """
    if stream.entropy_coded:
        grain = np.ones(shape, np.int32)
        decoder = SymbolDecoder(stream.data)
        code_grains(decoder, grain, grains)
        decoder.finish()
        return grain
    flags = np.unpackbits(np.frombuffer(stream.data, np.uint8)).astype(bool)
    try:
        grain, used = flags_to_grain_map(flags, shape, grains)
    except IndexError:
        raise BitstreamError('the bitstream is damaged: there are too few grains') from None
    if len(flags) - used >= 8 or flags[used:].any():
        raise BitstreamError('the bitstream is damaged: there are more grains than cells')
    return grain


def _encode_grains(grain: Grain, ids: Ids, spec: TokenSpec) -> SymbolStream:
    y, x = np.indices(grain.shape)
    known = np.isin(grain, spec.grains).all()
    first = (y - y % np.maximum(grain, 1), x - x % np.maximum(grain, 1))
    if not known or (grain[first] != grain).any() or (ids[first] != ids).any():
        raise UserError(f'the tokens of a block differ, or grains are none of {spec.grains}')
    encoder = SymbolEncoder()
    code_grains(encoder, grain.copy(), spec.grains)
    plain = np.packbits(np.concatenate(grain_map_to_flags(grain, spec.grains))).tobytes()
    return _choose_shorter(SymbolStream(True, encoder.finish()), SymbolStream(False, plain))


def _choose_shorter(entropy_coded: SymbolStream, plain: SymbolStream) -> SymbolStream:
    return entropy_coded if len(entropy_coded.data) < len(plain.data) else plain


def _mark_block_corners(grain: Grain | None, shape: tuple[int, ...]) -> np.ndarray:
    """Returns a mask of the upper left corners of blocks."""
    if grain is None:
        return np.ones(shape, bool)
    y, x = np.indices(shape)
    return (y % grain == 0) & (x % grain == 0)


def _pack(tokens: Integer[np.ndarray, 'n k'], spec: TokenSpec) -> bytes:
    """Packs ids at fixed lengths, the highest bit first."""
    widths = [(size - 1).bit_length() for size in spec.codebook_sizes]
    columns = [tokens[:, [j]] >> np.arange(width)[::-1] & 1 for j, width in enumerate(widths)]
    return np.packbits(np.concatenate(columns, axis=1).astype(np.uint8).ravel()).tobytes()


def _unpack(data: bytes, count: int, spec: TokenSpec) -> Integer[np.ndarray, 'n k']:
    width = count_id_bits(spec.codebook_sizes)
    bits = np.unpackbits(np.frombuffer(data, np.uint8))
    if len(data) != -(-count * width // 8) or bits[count * width :].any():
        raise BitstreamError(f'the bitstream is damaged: {len(data)} bytes for {count} tokens of {width} bits')
    rows, start, columns = bits[: count * width].reshape(count, width), 0, []
    for size in spec.codebook_sizes:
        stop = start + (size - 1).bit_length()
        columns.append(rows[:, start:stop].astype(np.int32) @ (1 << np.arange(stop - start)[::-1]).astype(np.int32))
        start = stop
    ids = np.stack(columns, axis=-1)
    if (ids >= np.asarray(spec.codebook_sizes)).any():
        raise BitstreamError(f'the bitstream is damaged: an id is outside of its codebook of {spec.codebook_sizes}')
    return ids


def _compute_checksum(ids: Ids, grain: Grain | None) -> int:
    parts = [ids.astype('<i4').tobytes()]
    return compute_symbol_checksum(*parts, *([] if grain is None else [grain.astype('u1').tobytes()]))
