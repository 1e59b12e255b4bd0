"""Pictures <-> bytes, through the tokens of any tokenizer.

The tokens come back exactly, on every machine.  The pixels made of them are a network's and may differ in their last
bit from one kind of device to another.
"""

import dataclasses
import hashlib
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import flax.traverse_util
import numpy as np

from tesserax.compression import planes
from tesserax.compression.bitstream import BitstreamReader, BitstreamWriter, Readable
from tesserax.compression.header import FINGERPRINT_BYTES, BitstreamError, Header, Limits
from tesserax.compression.planes import Picture
from tesserax.compression.prior import Prior, check_fits
from tesserax.compression.token_coding import decode_tile, encode_tile
from tesserax.compression.windows import Span, Strips, blend_weights, spans
from tesserax.tokenizers.tokenizer import Tokens, TokenSpec, fit_to_grid

Progress = Callable[[int, int], None]
"""Called with the number of windows that are done and of all."""


@runtime_checkable
class PictureTokenizer(Protocol):
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
class Codec:
    """Compresses pictures of any size, and decompresses what the same weights and the same prior have compressed.

    Attributes:
      tokenizer: with its parameters.
      weights: fingerprint of the parameters; see `fingerprint`.
      prior: model of the ids; without one they have fixed lengths.
      window: side of the squares that the networks see, in pixels; rounded up to whole blocks.
      halo: how far they reach beyond their border with the next one; likewise.
      tile: side of the tiles that are written by themselves, in grid cells; likewise.
      limits: what decompressing may allocate.
    """

    tokenizer: PictureTokenizer
    weights: bytes
    prior: Prior | None = None
    window: int = 512
    halo: int = 64
    tile: int = 256
    limits: Limits = dataclasses.field(default_factory=Limits)

    def __post_init__(self) -> None:
        if len(self.weights) != FINGERPRINT_BYTES:
            raise ValueError(f'a fingerprint has {FINGERPRINT_BYTES} bytes, got {len(self.weights)}')
        if self.prior is not None:
            check_fits(self.prior, self.tokenizer.spec)

    def compress(
        self, picture: Picture, *, grain_ratios: Sequence[float] | None = None, progress: Progress | None = None
    ) -> bytes:
        """A bitstream of the picture.

        Args:
          picture: uint8 or uint16 `[h, w, c]`: grey, grey and alpha, RGB, RGB and alpha.
          grain_ratios: shares of the area of each grain, from coarse to fine; only for tokenizers with grains.
          progress: is told after each window.

        Raises:
          ValueError: no such picture, larger than the limits, or grains that the tokenizer does not have.
        """
        return self.pack(picture, self.encode(picture, grain_ratios=grain_ratios, progress=progress))

    def decompress(self, data: bytes | Readable, *, progress: Progress | None = None) -> Picture:
        """The picture of a bitstream.

        Raises:
          BitstreamError: the bytes are no bitstream, damaged, or of other weights or another prior.
        """
        reader = self.reader(data)
        packed, tokens = reader.alpha(), self.unpack(reader)
        alpha = None if packed is None else planes.unpack_alpha(packed, reader.header)
        colours = self.decode(tokens, reader.header, progress=progress)
        return colours if alpha is None else np.concatenate([colours, alpha], axis=-1)

    def encode(
        self, picture: Picture, *, grain_ratios: Sequence[float] | None = None, progress: Progress | None = None
    ) -> Tokens:
        """The tokens of a picture, a batch of one, on the host: every window's core."""
        header = self.header(picture)
        vertical, horizontal = self._axes(header)
        rows, columns = header.grid
        ids = np.zeros((1, rows, columns, len(header.codebook_sizes)), np.int32)
        grain = np.ones((1, rows, columns), np.int32) if len(header.grains) > 1 else None
        factor = header.downsample_factor
        for number, (y, x) in enumerate([(y, x) for y in vertical for x in horizontal], 1):
            part = picture[y.start * factor : y.stop * factor, x.start * factor : x.stop * factor]
            images = fit_to_grid(planes.to_images(part), self.tokenizer.spec)
            shares = {} if grain_ratios is None else {'grain_ratios': tuple(grain_ratios)}
            tokens = self.tokenizer.encode(images, **shares)
            ids[:, y.core, x.core] = np.asarray(tokens.ids)[:, y.core_inside, x.core_inside]
            if grain is not None:
                grain[:, y.core, x.core] = np.asarray(tokens.grain)[:, y.core_inside, x.core_inside]
            if progress is not None:
                progress(number, len(vertical) * len(horizontal))
        return Tokens(ids, grain)

    def pack(self, picture: Picture, tokens: Tokens) -> bytes:
        """A bitstream of tokens and of the picture's size and transparency."""
        header = self.header(picture)
        file = io.BytesIO()
        writer = BitstreamWriter(file)
        writer.header(header)
        if header.has_alpha:
            writer.alpha(planes.pack_alpha(picture))
        ids = np.asarray(tokens.ids)[0]
        for area in header.tiles():
            here = np.s_[area.top : area.top + area.rows, area.left : area.left + area.columns]
            grain = None if tokens.grain is None else np.asarray(tokens.grain)[0][here]
            writer.tile(encode_tile(ids[here], grain, self.tokenizer.spec, self.prior))
        writer.end()
        return file.getvalue()

    def reader(self, data: bytes | Readable) -> BitstreamReader:
        """A reader of a bitstream that this codec can decode; BitstreamError for others."""
        reader = BitstreamReader(data, self.limits)
        header, spec = reader.header, self.tokenizer.spec
        if header.weights != self.weights:
            raise BitstreamError(f'bitstream was written with weights {header.weights.hex()}, got {self.weights.hex()}')
        prior = b'' if self.prior is None else self.prior.fingerprint
        if header.prior and header.prior != prior:
            raise BitstreamError(
                f'bitstream was written with prior {header.prior.hex()}, got {prior.hex() or "none"} '
                f'(weights {self.weights.hex()} fit)'
            )
        here = (tuple(spec.codebook_sizes), spec.downsample_factor, tuple(sorted(spec.grains)))
        if (header.codebook_sizes, header.downsample_factor, header.grains) != here:
            raise BitstreamError(f'bitstream has tokens of {header.spec()}, the tokenizer has {spec}')
        return reader

    def unpack(self, reader: BitstreamReader) -> Tokens:
        """The tokens of a bitstream, a batch of one, after its `alpha` has been read."""
        header = reader.header
        rows, columns = header.grid
        ids = np.zeros((1, rows, columns, len(header.codebook_sizes)), np.int32)
        grain = np.ones((1, rows, columns), np.int32) if len(header.grains) > 1 else None
        prior = self.prior if header.prior else None
        for area, record in reader.tiles():
            here = np.s_[0, area.top : area.top + area.rows, area.left : area.left + area.columns]
            ids[here], sides = decode_tile(record, area, self.tokenizer.spec, prior)
            if grain is not None and sides is not None:
                grain[here] = sides
        return Tokens(ids, grain)

    def decode(self, tokens: Tokens, header: Header, *, progress: Progress | None = None) -> Picture:
        """The colours of the picture of tokens."""
        shape = (header.height, header.width, 3 if header.channels > 2 else 1)
        picture = np.empty(shape, np.uint8 if header.bit_depth == 8 else np.uint16)
        top = 0
        for rows in self._strips(tokens, header, progress):
            part = picture[top : top + len(rows)]
            part[:] = planes.from_image(rows[: len(part), : header.width], header)
            top += len(rows)
        return picture

    def header(self, picture: Picture) -> Header:
        """What the bitstream of a picture says before its tokens; ValueError for what is no picture."""
        planes.check_picture(picture)
        spec = self.tokenizer.spec
        height, width, channels = picture.shape
        window = _rounded_up(self.window, spec.cell)
        header = Header(
            width=width,
            height=height,
            channels=channels,
            bit_depth=8 * picture.dtype.itemsize,
            codebook_sizes=tuple(spec.codebook_sizes),
            downsample_factor=spec.downsample_factor,
            grains=tuple(sorted(spec.grains)),
            tile=_rounded_up(self.tile, max(spec.grains)),
            window=window,
            halo=min(_rounded_up(self.halo, spec.cell), window // 3 // spec.cell * spec.cell),
            weights=self.weights,
            prior_kind=0 if self.prior is None else self.prior.kind,
            prior=b'' if self.prior is None else self.prior.fingerprint,
        )
        header.check(self.limits)
        return header

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


def _rounded_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit
