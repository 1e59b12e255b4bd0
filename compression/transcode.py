"""Transcoding of a bitstream to a smaller nested codebook, without the image and without a network."""

import dataclasses
import io

from vistok.compression.format import packets
from vistok.compression.format.bitstream import BitstreamReader, BitstreamWriter, Readable
from vistok.compression.format.header import BitstreamError, Header, Limits
from vistok.compression.format.token_file import read_tokens, write_tokens
from vistok.compression.nested.codebooks import NestedCodebooks, NestedLevel, read_level
from vistok.compression.nested.prior import coarsen_prior
from vistok.compression.priors.prior import StaticPrior
from vistok.errors import UserError


def transcode(
    data: bytes,
    nested: NestedCodebooks,
    *,
    codewords: int | None = None,
    max_bytes: int | None = None,
    prior: StaticPrior | None = None,
    limits: Limits | None = None,
) -> bytes:
    """Transcodes a bitstream to fewer codewords, as many as are given or as a size allows.

    Args:
      data: the bitstream.
      nested: codebooks that it was written with, or of the weights that it was written with.
      codewords: size of each sub-codebook in the result.
      max_bytes: bytes that the result may not exceed; it has the most codewords that fit.
      prior: tables of the whole codebook; those of smaller codebooks are derived from them.
      limits: bounds on what may be allocated.

    Returns:
      The bitstream that compressing the image with that codebook gives, byte for byte.

    Raises:
      BitstreamError: the bytes are no bitstream, damaged, or belong to other nested codebooks, another prior, or a
        network.
      UserError: not exactly one of `codewords` and `max_bytes` is given, there is no such codebook, the bitstream has
        fewer codewords already, or no codebook makes it as small.
    """
    if (codewords is None) == (max_bytes is None):
        raise UserError('give either the number of codewords or the largest number of bytes of the result')
    if codewords is not None:
        return transcode_to_level(data, nested, nested.find_level(codewords), prior, limits)
    return _transcode_to_size(data, nested, max_bytes or 0, prior, limits)


def transcode_to_level(
    data: bytes | Readable,
    nested: NestedCodebooks,
    level: int,
    prior: StaticPrior | None = None,
    limits: Limits | None = None,
) -> bytes:
    """Transcodes a bitstream to a level of the nested codebooks; see `transcode`."""
    reader = BitstreamReader(data, limits or Limits())
    header, start = reader.header, _check_level(reader.header, nested)
    if level < start:
        raise UserError(
            f'the bitstream has {_format_sizes(nested, start)} codewords, fewer than {_format_sizes(nested, level)}'
        )
    if prior is not None and prior.grains != header.grains:
        raise BitstreamError(f'bitstream has tokens of the grains {header.grains}, the prior is one of {prior.grains}')
    alpha = reader.read_alpha()
    tokens = nested.coarsen(read_tokens(reader, _find_prior(header, nested, start, prior)), start, level)
    used = None if prior is None else coarsen_prior(prior, nested, level) if level else prior
    kept = [feature for feature in header.features if feature.number == packets.PACKETS_FEATURE]
    header = dataclasses.replace(
        header,
        codebook_sizes=nested.sizes(level),
        prior_kind=0 if used is None else used.kind,
        prior_fingerprint=b'' if used is None else used.fingerprint,
        features=(*([NestedLevel(level, nested.fingerprint).feature()] if level else []), *kept),
    )
    file = io.BytesIO()
    writer = BitstreamWriter(file)
    writer.write_header(header)
    if alpha is not None:
        writer.write_alpha(alpha)
    write_tokens(writer, header, tokens, used)
    return file.getvalue()


def _transcode_to_size(
    data: bytes, nested: NestedCodebooks, max_bytes: int, prior: StaticPrior | None, limits: Limits | None
) -> bytes:
    """Transcodes a bitstream to the largest codebook with which it has at most `max_bytes` bytes."""
    smallest = data
    start = _check_level(BitstreamReader(data, limits or Limits()).header, nested)
    for level in range(start, len(nested.levels) + 1):
        smallest = transcode_to_level(data, nested, level, prior, limits)
        if len(smallest) <= max_bytes:
            return smallest
    raise UserError(
        f'with {_format_sizes(nested, len(nested.levels))} codewords, the fewest there are, the file has '
        f'{len(smallest)} bytes, more than {max_bytes}'
    )


def _check_level(header: Header, nested: NestedCodebooks) -> int:
    """Returns the level of a bitstream; raises BitstreamError if it belongs to other nested codebooks."""
    if header.weights_fingerprint != nested.weights_fingerprint:
        raise BitstreamError(
            f'bitstream was written with weights {header.weights_fingerprint.hex()}, the nested codebooks are of '
            f'{nested.weights_fingerprint.hex()}'
        )
    level = read_level(header)
    if level is not None and level.nested_fingerprint != nested.fingerprint:
        raise BitstreamError(
            f'bitstream was written with nested codebooks {level.nested_fingerprint.hex()}, got '
            f'{nested.fingerprint.hex()}'
        )
    start = 0 if level is None else level.number
    if start > len(nested.levels) or header.codebook_sizes != nested.sizes(start):
        raise BitstreamError(
            f'bitstream has {header.codebook_sizes} codewords at level {start}, the nested codebooks have others'
        )
    return start


def _find_prior(header: Header, nested: NestedCodebooks, level: int, prior: StaticPrior | None) -> StaticPrior | None:
    """Returns the prior that a bitstream was written with, derived from that of the whole codebook."""
    if not header.prior_fingerprint:
        return None
    here = prior if prior is None or not level else coarsen_prior(prior, nested, level)
    if here is None or (here.kind, here.fingerprint) != (header.prior_kind, header.prior_fingerprint):
        known = 'none' if here is None else here.fingerprint.hex()
        kind = ' (a network, without which its tokens cannot be read)' if header.prior_kind != 1 else ''
        raise BitstreamError(f'bitstream was written with prior {header.prior_fingerprint.hex()}{kind}, got {known}')
    return here


def _format_sizes(nested: NestedCodebooks, level: int) -> str:
    return ' and '.join(map(str, dict.fromkeys(nested.sizes(level))))
