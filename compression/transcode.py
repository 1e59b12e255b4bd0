"""A bitstream with fewer codewords from one with more, without the image and without a network."""

import dataclasses
import io

from vistok.compression.format import packets
from vistok.compression.format.bitstream import BitstreamReader, BitstreamWriter, Readable
from vistok.compression.format.header import BitstreamError, Header, Limits
from vistok.compression.format.token_file import read_tokens, write_tokens
from vistok.compression.nested.codebooks import Level, NestedCodebooks, level_of
from vistok.compression.nested.prior import coarsened
from vistok.compression.priors.prior import StaticPrior
from vistok.errors import UserError


def transcode(
    data: bytes | Readable,
    nested: NestedCodebooks,
    level: int,
    prior: StaticPrior | None = None,
    limits: Limits | None = None,
) -> bytes:
    """The bitstream that compressing the image at a level gives, byte for byte.

    Args:
      data: a bitstream with at least as many codewords.
      nested: the tables that it was written with, or of the weights that it was.
      level: wanted.
      prior: tables of the whole codebook; those of levels follow from it.
      limits: what may be allocated.

    Raises:
      BitstreamError: the bytes are no bitstream, damaged, or belong to other tables, another prior, or to a network.
      UserError: there is no such level, or the bitstream has fewer codewords already.
    """
    reader = BitstreamReader(data, limits or Limits())
    header, start = reader.header, _start(reader.header, nested)
    if level < start:
        raise UserError(f'the bitstream has {_sizes(nested, start)} codewords, fewer than {_sizes(nested, level)}')
    if prior is not None and prior.grains != header.grains:
        raise BitstreamError(f'bitstream has tokens of the grains {header.grains}, the prior is one of {prior.grains}')
    alpha = reader.alpha()
    tokens = nested.coarser(read_tokens(reader, _prior_of(header, nested, start, prior)), start, level)
    used = None if prior is None else coarsened(prior, nested, level) if level else prior
    kept = [feature for feature in header.features if feature.number == packets.FEATURE]
    header = dataclasses.replace(
        header,
        codebook_sizes=nested.sizes(level),
        prior_kind=0 if used is None else used.kind,
        prior=b'' if used is None else used.fingerprint,
        features=(*([Level(level, nested.fingerprint).feature()] if level else []), *kept),
    )
    file = io.BytesIO()
    writer = BitstreamWriter(file)
    writer.header(header)
    if alpha is not None:
        writer.alpha(alpha)
    write_tokens(writer, header, tokens, used)
    return file.getvalue()


def transcode_to_size(
    data: bytes, nested: NestedCodebooks, most: int, prior: StaticPrior | None = None, limits: Limits | None = None
) -> bytes:
    """The bitstream with the most codewords that has at most `most` bytes.

    Raises:
      BitstreamError: as `transcode`.
      UserError: with the fewest codewords it has more.
    """
    smallest = data
    for level in range(_start(BitstreamReader(data, limits or Limits()).header, nested), len(nested.levels) + 1):
        smallest = transcode(data, nested, level, prior, limits)
        if len(smallest) <= most:
            return smallest
    raise UserError(
        f'with {_sizes(nested, len(nested.levels))} codewords, the fewest there are, the file has {len(smallest)} '
        f'bytes, more than {most}'
    )


def _start(header: Header, nested: NestedCodebooks) -> int:
    """The level of a bitstream, whose tables these must be."""
    if header.weights != nested.weights:
        raise BitstreamError(
            f'bitstream was written with weights {header.weights.hex()}, the nested codebooks are of '
            f'{nested.weights.hex()}'
        )
    level = level_of(header)
    if level is not None and level.nested != nested.fingerprint:
        raise BitstreamError(
            f'bitstream was written with nested codebooks {level.nested.hex()}, got {nested.fingerprint.hex()}'
        )
    start = 0 if level is None else level.number
    if start > len(nested.levels) or header.codebook_sizes != nested.sizes(start):
        raise BitstreamError(f'bitstream has {header.codebook_sizes} codewords at level {start}, the tables have not')
    return start


def _prior_of(header: Header, nested: NestedCodebooks, level: int, prior: StaticPrior | None) -> StaticPrior | None:
    """The prior that a bitstream was written with."""
    if not header.prior:
        return None
    here = prior if prior is None or not level else coarsened(prior, nested, level)
    if here is None or (here.kind, here.fingerprint) != (header.prior_kind, header.prior):
        known = 'none' if here is None else here.fingerprint.hex()
        kind = ' (a network, without which its tokens cannot be read)' if header.prior_kind != 1 else ''
        raise BitstreamError(f'bitstream was written with prior {header.prior.hex()}{kind}, got {known}')
    return here


def _sizes(nested: NestedCodebooks, level: int) -> str:
    return ' and '.join(map(str, dict.fromkeys(nested.sizes(level))))
