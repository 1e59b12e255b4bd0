"""Bitstreams on disk: their description, and smaller ones made of them without a network."""

import dataclasses
import os
import sys
from pathlib import Path

from vistok.compression import transcode as transcoding
from vistok.compression.format import description
from vistok.compression.format.bitstream import read_bounded
from vistok.compression.format.header import Limits
from vistok.errors import UserError
from vistok.experiments import image_files
from vistok.experiments.codecs import SHIPPED, open_nested, open_tables
from vistok.experiments.model_inputs import Model, PathLike, name_of_model

Bitstream = bytes | PathLike
"""A bitstream, its path, or '-' for standard input."""


@dataclasses.dataclass(frozen=True)
class BitstreamReport:
    """Contents of a bitstream, in numbers.

    Attributes:
      description: header, and bytes of each kind of stream.
      grain_map: image file of the grains; None if none was written.
    """

    description: description.Description
    grain_map: Path | None = None

    def __str__(self) -> str:
        lines = [f'{name:24} {text}' for name, text in self.description.lines()]
        return '\n'.join([*lines, *([] if self.grain_map is None else [f'wrote {self.grain_map}'])])


def describe(
    data: Bitstream, out: PathLike | None = None, *, force: bool = False, limits: Limits | None = None
) -> BitstreamReport:
    """Describes a bitstream without weights: ids are not decoded, the checksum of the whole file is compared.

    Args:
      data: the bitstream.
      out: image file for the map of grains, one pixel per grid cell, the finer the brighter; None: none is written.
      force: replaces an existing file.
      limits: bounds on what decoding may cost; None: the default ones.

    Raises:
      BitstreamError: the bytes are no bitstream, damaged, or above the limits.
      UserError: there is no map of grains, or the file exists already.
    """
    found = description.describe(read_bitstream(data, limits), limits)
    path = None if out is None else Path(out)
    if path is not None:
        image_files.write_new(path, image_files.image_bytes(found.grain_image(), path.suffix), force=force)
    return BitstreamReport(found, path)


@dataclasses.dataclass(frozen=True)
class TranscodingReport:
    """Bitstream with fewer codewords.

    Attributes:
      data: the new bitstream.
      size_before: bytes of the bitstream that it was made of.
      source: name of that.
      target: file that holds the new one; None if none was written.
    """

    data: bytes
    size_before: int
    source: str
    target: Path | None

    def __str__(self) -> str:
        where = '' if self.target is None else f'{self.source} -> {self.target}: '
        return f'{where}{self.size_before} bytes become {len(self.data)}'


def transcode(
    data: Bitstream,
    out: PathLike | None = None,
    *,
    model: Model | None = None,
    codewords: int | None = None,
    max_bytes: int | None = None,
    nested: PathLike | None = None,
    prior: PathLike | None = None,
    force: bool = False,
    limits: Limits | None = None,
) -> TranscodingReport:
    """Makes a smaller bitstream with fewer codewords, from the tables beside the weights alone.

    Args:
      data: the bitstream.
      out: file for the result; None: none is written; '-': standard output.
      model: path of the weights that the bitstream was written with; None: the weights of the package.
      codewords: size of the nested codebook of the result.
      max_bytes: bytes of the result at most, with the most codewords that fit; one of the two is given.
      nested: tables of `vistok nest_codebook`; None: those beside the weights.
      prior: tables of `vistok fit_prior`; None: those beside the weights; '': none.
      force: replaces an existing file.
      limits: bounds on what decoding may cost; None: the default ones.

    Raises:
      BitstreamError: the bytes are no bitstream, of other weights, or above the limits.
      UserError: there are no such codebooks, or the file exists already.
    """
    if (codewords is None) == (max_bytes is None):
        raise UserError('say how small, with one of --codewords and --max_bytes')
    model = SHIPPED if model is None else model
    tables, found_prior = open_nested(model, nested), open_tables(model, prior)
    if tables is None:
        raise UserError(
            f'there are no nested codebooks beside {name_of_model(model)}: make them with `vistok nest_codebook`'
        )
    to_standard = out is not None and os.fspath(out) == image_files.STANDARD
    target = None if out is None or to_standard else Path(out)
    if target is not None:
        image_files.check_new(target, force=force)
    given = read_bitstream(data, limits)
    result = transcoding.transcode(
        given, tables, codewords=codewords, max_bytes=max_bytes, prior=found_prior, limits=limits
    )
    if to_standard:
        sys.stdout.buffer.write(result)
    if target is not None:
        image_files.write_new(target, result, force=force)
    return TranscodingReport(result, len(given), 'bytes' if isinstance(data, bytes) else os.fspath(data), target)


def read_bitstream(data: Bitstream, limits: Limits | None = None) -> bytes:
    """Returns a bitstream that is given as bytes, by path, or as '-' for standard input.

    Raises:
      BitstreamError: it does not begin with the header of one within the limits.
    """
    if isinstance(data, bytes):
        return data
    if os.fspath(data) == image_files.STANDARD:
        return read_bounded(sys.stdin.buffer, limits)
    with Path(data).open('rb') as file:
        return read_bounded(file, limits)
