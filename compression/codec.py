"""Images <-> bytes, through the tokens of any tokenizer.

The tokens come back exactly, on every machine.  The pixels made of them are a network's and may differ in their last
bit from one kind of device to another.
"""

import dataclasses
import functools
import hashlib
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import flax.traverse_util
import numpy as np
from jaxtyping import Bool

from vistok.compression import pixel_formats
from vistok.compression.format.bitstream import BitstreamReader, BitstreamWriter, Readable
from vistok.compression.format.header import FINGERPRINT_BYTES, BitstreamError, Feature, Header, Limits
from vistok.compression.format.packets import PacketShape, check_dividable
from vistok.compression.format.token_file import read_tokens, read_what_arrived, write_tokens
from vistok.compression.loss_concealment import Restorer
from vistok.compression.nested.codebooks import Level, LevelTokenizer, NestedCodebooks, level_of
from vistok.compression.nested.prior import coarsened
from vistok.compression.pixel_formats import ImageArray
from vistok.compression.priors.prior import Prior, StaticPrior, check_fits
from vistok.compression.windows import Span, Strips, blend_weights, spans
from vistok.errors import UserError
from vistok.tokenizers.tokenizer import Tokens, TokenSpec, fit_to_grid

_CONVERTED = 32
Progress = Callable[[int, int], None]
"""Called with the number of windows that are done and of all."""


@runtime_checkable
class ImageTokenizer(Protocol):
    """What a codec needs of a tokenizer; `TrainedTokenizer` has it."""

    @property
    def spec(self) -> TokenSpec:
        """Codebook sizes and grid."""
        ...

    def encode(self, images: Any, *, grain_ratios: Sequence[float] | None = None) -> Tokens:
        """Tokens of images `[b, h, w, 3]` in [-1, 1], optionally with shares of the grains from coarse to fine."""
        ...

    def decode(self, tokens: Tokens) -> Any:
        """Images of tokens, not clipped."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class Salvaged:
    """An image, some of whose tokens may have been made up.

    Attributes:
      image: with transparency if it has any.
      known: which cells of the token grid have arrived.
    """

    image: ImageArray
    known: Bool[np.ndarray, 'rows columns']

    @property
    def lost(self) -> int:
        """Cells that have not arrived."""
        return int(self.known.size - self.known.sum())


@dataclasses.dataclass(frozen=True, eq=False)
class Codec:
    """Compresses images of any size, and decompresses what the same weights and the same prior have compressed.

    Attributes:
      tokenizer: with its parameters.
      weights: fingerprint of the parameters; see `fingerprint`.
      prior: model of the ids; without one they have fixed lengths.
      window: side of the squares that the networks see, in pixels; rounded up to whole blocks.
      halo: how far they reach beyond their border with the next one; likewise.
      tile: side of the tiles that are written by themselves, in grid cells; likewise.
      limits: what decompressing may allocate.
      network: a second model of the ids; of the two, a bitstream is written with the one that makes it smaller.
      nested: smaller codebooks that bitstreams may have been written with.
      level: of `nested`, with which this codec writes; `at` makes codecs of other levels than 0, the whole codebook.
      packets: how ids are dealt out to packets, so that some may get lost; None: they are not.
    """

    tokenizer: ImageTokenizer
    weights: bytes
    prior: Prior | None = None
    window: int = 512
    halo: int = 64
    tile: int = 256
    limits: Limits = dataclasses.field(default_factory=Limits)
    network: Prior | None = None
    nested: NestedCodebooks | None = None
    level: int = 0
    packets: PacketShape | None = None

    def __post_init__(self) -> None:
        if len(self.weights) != FINGERPRINT_BYTES:
            raise UserError(f'a fingerprint has {FINGERPRINT_BYTES} bytes, got {len(self.weights)}')
        for prior in self._priors:
            check_fits(prior, self.tokenizer.spec)

    def compress(
        self, image: ImageArray, *, grain_ratios: Sequence[float] | None = None, progress: Progress | None = None
    ) -> bytes:
        """A bitstream of the image.

        Args:
          image: uint8 or uint16 `[h, w, c]`: grey, grey and alpha, RGB, RGB and alpha.
          grain_ratios: shares of the area of each grain, from coarse to fine; only for tokenizers with grains.
          progress: is told after each window.

        Raises:
          UserError: no such image, larger than the limits, or grains that the tokenizer does not have.
        """
        return self.pack(image, self.encode(image, grain_ratios=grain_ratios, progress=progress))

    def decompress(self, data: bytes | Readable, *, progress: Progress | None = None) -> ImageArray:
        """The image of a bitstream.

        Raises:
          BitstreamError: the bytes are no bitstream, damaged, or of other weights or another prior.
        """
        reader = self.reader(data)
        alpha = _alpha(reader)
        return _joined(self.decode(self.unpack(reader), reader.header, progress=progress), alpha)

    def salvage(self, data: bytes | Readable, restore: Restorer, *, progress: Progress | None = None) -> Salvaged:
        """The image of a bitstream whose packets have not all arrived.

        Args:
          data: with packets, or whole.
          restore: fills in what is lost, in ids of this codec's codebook.
          progress: is told after each window.

        Raises:
          BitstreamError: as `decompress`, unless it is packets that are missing or damaged; or none has arrived.
        """
        reader = self.reader(data)
        alpha, codec = _alpha(reader), self.at_level_of(reader.header)
        received = read_what_arrived(reader, codec._prior_of(reader.header))
        tokens = self._in_own_ids(received.tokens, codec.level)
        if received.lost:
            tokens = Tokens(restore(np.asarray(tokens.ids)[0], received.known)[None])
        return Salvaged(_joined(self.decode(tokens, reader.header, progress=progress), alpha), received.known)

    def encode(
        self, image: ImageArray, *, grain_ratios: Sequence[float] | None = None, progress: Progress | None = None
    ) -> Tokens:
        """The tokens of an image, a batch of one, on the host: every window's core."""
        header = self.header(image)
        vertical, horizontal = self._axes(header)
        rows, columns = header.grid
        ids = np.zeros((1, rows, columns, len(header.codebook_sizes)), np.int32)
        grain = np.ones((1, rows, columns), np.int32) if len(header.grains) > 1 else None
        factor = header.downsample_factor
        for number, (y, x) in enumerate([(y, x) for y in vertical for x in horizontal], 1):
            part = image[y.start * factor : y.stop * factor, x.start * factor : x.stop * factor]
            images = fit_to_grid(pixel_formats.to_images(part), self.tokenizer.spec)
            shares = {} if grain_ratios is None else {'grain_ratios': tuple(grain_ratios)}
            tokens = self.tokenizer.encode(images, **shares)
            ids[:, y.core, x.core] = np.asarray(tokens.ids)[:, y.core_inside, x.core_inside]
            if grain is not None:
                grain[:, y.core, x.core] = np.asarray(tokens.grain)[:, y.core_inside, x.core_inside]
            if progress is not None:
                progress(number, len(vertical) * len(horizontal))
        return Tokens(ids, grain)

    def pack(self, image: ImageArray, tokens: Tokens) -> bytes:
        """A bitstream of tokens and of the image's size and transparency."""
        # The neighbours that a network expects are not in one packet.
        priors = [self.prior] if self.network is None or self.packets is not None else [self.prior, self.network]
        return min((self._packed(image, tokens, prior) for prior in priors), key=len)

    def _packed(self, image: ImageArray, tokens: Tokens, prior: Prior | None) -> bytes:
        header = self.header(image)
        header = header if prior is None else _with_prior(header, prior)
        file = io.BytesIO()
        writer = BitstreamWriter(file)
        writer.header(header)
        if header.has_alpha:
            writer.alpha(pixel_formats.pack_alpha(image))
        write_tokens(writer, header, tokens, prior)
        return file.getvalue()

    def reader(self, data: bytes | Readable) -> BitstreamReader:
        """A reader of a bitstream that this codec can decode; BitstreamError for others."""
        reader = BitstreamReader(data, self.limits)
        self.at_level_of(reader.header)._check(reader.header)
        return reader

    def _check(self, header: Header) -> None:
        spec, prior = self.tokenizer.spec, self._prior_of(header)
        if header.prior and prior is None:
            known = ' and '.join(prior.fingerprint.hex() for prior in self._priors) or 'none'
            raise BitstreamError(
                f'bitstream was written with prior {header.prior.hex()}, got {known} (weights {self.weights.hex()} fit)'
            )
        here = (tuple(spec.codebook_sizes), spec.downsample_factor, tuple(sorted(spec.grains)))
        if (header.codebook_sizes, header.downsample_factor, header.grains) != here:
            raise BitstreamError(f'bitstream has tokens of {header.spec()}, the tokenizer has {spec}')
        if prior is not None:
            prior.check(header)

    def at(self, level: int) -> 'Codec':
        """This codec with the codebook of a level of `nested`.

        Its prior has tables that are added up from those of the whole codebook; a network knows the whole one only.

        Raises:
          UserError: there are no nested codebooks, there is no such level, or this codec is at one already.
        """
        if level == self.level:
            return self
        if self.nested is None or self.level:
            state = 'has no nested codebooks' if self.nested is None else f'is at level {self.level} already'
            raise UserError(f'there is no level {level}: the codec {state}')
        if level not in self._at:
            self._at[level] = dataclasses.replace(
                self,
                tokenizer=LevelTokenizer(self.tokenizer, self.nested, level),
                prior=coarsened(self.prior, self.nested, level) if isinstance(self.prior, StaticPrior) else None,
                network=None,
                level=level,
            )
        return self._at[level]

    def at_level_of(self, header: Header) -> 'Codec':
        """This codec at the level that a file was written with; BitstreamError if it cannot have that."""
        if header.weights != self.weights:
            raise BitstreamError(f'bitstream was written with weights {header.weights.hex()}, got {self.weights.hex()}')
        level = level_of(header)
        if level is None and self.level == 0:
            return self
        if level is None or self.level not in (0, level.number):
            raise BitstreamError(f'bitstream has the level {level.number if level else 0}, the codec {self.level}')
        if self.nested is None or self.nested.fingerprint != level.nested:
            known = 'none' if self.nested is None else self.nested.fingerprint.hex()
            raise BitstreamError(f'bitstream was written with nested codebooks {level.nested.hex()}, got {known}')
        try:
            return self.at(level.number)
        except ValueError as error:
            raise BitstreamError(str(error)) from None

    def unpack(self, reader: BitstreamReader) -> Tokens:
        """The tokens of a bitstream, a batch of one in this codec's ids, after its `alpha` has been read."""
        codec = self.at_level_of(reader.header)
        return self._in_own_ids(read_tokens(reader, codec._prior_of(reader.header)), codec.level)

    def decode(self, tokens: Tokens, header: Header, *, progress: Progress | None = None) -> ImageArray:
        """The colours of the image of tokens."""
        shape = (header.height, header.width, 3 if header.channels > 2 else 1)
        image = np.empty(shape, np.uint8 if header.bit_depth == 8 else np.uint16)
        top = 0
        for strip in self._strips(tokens, header, progress):
            for start in range(0, len(strip), _CONVERTED):  # some rows at a time, as converting needs copies
                part = image[top + start : top + min(start + _CONVERTED, len(strip))]
                part[:] = pixel_formats.from_image(strip[start : start + len(part), : header.width], header)
            top += len(strip)
            del strip  # before the next one is made
        return image

    def header(self, image: ImageArray) -> Header:
        """What the bitstream of an image says before its tokens, but for the prior; UserError for no image."""
        pixel_formats.check_image(image)
        spec = self.tokenizer.spec
        height, width, channels = image.shape
        window = _rounded_up(self.window, spec.cell)
        header = Header(
            width=width,
            height=height,
            channels=channels,
            bit_depth=8 * image.dtype.itemsize,
            codebook_sizes=tuple(spec.codebook_sizes),
            downsample_factor=spec.downsample_factor,
            grains=tuple(sorted(spec.grains)),
            tile=_rounded_up(self.tile, max(spec.grains)),
            window=window,
            halo=min(_rounded_up(self.halo, spec.cell), window // 3 // spec.cell * spec.cell),
            weights=self.weights,
            features=self._features,
        )
        header.check(self.limits)
        if self.packets is not None:
            check_dividable(header)
        return header

    @functools.cached_property
    def _at(self) -> 'dict[int, Codec]':
        return {}

    def _in_own_ids(self, tokens: Tokens, level: int) -> Tokens:
        """Tokens of a file of some level in ids of this codec's codebook."""
        return tokens if level == self.level or self.nested is None else self.nested.whole(tokens, level)

    @property
    def _features(self) -> tuple[Feature, ...]:
        """What files say of level and packets."""
        level = [] if self.nested is None or not self.level else [Level(self.level, self.nested.fingerprint).feature()]
        return (*level, *([] if self.packets is None else [self.packets.feature()]))

    @property
    def _priors(self) -> list[Prior]:
        return [prior for prior in (self.prior, self.network) if prior is not None]

    def _prior_of(self, header: Header) -> Prior | None:
        """The prior that a file was written with, if this codec has it."""
        named = (header.prior_kind, header.prior)
        return next((prior for prior in self._priors if (prior.kind, prior.fingerprint) == named), None)

    @staticmethod
    def _axes(header: Header) -> tuple[list[Span], list[Span]]:
        """Windows along both axes of the grid."""
        factor, block = header.downsample_factor, max(header.grains)
        window, halo = header.window // factor, header.halo // factor
        rows, columns = header.grid
        return spans(rows, window, halo, block), spans(columns, window, halo, block)

    def _strips(self, tokens: Tokens, header: Header, progress: Progress | None) -> Iterator[np.ndarray]:
        """Finished rows of decoded pixels, one strip for each row of windows."""
        vertical, horizontal = self._axes(header)
        scale, halo = header.downsample_factor, header.halo // header.downsample_factor
        strips = Strips(vertical, halo, scale, header.grid[1] * scale)
        across = blend_weights(horizontal, halo, scale)

        def windows(row: int) -> Iterator[tuple[slice, np.ndarray]]:
            y = vertical[row].window
            for number, (x, weights) in enumerate(zip(horizontal, across, strict=True), 1):
                grain = None if tokens.grain is None else tokens.grain[:, y, x.window]
                image = np.asarray(self.tokenizer.decode(Tokens(tokens.ids[:, y, x.window], grain)), np.float32)[0]
                if progress is not None:
                    progress(row * len(horizontal) + number, len(vertical) * len(horizontal))
                yield slice(x.start * scale, x.stop * scale), image * weights[:, None]

        for row in range(len(vertical)):
            yield strips.rows(row, windows(row))


def fingerprint(variables: Mapping[str, Any]) -> bytes:
    """Eight bytes that tell these parameters from others.

    Of every array its type, shape and little-endian bytes count, in an order that is their digests' own: the names do
    not, so that a later program may call a layer otherwise and still read what was written before.
    """
    digests = []
    for value in flax.traverse_util.flatten_dict(dict(variables)).values():
        array = np.asarray(value)
        digest = hashlib.blake2b(repr((array.dtype.name, array.shape)).encode())
        digest.update(np.ascontiguousarray(array.astype(array.dtype.newbyteorder('<'))).tobytes())
        digests.append(digest.digest())
    return hashlib.blake2b(b''.join(sorted(digests)), digest_size=FINGERPRINT_BYTES).digest()


def _alpha(reader: BitstreamReader) -> ImageArray | None:
    packed = reader.alpha()
    return None if packed is None else pixel_formats.unpack_alpha(packed, reader.header)


def _joined(colours: np.ndarray, alpha: np.ndarray | None) -> np.ndarray:
    return colours if alpha is None else np.concatenate([colours, alpha], axis=-1)


def _with_prior(header: Header, prior: Prior) -> Header:
    """The header of a file that is written with a prior."""
    features = [*header.features, *([] if prior.feature is None else [prior.feature])]
    features.sort(key=lambda feature: feature.number)
    return dataclasses.replace(header, prior_kind=prior.kind, prior=prior.fingerprint, features=tuple(features))


def _rounded_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit
