"""What a compressed image says of itself before its first token, and how that becomes bytes."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

from vistok.errors import UserError
from vistok.tokenizers.tokenizer import TokenSpec

FINGERPRINT_BYTES = 8
MOST_CODEBOOKS = 64
LARGEST_CODEBOOK = 1 << 20
LARGEST_GRAIN = 64
LARGEST_WINDOW = 2048  # the networks' memory grows with it
FEATURES = {1: 'a network as its prior', 2: 'a smaller codebook', 3: 'packets'}
"""What a header may say beyond the fields that all files have: numbers and what they are, in words."""
LONGEST_FEATURE = 255
LONGEST_HEADER = 132 + 5 * MOST_CODEBOOKS + len(FEATURES) * (LONGEST_FEATURE + 3)
_LARGEST_NUMBER = 1 << 40  # of a variable-length number: no field needs more
_CHANNELS = {1: 'grey', 2: 'grey with transparency', 3: 'RGB', 4: 'RGB with transparency'}


class BitstreamError(UserError):
    """The bytes are no bitstream, are damaged, or belong to other weights; the message is one sentence."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a reader is willing to allocate.

    Attributes:
      pixels: of an image; the numbers in its token grid are held to the same bound.
      strip: pixels of one row of windows, which are held as 12 bytes each while they are put together.
    """

    pixels: int = 1 << 27
    strip: int = 1 << 26


@dataclasses.dataclass(frozen=True)
class Feature:
    """Something that not every file has, and that a reader has to know.

    Attributes:
      number: one of `FEATURES`.
      data: what there is to know, at most `LONGEST_FEATURE` bytes.
    """

    number: int
    data: bytes


@dataclasses.dataclass(frozen=True)
class Header:
    """What is known before the first token.

    Attributes:
      width: of the image, in pixels.
      height: likewise.
      channels: 1 grey, 2 grey with transparency, 3 RGB, 4 RGB with transparency.
      bit_depth: 8 or 16, of every channel.
      codebook_sizes: one entry per sub-codebook.
      downsample_factor: pixels per grid cell along one side.
      grains: block sides, rising from 1, each twice or more the one before.
      tile: side of the tiles that are written by themselves, in grid cells; a multiple of the largest grain.
      window: side of the squares that the networks see at once, in pixels; a multiple of the largest block.
      halo: how far neighbouring squares reach beyond their common border, in pixels; likewise a multiple.
      weights: fingerprint of the weights, 8 bytes.
      prior_kind: 0 none, 1 integer tables, 2 a network.
      prior: fingerprint of the prior, 8 bytes; empty without one.
      features: with rising numbers.
    """

    width: int
    height: int
    channels: int
    bit_depth: int
    codebook_sizes: tuple[int, ...]
    downsample_factor: int
    grains: tuple[int, ...]
    tile: int
    window: int
    halo: int
    weights: bytes
    prior_kind: int = 0
    prior: bytes = b''
    features: tuple[Feature, ...] = ()

    @property
    def cell(self) -> int:
        """Pixels along one side of the largest block."""
        return self.downsample_factor * max(self.grains)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the token grid, which covers the image in whole blocks."""
        blocks = (-(-self.height // self.cell), -(-self.width // self.cell))
        return blocks[0] * max(self.grains), blocks[1] * max(self.grains)

    @property
    def has_alpha(self) -> bool:
        """Whether there is a plane of transparency."""
        return self.channels in (2, 4)

    @property
    def channels_name(self) -> str:
        """What the channels are, in words."""
        return _CHANNELS[self.channels]

    def feature(self, number: int) -> bytes | None:
        """The data of a feature, if the file has it."""
        return next((feature.data for feature in self.features if feature.number == number), None)

    def check(self, limits: Limits) -> None:
        """UserError unless all values are possible and the image is within the limits."""
        rules: list[tuple[str, object, bool]] = [
            ('width', self.width, self.width >= 1),
            ('height', self.height, self.height >= 1),
            ('channels', self.channels, self.channels in _CHANNELS),
            ('bit depth', self.bit_depth, self.bit_depth in (8, 16)),
            ('downsample factor', self.downsample_factor, 1 <= self.downsample_factor <= 1024),
            ('sizes of codebooks', self.codebook_sizes, 1 <= len(self.codebook_sizes) <= MOST_CODEBOOKS
             and all(1 <= size <= LARGEST_CODEBOOK for size in self.codebook_sizes)),
            ('grains', self.grains, self.grains[:1] == (1,) and max(self.grains) <= LARGEST_GRAIN
             and all(b > a and b % a == 0 for a, b in itertools.pairwise(self.grains))),
            ('prior kind', self.prior_kind, 0 <= self.prior_kind <= 255),
            ('fingerprint of the weights', self.weights, len(self.weights) == FINGERPRINT_BYTES),
            ('fingerprint of the prior', self.prior, len(self.prior) == FINGERPRINT_BYTES * (self.prior_kind > 0)),
            ('features', self.features, all(a.number < b.number for a, b in itertools.pairwise(self.features))
             and all(f.number in FEATURES and len(f.data) <= LONGEST_FEATURE for f in self.features)),
        ]  # fmt: skip
        for name, value, sound in rules:
            if not sound:
                raise UserError(f'impossible {name}: {value}')
        block, cell = max(self.grains), self.cell
        sides = [('tile', self.tile, block, 1, 4096), ('window', self.window, cell, 1, LARGEST_WINDOW)]
        for name, value, unit, least, most in [*sides, ('halo', self.halo, cell, 0, self.window // 3)]:
            if value % unit or not least <= value <= most:
                raise UserError(f'impossible {name}: {value} is no multiple of {unit} in [{least}, {most}]')
        rows, columns = self.grid
        if max(self.width * self.height, rows * columns * len(self.codebook_sizes)) > limits.pixels:
            raise UserError(
                f'{self.width}x{self.height} pixels with {len(self.codebook_sizes)} ids on a grid of '
                f'{columns}x{rows} are above the limit of {limits.pixels}'
            )
        strip = columns * self.downsample_factor * min(rows * self.downsample_factor, self.window)
        if strip > limits.strip:
            raise UserError(
                f'{self.width}x{self.height} pixels in windows of {self.window} are strips of {strip} pixels, above '
                f'the limit of {limits.strip}'
            )

    def spec(self, codebook_names: Sequence[str] | None = None) -> TokenSpec:
        """What the tokens are; names, which no file holds, are numbers by default."""
        names = tuple(codebook_names or map(str, range(len(self.codebook_sizes))))
        return TokenSpec(self.codebook_sizes, self.downsample_factor, names, self.grains)

    @property
    def tile_count(self) -> int:
        """How many tiles there are."""
        rows, columns = self.grid
        return -(-rows // self.tile) * -(-columns // self.tile)

    def tile_area(self, number: int) -> 'TileArea':
        """The tile with a number from 0 in the order of the file: from left to right, then from top to bottom."""
        rows, columns = self.grid
        y, x = divmod(number, -(-columns // self.tile))
        top, left = y * self.tile, x * self.tile
        return TileArea(top, left, min(self.tile, rows - top), min(self.tile, columns - left))

    def tiles(self) -> Iterator['TileArea']:
        """All of them."""
        return map(self.tile_area, range(self.tile_count))


@dataclasses.dataclass(frozen=True)
class TileArea:
    """Where a tile lies in the token grid, in cells."""

    top: int
    left: int
    rows: int
    columns: int


def varint(value: int) -> bytes:
    """A number of at least 0 in groups of seven bits, the lowest first; the top bit of a byte says that more follow."""
    parts = bytearray()
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])


def header_fields(header: Header) -> bytes:
    """The fields in their order; UserError for impossible values."""
    header.check(Limits(_LARGEST_NUMBER, _LARGEST_NUMBER))
    numbers = [header.width, header.height, header.channels | (8 if header.bit_depth == 16 else 0)]
    numbers += [header.downsample_factor, len(header.codebook_sizes), *header.codebook_sizes]
    numbers += [len(header.grains), *header.grains, header.tile, header.window, header.halo]
    features = b''.join(varint(f.number) + varint(len(f.data)) + f.data for f in header.features)
    return b''.join(map(varint, numbers)) + header.weights + bytes([header.prior_kind]) + header.prior + features


def parse_fields(fields: bytes, limits: Limits) -> Header:
    """What `header_fields` was given; BitstreamError for other bytes and for images beyond the limits."""
    given = _Fields(fields)
    width, height, form, factor = (given.number() for _ in range(4))
    sizes = tuple(given.number() for _ in range(given.count(MOST_CODEBOOKS, 'sub-codebooks')))
    grains = tuple(given.number() for _ in range(given.count(LARGEST_GRAIN.bit_length(), 'grains')))
    tile, window, halo = (given.number() for _ in range(3))
    weights, kind = given.take(FINGERPRINT_BYTES), given.take(1)[0]
    prior = given.take(FINGERPRINT_BYTES) if kind else b''
    features = []
    while given.left:
        which = given.number()
        if which not in FEATURES:
            raise BitstreamError(f'the bitstream has the feature {which}, which this program does not know')
        features.append(Feature(which, given.take(given.count(LONGEST_FEATURE, 'bytes in a feature'))))
    header = Header(
        width, height, form & 7, 16 if form & 8 else 8, sizes, factor, grains, tile, window, halo,
        weights, kind, prior, tuple(features),
    )  # fmt: skip
    if form > 15:
        raise BitstreamError('the header is damaged: it holds more than this version knows')
    try:
        header.check(limits)
    except ValueError as error:
        raise BitstreamError(f'the header cannot be used: {error}') from None
    return header


class _Fields:
    """Gives fields front to back; BitstreamError where there are none left."""

    def __init__(self, data: bytes) -> None:
        self._data, self._position = data, 0

    @property
    def left(self) -> bool:
        """Whether anything follows."""
        return self._position < len(self._data)

    def take(self, count: int) -> bytes:
        """The next bytes."""
        self._position += count
        if self._position > len(self._data):
            raise BitstreamError('the header is damaged: it ends inside a field')
        return self._data[self._position - count : self._position]

    def number(self) -> int:
        """The next varint."""
        value = 0
        for shift in range(0, 42, 7):
            byte = self.take(1)[0]
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise BitstreamError('the header is damaged: a number in it does not end')

    def count(self, most: int, name: str) -> int:
        """The next varint, which says how many of something follow."""
        count = self.number()
        if count > most:
            raise BitstreamError(f'the header is damaged: it has {count} {name}, at most {most} are possible')
        return count
