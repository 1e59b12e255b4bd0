"""Header of a compressed image and its serialization."""

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
"""Numbers and names of the optional fields of a header."""
LONGEST_FEATURE = 255
LONGEST_HEADER = 132 + 5 * MOST_CODEBOOKS + len(FEATURES) * (LONGEST_FEATURE + 3)
_LARGEST_NUMBER = 1 << 40  # of a variable-length number: no field needs more
_PIXELS_PER_CONVERSION = 1 << 18
_CHANNELS = {1: 'grey', 2: 'grey with transparency', 3: 'RGB', 4: 'RGB with transparency'}


class BitstreamError(UserError):
    """Error for bytes that are no bitstream, are damaged, or belong to other weights."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """Upper bounds on what decoding a bitstream may cost.

    Attributes:
      pixels: of an image; the number of ids in its token grid has the same bound.
      memory: bytes of the arrays of decoding, beside what the networks take; see `Header.decoding_bytes`.
      seconds: of reading the tokens, and of decoding them to pixels.

    Raises:
      UserError: a bound is not above 0.
    """

    pixels: int = 1 << 27
    memory: int = 1 << 32
    seconds: float = 1200.0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if not getattr(self, field.name) > 0:
                raise UserError(f'a limit of {field.name} is above 0, got {getattr(self, field.name)}')


@dataclasses.dataclass(frozen=True)
class Feature:
    """Optional field of a header, which a reader must understand.

    Attributes:
      number: one of `FEATURES`.
      data: content of the field, at most `LONGEST_FEATURE` bytes.
    """

    number: int
    data: bytes


@dataclasses.dataclass(frozen=True)
class Header:
    """Header of a compressed image: size, number format, tokens and coding parameters.

    Attributes:
      width: of the image, in pixels.
      height: of the image, in pixels.
      channels: 1 grey, 2 grey with transparency, 3 RGB, 4 RGB with transparency.
      bit_depth: 8 or 16, of every channel.
      codebook_sizes: one entry per sub-codebook.
      downsample_factor: pixels per grid cell along one side.
      grains: block sides, rising from 1, each twice or more the one before.
      tile: side of the independently coded tiles, in grid cells; a multiple of the largest grain.
      window: side of the squares that the networks process, in pixels; a multiple of the largest block.
      halo: overlap of neighbouring windows beyond their common border, in pixels; a multiple of the largest block.
      weights_fingerprint: 8 bytes.
      prior_kind: 0 none, 1 integer tables, 2 a network.
      prior_fingerprint: 8 bytes; empty without a prior.
      features: optional fields, by rising numbers.
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
    weights_fingerprint: bytes
    prior_kind: int = 0
    prior_fingerprint: bytes = b''
    features: tuple[Feature, ...] = ()

    @property
    def cell(self) -> int:
        """Side of the largest block in pixels."""
        return self.downsample_factor * max(self.grains)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the token grid, which covers the image with whole blocks."""
        blocks = (-(-self.height // self.cell), -(-self.width // self.cell))
        return blocks[0] * max(self.grains), blocks[1] * max(self.grains)

    @property
    def conversion_rows(self) -> int:
        """Rows of pixels that are converted to integers at once, which needs copies."""
        return max(1, min(32, _PIXELS_PER_CONVERSION // self.width))

    @property
    def decoding_bytes(self) -> int:
        """Bytes that decoding allocates at most, beside what the networks take.

        These are the image, its transparency once more, its tokens, a row of windows with the joint to the next one,
        rows that are converted, and copies of one window.
        """
        rows, columns = self.grid
        width, height = columns * self.downsample_factor, rows * self.downsample_factor
        strip_rows = min(height, self.window)
        image = self.width * self.height * (self.channels + self.has_alpha) * self.bit_depth // 8
        tokens = 4 * rows * columns * (len(self.codebook_sizes) + (len(self.grains) > 1))
        strip = 12 * width * (strip_rows + min(2 * self.halo, strip_rows))
        converted = 12 * 5 * width * min(strip_rows, self.conversion_rows)
        return image + tokens + strip + converted + 8 * 24 * min(width, self.window) * strip_rows

    @property
    def has_alpha(self) -> bool:
        """Presence of an alpha channel."""
        return self.channels in (2, 4)

    @property
    def channels_name(self) -> str:
        """Name of the combination of channels."""
        return _CHANNELS[self.channels]

    def feature(self, number: int) -> bytes | None:
        """Returns the content of an optional field, or None."""
        return next((feature.data for feature in self.features if feature.number == number), None)

    def check(self, limits: Limits) -> None:
        """Checks all values and the size of the image.

        Raises:
          UserError: a value is impossible, or the image is larger than the limits.
        """
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
            ('fingerprint of the weights', self.weights_fingerprint,
             len(self.weights_fingerprint) == FINGERPRINT_BYTES),
            ('fingerprint of the prior', self.prior_fingerprint,
             len(self.prior_fingerprint) == FINGERPRINT_BYTES * (self.prior_kind > 0)),
        ]  # fmt: skip
        for name, value, sound in rules:
            if not sound:
                raise UserError(f'impossible {name}: {value}')
        _check_features(self.features)
        block, cell = max(self.grains), self.cell
        sides = [('tile', self.tile, block, 1, 4096), ('window', self.window, cell, 1, LARGEST_WINDOW)]
        for name, value, unit, least, most in [*sides, ('halo', self.halo, cell, 0, self.window // 3)]:
            if value % unit or not least <= value <= most:
                raise UserError(f'impossible {name}: {value} is no multiple of {unit} in [{least}, {most}]')
        rows, columns = self.grid
        most = max(self.width * self.height, rows * columns * len(self.codebook_sizes))
        if most > limits.pixels:
            raise UserError(
                f'{self.width}x{self.height} pixels with {len(self.codebook_sizes)} ids on a grid of '
                f'{columns}x{rows} are above the limit of {limits.pixels}; --max_pixels={most} allows it'
            )
        if self.decoding_bytes > limits.memory:
            mib = -(-self.decoding_bytes >> 20)
            raise UserError(
                f'{self.width}x{self.height} pixels in windows of {self.window} take {mib} MiB of memory, above the '
                f'limit of {limits.memory >> 20}; --max_memory={mib} allows it'
            )

    def spec(self, codebook_names: Sequence[str] | None = None) -> TokenSpec:
        """Returns the spec of the tokens; sub-codebooks, whose names are not stored, are numbered by default."""
        names = tuple(codebook_names or map(str, range(len(self.codebook_sizes))))
        return TokenSpec(self.codebook_sizes, self.downsample_factor, names, self.grains)

    @property
    def tile_count(self) -> int:
        """Number of tiles."""
        rows, columns = self.grid
        return -(-rows // self.tile) * -(-columns // self.tile)

    def tile_area(self, number: int) -> 'TileArea':
        """Returns the area of a tile, counted from 0 in raster order."""
        rows, columns = self.grid
        y, x = divmod(number, -(-columns // self.tile))
        top, left = y * self.tile, x * self.tile
        return TileArea(top, left, min(self.tile, rows - top), min(self.tile, columns - left))

    def tiles(self) -> Iterator['TileArea']:
        """Returns the areas of all tiles in raster order."""
        return map(self.tile_area, range(self.tile_count))


@dataclasses.dataclass(frozen=True)
class TileArea:
    """Rectangle of the token grid that a tile covers, in cells."""

    top: int
    left: int
    rows: int
    columns: int


def _check_features(features: Sequence[Feature]) -> None:
    numbers = [feature.number for feature in features]
    if numbers != sorted(set(numbers)) or not set(numbers) <= set(FEATURES):
        raise UserError(f'impossible features: their numbers {numbers} do not rise, or are not among {list(FEATURES)}')
    longest = max((len(feature.data) for feature in features), default=0)
    if longest > LONGEST_FEATURE:
        raise UserError(f'impossible features: one has {longest} bytes, at most {LONGEST_FEATURE} are possible')


def encode_varint(value: int) -> bytes:
    """Encodes a number of at least 0 in groups of seven bits, the lowest first (LEB128).

    The highest bit of each byte is set if more bytes follow.
    """
    parts = bytearray()
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])


def encode_header(header: Header) -> bytes:
    """Encodes all fields in their order; raises UserError for impossible values."""
    header.check(Limits(_LARGEST_NUMBER, 1 << 62))
    numbers = [header.width, header.height, header.channels | (8 if header.bit_depth == 16 else 0)]
    numbers += [header.downsample_factor, len(header.codebook_sizes), *header.codebook_sizes]
    numbers += [len(header.grains), *header.grains, header.tile, header.window, header.halo]
    features = b''.join(encode_varint(f.number) + encode_varint(len(f.data)) + f.data for f in header.features)
    return (
        b''.join(map(encode_varint, numbers))
        + header.weights_fingerprint
        + bytes([header.prior_kind])
        + header.prior_fingerprint
        + features
    )


def parse_header(fields: bytes, limits: Limits) -> Header:
    """Parses the bytes of `encode_header`; raises BitstreamError for other bytes and images beyond the limits."""
    reader = _FieldReader(fields)
    width, height, format_bits, factor = (reader.number() for _ in range(4))
    sizes = tuple(reader.number() for _ in range(reader.count(MOST_CODEBOOKS, 'sub-codebooks')))
    grains = tuple(reader.number() for _ in range(reader.count(LARGEST_GRAIN.bit_length(), 'grains')))
    tile, window, halo = (reader.number() for _ in range(3))
    weights, kind = reader.take(FINGERPRINT_BYTES), reader.take(1)[0]
    prior = reader.take(FINGERPRINT_BYTES) if kind else b''
    features = []
    while reader.left:
        number = reader.number()
        if number not in FEATURES:
            raise BitstreamError(f'the bitstream has the feature {number}, which this program does not know')
        features.append(Feature(number, reader.take(reader.count(LONGEST_FEATURE, 'bytes in a feature'))))
    header = Header(
        width, height, format_bits & 7, 16 if format_bits & 8 else 8, sizes, factor, grains, tile, window, halo,
        weights, kind, prior, tuple(features),
    )  # fmt: skip
    if format_bits > 15:
        raise BitstreamError('the header is damaged: it holds more than this version knows')
    try:
        header.check(limits)
    except ValueError as error:
        raise BitstreamError(f'the header cannot be used: {error}') from None
    return header


class _FieldReader:
    """Sequential reader of header fields, which raises BitstreamError at the end of the data."""

    def __init__(self, data: bytes) -> None:
        self._data, self._position = data, 0

    @property
    def left(self) -> bool:
        """Existence of unread bytes."""
        return self._position < len(self._data)

    def take(self, count: int) -> bytes:
        """Reads the next `count` bytes."""
        self._position += count
        if self._position > len(self._data):
            raise BitstreamError('the header is damaged: it ends inside a field')
        return self._data[self._position - count : self._position]

    def number(self) -> int:
        """Reads the next variable-length number."""
        value = 0
        for shift in range(0, 42, 7):
            byte = self.take(1)[0]
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise BitstreamError('the header is damaged: a number in it does not end')

    def count(self, most: int, name: str) -> int:
        """Reads the next variable-length number, a count that is at most `most`."""
        count = self.number()
        if count > most:
            raise BitstreamError(f'the header is damaged: it has {count} {name}, at most {most} are possible')
        return count
