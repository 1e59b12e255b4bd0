"""Codec: images to bytes and back through the tokens of any tokenizer.

Tokens are restored exactly on every machine.  Pixels are computed from them by a neural network and may differ in
their last bit between kinds of devices.
"""

import dataclasses
import functools
import io
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Bool

from vistok.compression import calibration, pixel_formats
from vistok.compression.format.bitstream import BitstreamReader, BitstreamWriter, Readable
from vistok.compression.format.header import FINGERPRINT_BYTES, BitstreamError, Header, Limits
from vistok.compression.format.packets import PacketShape, check_packets_possible
from vistok.compression.format.token_file import read_partial_tokens, read_tokens, write_tokens
from vistok.compression.loss_concealment import Restorer
from vistok.compression.nested.codebooks import LevelTokenizer, NestedCodebooks, NestedLevel, read_level
from vistok.compression.nested.prior import coarsen_prior
from vistok.compression.pixel_formats import AlphaArray, ImageArray
from vistok.compression.priors.prior import Prior, StaticPrior, check_prior_fits
from vistok.compression.rate_control import SizeTarget, compress_to_size, pack_to_size
from vistok.compression.window_coding import ImageTokenizer, Progress, decode_in_windows, encode_in_windows
from vistok.errors import UserError
from vistok.tokenizers.tokenizer import Tokens


@dataclasses.dataclass(frozen=True, eq=False)
class TokenizedImage:
    """Content of a bitstream before its tokens are decoded to pixels.

    Attributes:
      header: size, number format and coding parameters.
      tokens: a batch of one, ids of the codec's own codebook.
      alpha: the alpha channel `[h, w, 1]`, if there is one.
    """

    header: Header
    tokens: Tokens
    alpha: AlphaArray | None


@dataclasses.dataclass(frozen=True, eq=False)
class PartialImage:
    """Decoded image of a bitstream with lost packets, whose lost tokens were concealed.

    Attributes:
      image: uint8 or uint16 `[h, w, c]`, with its alpha channel if there is one.
      known: cells of the token grid that have arrived.
    """

    image: ImageArray
    known: Bool[np.ndarray, 'rows columns']

    @property
    def lost(self) -> int:
        """Number of grid cells that were lost."""
        return int(self.known.size - self.known.sum())


@dataclasses.dataclass(frozen=True, eq=False)
class Codec:
    """Lossy image codec over the tokens of a tokenizer.

    A bitstream can be decoded with the weights and the prior that it was encoded with, and only with them.

    Attributes:
      tokenizer: with its parameters.
      weights_fingerprint: 8 bytes that identify the tokenizer's parameters, see `fingerprint_weights`.
      prior: probability model of the ids; without one, ids have fixed lengths.
      window: side of the squares that the networks process, in pixels; rounded up to whole blocks.
      halo: overlap of a window beyond its border with the next one, in pixels; rounded up likewise.
      tile: side of the independently coded tiles, in grid cells; rounded up likewise.
      limits: bounds on what decompressing may cost.
      network: a second probability model; each bitstream is written with the one that makes it smaller.
      nested: smaller codebooks that bitstreams may be written with.
      level: level of `nested` that this codec writes with; 0 is the whole codebook, see `at_level`.
      packets: division of the ids into packets, so that some may get lost; None for a file without packets.
    """

    tokenizer: ImageTokenizer
    weights_fingerprint: bytes
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
        if len(self.weights_fingerprint) != FINGERPRINT_BYTES:
            raise UserError(f'a fingerprint has {FINGERPRINT_BYTES} bytes, got {len(self.weights_fingerprint)}')
        for prior in self._priors:
            check_prior_fits(prior, self.tokenizer.spec)

    def compress(
        self,
        image: ImageArray,
        *,
        bpp: float | None = None,
        max_bytes: int | None = None,
        grain_ratios: Sequence[float] | None = None,
        progress: Progress | None = None,
    ) -> bytes:
        """Compresses an image, to a given size if one of the sizes is given.

        Args:
          image: uint8 or uint16 `[h, w, c]`: grey, grey and alpha, RGB, RGB and alpha.
          bpp: bits per pixel to come as near to as possible; with nested codebooks and one grain, not to exceed.
          max_bytes: bytes that the bitstream may not exceed.
          grain_ratios: shares of the area of each grain, from coarse to fine; only for tokenizers with several grains.
          progress: called after each window.

        Returns:
          The bitstream.

        Raises:
          UserError: the array is no image or larger than the limits, the size cannot be reached, the tokenizer has no
            such grains, or more than one of `bpp`, `max_bytes` and `grain_ratios` is given.
        """
        if sum(option is not None for option in (bpp, max_bytes, grain_ratios)) > 1:
            raise UserError('only one of bpp, max_bytes and grain_ratios can determine the size of a bitstream')
        pixel_formats.check_image(image)
        height, width = image.shape[:2]
        if bpp is not None:
            return self._compress_to_size(image, SizeTarget.from_bpp(bpp, width, height), progress)
        if max_bytes is not None:
            return self._compress_to_size(image, SizeTarget(max_bytes, never_above=True), progress)
        return self.pack(image, self.encode(image, grain_ratios=grain_ratios, progress=progress))

    def decompress(self, data: bytes | Readable, *, progress: Progress | None = None) -> ImageArray:
        """Decompresses a bitstream to an image.

        Args:
          data: bytes, or a binary file.
          progress: called after each window.

        Returns:
          The image in the size and number format of the original.

        Raises:
          BitstreamError: the bytes are no bitstream, damaged, or of other weights or another prior.
        """
        content = self.unpack(data)
        return self.decode(content.tokens, content.header, alpha=content.alpha, progress=progress)

    def decompress_partial(
        self, data: bytes | Readable, restore: Restorer, *, progress: Progress | None = None
    ) -> PartialImage:
        """Decompresses a bitstream some of whose packets may be lost.

        Args:
          data: a bitstream with packets, or an undamaged one without.
          restore: replaces lost ids, in ids of this codec's codebook.
          progress: called after each window.

        Raises:
          BitstreamError: as `decompress`, except for missing or damaged packets; or no packet has arrived.
        """
        reader, codec = self._open(data)
        alpha = _read_alpha(reader)
        received = read_partial_tokens(reader, codec._prior_of(reader.header))
        tokens = self._in_own_ids(received.tokens, codec.level)
        if received.lost:
            tokens = Tokens(restore(np.asarray(tokens.ids)[0], received.known)[None])
        return PartialImage(self.decode(tokens, reader.header, alpha=alpha, progress=progress), received.known)

    def encode(
        self, image: ImageArray, *, grain_ratios: Sequence[float] | None = None, progress: Progress | None = None
    ) -> Tokens:
        """Encodes an image as tokens, a batch of one, on the host; arguments as for `compress`."""
        return encode_in_windows(
            self.tokenizer, image, build_header(self, image), grain_ratios=grain_ratios, progress=progress
        )

    def decode(
        self, tokens: Tokens, header: Header, *, alpha: AlphaArray | None = None, progress: Progress | None = None
    ) -> ImageArray:
        """Decodes tokens to the image that the header describes, with an alpha channel `[h, w, 1]` if one is given.

        Raises:
          BitstreamError: it would take more seconds than the limits allow.
        """
        return decode_in_windows(
            self.tokenizer, tokens, header, alpha=alpha, seconds=self.limits.seconds, progress=progress
        )

    def pack(self, image: ImageArray, tokens: Tokens) -> bytes:
        """Writes tokens, and the size and alpha channel of their image, as a bitstream."""
        # A network's contexts reach over a whole block of its grid, of which a packet has only a part.
        priors = [self.prior] if self.network is None or self.packets is not None else [self.prior, self.network]
        return min((self._pack_with(image, tokens, prior) for prior in priors), key=len)

    def unpack(self, data: bytes | Readable) -> TokenizedImage:
        """Reads header, tokens and alpha channel of a bitstream, without decoding tokens to pixels.

        Raises:
          BitstreamError: as `decompress`.
        """
        reader, codec = self._open(data)
        alpha = _read_alpha(reader)
        tokens = read_tokens(reader, codec._prior_of(reader.header))
        return TokenizedImage(reader.header, self._in_own_ids(tokens, codec.level), alpha)

    def at_level(self, level: int) -> 'Codec':
        """Returns this codec with the codebook of a level of `nested`.

        Its prior is derived from that of the whole codebook; it has no `network`.

        Raises:
          UserError: there are no nested codebooks, there is no such level, or this codec is at one already.
        """
        if level == self.level:
            return self
        if self.nested is None or self.level:
            state = 'has no nested codebooks' if self.nested is None else f'is at level {self.level} already'
            raise UserError(f'there is no level {level}: the codec {state}')
        if level not in self._levels:
            self._levels[level] = dataclasses.replace(
                self,
                tokenizer=LevelTokenizer(self.tokenizer, self.nested, level),
                prior=coarsen_prior(self.prior, self.nested, level) if isinstance(self.prior, StaticPrior) else None,
                network=None,
                level=level,
            )
        return self._levels[level]

    def fit_prior(self, images: Iterable[ImageArray]) -> 'Codec':
        """Fits a static prior to images and returns this codec with it.

        Args:
          images: at least two, each uint8 or uint16 `[h, w, c]`.

        Returns:
          A codec with another `prior`, which has `save`.

        Raises:
          UserError: there are fewer than two images, or this codec is not at level 0.
        """
        from vistok.compression.priors.fitting import fit_prior  # imports scikit-learn, which takes a second

        tokens = self._encode_for_statistics(images)
        vectors = calibration.embed_codewords(self.tokenizer)
        return dataclasses.replace(self, prior=fit_prior(tokens, vectors, self.tokenizer.spec))

    def nest(self, images: Iterable[ImageArray], sizes: Sequence[int], *, restarts: int = 3, seed: int = 0) -> 'Codec':
        """Clusters the codebook into smaller, nested ones and returns this codec with them.

        Args:
          images: weight the codewords by their occurrences; each uint8 or uint16 `[h, w, c]`.
          sizes: codewords of each level, falling; the same for all sub-codebooks.
          restarts: runs of k-means, of which the best is taken.
          seed: seed of k-means.

        Returns:
          A codec with other `nested` codebooks, which have `save`.

        Raises:
          UserError: the sizes do not fall, there are fewer different codewords, or this codec is not at level 0.
        """
        from vistok.compression.nested.fitting import fit_nested  # imports scikit-learn, which takes a second

        usage = calibration.count_codewords(self._encode_for_statistics(images), self.tokenizer.spec)
        vectors = calibration.embed_codewords(self.tokenizer)
        nested = fit_nested(vectors, usage, sizes, self.weights_fingerprint, restarts=restarts, seed=seed)
        about = nested.about | {f'used_codewords/{j}': str(np.count_nonzero(n)) for j, n in enumerate(usage)}
        return dataclasses.replace(self, nested=dataclasses.replace(nested, about=about))

    def _compress_to_size(self, image: ImageArray, target: SizeTarget, progress: Progress | None) -> bytes:
        """Searches the grain ratios, or the nested codebook, with which the bitstream has the target's size."""
        grains, pixels, nested = len(self.tokenizer.spec.grains), image.shape[0] * image.shape[1], self.nested
        if grains == 1 and nested is not None and self.level == 0:
            tokens = self.encode(image, progress=progress)

            def pack(level: int) -> bytes:
                return self.at_level(level).pack(image, nested.coarsen(tokens, 0, level))

            return pack_to_size(target, pack, len(nested.levels), pixels)

        def compress(grain_ratios: Sequence[float] | None) -> bytes:
            return self.pack(image, self.encode(image, grain_ratios=grain_ratios, progress=progress))

        return compress_to_size(target, compress, grains, pixels)

    def _pack_with(self, image: ImageArray, tokens: Tokens, prior: Prior | None) -> bytes:
        header = build_header(self, image, prior)
        file = io.BytesIO()
        writer = BitstreamWriter(file)
        writer.write_header(header)
        if header.has_alpha:
            writer.write_alpha(pixel_formats.pack_alpha(image))
        write_tokens(writer, header, tokens, prior)
        return file.getvalue()

    def _open(self, data: bytes | Readable) -> tuple[BitstreamReader, 'Codec']:
        """Reads and checks the header of a bitstream; returns its reader and this codec at its level."""
        reader = BitstreamReader(data, self.limits)
        codec = self._at_level_of(reader.header)
        codec._check(reader.header)
        return reader, codec

    def _check(self, header: Header) -> None:
        """Raises BitstreamError unless the prior and the tokens of a bitstream are those of this codec."""
        spec, prior = self.tokenizer.spec, self._prior_of(header)
        if header.prior_fingerprint and prior is None:
            known = ' and '.join(prior.fingerprint.hex() for prior in self._priors) or 'none'
            raise BitstreamError(
                f'bitstream was written with prior {header.prior_fingerprint.hex()}, got {known} '
                f'(weights {self.weights_fingerprint.hex()} fit)'
            )
        here = (tuple(spec.codebook_sizes), spec.downsample_factor, tuple(sorted(spec.grains)))
        if (header.codebook_sizes, header.downsample_factor, header.grains) != here:
            raise BitstreamError(f'bitstream has tokens of {header.spec()}, the tokenizer has {spec}')
        if prior is not None:
            prior.check(header)

    def _at_level_of(self, header: Header) -> 'Codec':
        """Returns this codec at the level of a bitstream; raises BitstreamError if it has no such level."""
        if header.weights_fingerprint != self.weights_fingerprint:
            raise BitstreamError(
                f'bitstream was written with weights {header.weights_fingerprint.hex()}, got '
                f'{self.weights_fingerprint.hex()}'
            )
        level = read_level(header)
        if level is None and self.level == 0:
            return self
        if level is None or self.level not in (0, level.number):
            raise BitstreamError(f'bitstream has the level {level.number if level else 0}, the codec {self.level}')
        if self.nested is None or self.nested.fingerprint != level.nested_fingerprint:
            known = 'none' if self.nested is None else self.nested.fingerprint.hex()
            raise BitstreamError(
                f'bitstream was written with nested codebooks {level.nested_fingerprint.hex()}, got {known}'
            )
        try:
            return self.at_level(level.number)
        except UserError as error:
            raise BitstreamError(str(error)) from None

    def _encode_for_statistics(self, images: Iterable[ImageArray]) -> list[Tokens]:
        """Encodes images for fitting, which uses the whole codebook."""
        if self.level:
            raise UserError(f'priors and nested codebooks are fitted at level 0, the codec is at level {self.level}')
        return calibration.encode_for_statistics(
            lambda image, ratios: self.encode(image, grain_ratios=ratios), images, len(self.tokenizer.spec.grains)
        )

    @functools.cached_property
    def _levels(self) -> 'dict[int, Codec]':
        return {}

    def _in_own_ids(self, tokens: Tokens, level: int) -> Tokens:
        """Converts ids of a level to ids of this codec's codebook."""
        return tokens if level == self.level or self.nested is None else self.nested.expand(tokens, level)

    @property
    def _priors(self) -> list[Prior]:
        return [prior for prior in (self.prior, self.network) if prior is not None]

    def _prior_of(self, header: Header) -> Prior | None:
        """Returns the prior that a bitstream was written with, if this codec has it."""
        named = (header.prior_kind, header.prior_fingerprint)
        return next((prior for prior in self._priors if (prior.kind, prior.fingerprint) == named), None)


def build_header(codec: Codec, image: ImageArray, prior: Prior | None = None) -> Header:
    """Builds the header of an image's bitstream.

    Args:
      codec: which compresses.
      image: uint8 or uint16 `[h, w, c]`.
      prior: that the ids are coded with.

    Raises:
      UserError: the array is no image, or cannot be coded within the codec's limits and settings.
    """
    pixel_formats.check_image(image)
    spec = codec.tokenizer.spec
    height, width, channels = image.shape
    window = _round_up(codec.window, spec.cell)
    features = [
        None if prior is None else prior.feature,
        NestedLevel(codec.level, codec.nested.fingerprint).feature()
        if codec.nested is not None and codec.level
        else None,
        None if codec.packets is None else codec.packets.feature(),
    ]
    header = Header(
        width=width,
        height=height,
        channels=channels,
        bit_depth=8 * image.dtype.itemsize,
        codebook_sizes=tuple(spec.codebook_sizes),
        downsample_factor=spec.downsample_factor,
        grains=tuple(sorted(spec.grains)),
        tile=_round_up(codec.tile, max(spec.grains)),
        window=window,
        halo=min(_round_up(codec.halo, spec.cell), window // 3 // spec.cell * spec.cell),
        weights_fingerprint=codec.weights_fingerprint,
        prior_kind=0 if prior is None else prior.kind,
        prior_fingerprint=b'' if prior is None else prior.fingerprint,
        features=tuple(
            sorted((feature for feature in features if feature is not None), key=lambda feature: feature.number)
        ),
    )
    header.check(codec.limits)
    if codec.packets is not None:
        check_packets_possible(header)
    return header


def _read_alpha(reader: BitstreamReader) -> AlphaArray | None:
    packed = reader.read_alpha()
    return None if packed is None else pixel_formats.unpack_alpha(packed, reader.header)


def _round_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit
