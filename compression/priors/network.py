"""Autoregressive generators as priors: ids are range coded with the probabilities of the next token.

LlamaGen, FAR and VQGAN-LC's GPT can be used; generators of tokens with several grains, or with other decoding orders,
cannot.  A tile is cut into blocks of the generator's grid, and each block is decoded step by step as in sampling.
Encoder and decoder run the same compiled step with the same batch size and differ only in the source of the ids.  The
logits are converted to integer frequencies on the host.

Logits are floating-point numbers, which differ between machines, between programs, and between a full pass and single
steps.  Therefore a file stores a digest of the tables of a fixed sequence of ids, and is refused where that differs;
the encoder verifies what it wrote by decoding; and every tile has a checksum.
"""

import dataclasses
import functools
import hashlib
import importlib.metadata
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, Integer

from vistok.compression.entropy.entropy_coder import BitCounter, FrequencyTable, SymbolCoder, SymbolDecoder
from vistok.compression.format.header import FINGERPRINT_BYTES, BitstreamError, Feature, Header, TileArea
from vistok.generators.autoregressive import decoding
from vistok.generators.autoregressive.base import Autoregressive
from vistok.generators.autoregressive.decoding import SampledToken
from vistok.generators.generator import Variables
from vistok.weights.fingerprints import fingerprint_weights

NETWORK_FEATURE = 1
"""Number of the header field with a digest of probabilities and the device that computed them."""
ROWS = 8
"""Batch size of blocks, which is constant since a step rounds differently with another."""
_TRIED = 16  # largest number of class labels that the encoder tries
_SCALE = float(1 << 31)  # frequency of the most probable id
_PROBED = 2  # rows of the grid that the digest of probabilities covers


@dataclasses.dataclass(frozen=True, eq=False)
class NetworkPrior:
    """Prior whose frequency tables are the predictions of an autoregressive generator.

    Attributes:
      generator: of tokens of one grain, conditioned on classes or unconditional.
      variables: as its `prepare_for_sampling` gives them.
      fingerprint: of the variables as they were trained, 8 bytes.
      kind: number in the header of a bitstream.
      portable: False, as machines compute different tables.
    """

    generator: Autoregressive
    variables: Variables
    fingerprint: bytes
    kind: int = dataclasses.field(default=2, init=False)
    portable: bool = dataclasses.field(default=False, init=False)

    @classmethod
    def from_variables(cls, generator: Autoregressive, variables: Variables) -> 'NetworkPrior':
        """Creates a prior from the variables as they were trained."""
        return cls(generator, generator.prepare_for_sampling(variables), fingerprint_weights(variables))

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """Number of ids of each sub-codebook."""
        return self.generator.spec.codebook_sizes

    @property
    def grains(self) -> tuple[int, ...]:
        """Block sides of the tokens."""
        return self.generator.spec.grains

    @functools.cached_property
    def probe(self) -> bytes:
        """Digest of the tables of a fixed sequence of ids on this machine, 8 bytes."""
        digest = hashlib.blake2b(digest_size=FINGERPRINT_BYTES)

        def note(table: FrequencyTable, symbol: int) -> int:
            digest.update(table.frequencies.astype('<i8').tobytes())
            return symbol

        rows, columns = min(self.generator.grid[0], _PROBED), self.generator.grid[1]
        shape = (ROWS * rows, columns, len(self.codebook_sizes))
        ids = (np.arange(np.prod(shape)).reshape(shape) * 7919 % np.asarray(self.codebook_sizes)).astype(np.int32)
        blocks = [TileArea(i * rows, 0, rows, columns) for i in range(ROWS)]
        labels = [self._labels[i % len(self._labels)] for i in range(ROWS)]
        self._code_blocks(blocks, labels, [note] * ROWS, ids)
        return digest.digest()

    @property
    def feature(self) -> Feature:
        """Header field with the probe and the device."""
        return Feature(NETWORK_FEATURE, self.probe + _computer().encode('ascii', 'replace'))

    def check(self, header: Header) -> None:
        """Raises BitstreamError if this machine computes other probabilities than the encoder's."""
        found = read_probe(header)
        if found.probe != self.probe:
            if found.computer == _computer():
                reason = f'also on {_computer()}: the processor, its number of cores or the flags of XLA differ'
            else:
                reason = f'on {found.computer}, and not on {_computer()}'
            raise BitstreamError(
                f'the network {self.fingerprint.hex()} gives other probabilities here than where the bitstream was '
                f'written, {reason}; its ids can be read there only'
            )

    def code(
        self, coder: SymbolCoder, ids: Integer[np.ndarray, 'h w k'], grain: Integer[np.ndarray, 'h w'] | None
    ) -> None:
        """Codes the ids of a tile; an encoder tries several class labels for each block and writes the best."""
        height, width = ids.shape[:2]
        rows, columns = self.generator.grid
        blocks = [
            TileArea(top, left, min(rows, height - top), min(columns, width - left))
            for top in range(0, height, rows)
            for left in range(0, width, columns)
        ]
        chosen = [0] * len(blocks) if isinstance(coder, SymbolDecoder) else self._best_labels(blocks, ids)
        labels = [self._labels[coder(self._label_table, label)] for label in chosen]
        for i in range(0, len(blocks), ROWS):
            here = blocks[i : i + ROWS]
            self._code_blocks(here, labels[i : i + ROWS], [coder] * len(here), ids)

    @functools.cached_property
    def _labels(self) -> list[int]:
        """Class labels that a block may have; the last one is the null label if the generator has one."""
        classes = list(range(self.generator.num_classes))
        return [*classes, self.generator.num_classes] if self.generator.condition_dropout or not classes else classes

    @property
    def _has_null(self) -> bool:
        return self._labels[-1] == self.generator.num_classes

    @functools.cached_property
    def _label_table(self) -> FrequencyTable:
        """Frequency table of labels: half of it for the null label, if there is one, the rest uniform."""
        counts = [1] * len(self._labels)
        counts[-1] = max(len(counts) - 1, 1) if self._has_null else 1
        return FrequencyTable(counts)

    def _best_labels(self, blocks: Sequence[TileArea], ids: Integer[np.ndarray, 'h w k']) -> list[int]:
        """Returns the index of the label with which each block has the shortest code."""
        count = len(self._labels)
        tried = range(count) if count <= _TRIED else range(count - 1, count) if self._has_null else range(_TRIED)
        if len(tried) == 1:
            return [tried[0]] * len(blocks)
        cases = [(block, label) for block in blocks for label in tried]
        meters = [BitCounter() for _ in cases]
        for i in range(0, len(cases), ROWS):
            some = cases[i : i + ROWS]
            labels = [self._labels[label] for _, label in some]
            self._code_blocks([block for block, _ in some], labels, meters[i : i + ROWS], ids)
        bits = [meter.bits + self._label_table.bits(label) for meter, (_, label) in zip(meters, cases, strict=True)]
        return [tried[place] for place in np.reshape(bits, (len(blocks), len(tried))).argmin(1)]

    def _code_blocks(
        self,
        blocks: Sequence[TileArea],
        labels: Sequence[int],
        coders: Sequence[SymbolCoder],
        ids: Integer[np.ndarray, 'h w k'],
    ) -> None:
        """Codes at most `ROWS` blocks in one batch, each with its label and coder.

        Positions of a block beyond the border of the tile take the most probable ids and are not coded.
        """
        columns = self.generator.grid[1]

        def code_ids(state: Any, logits: Any, position: Any, codebook_index: int) -> SampledToken:
            y, x = divmod(position, columns)
            counts = _counts(np.asarray(logits))
            chosen = counts.argmax(axis=1).astype(np.int32)
            for row, (block, coder) in enumerate(zip(blocks, coders, strict=True)):
                if y < block.rows and x < block.columns:
                    where = (block.top + y, block.left + x, codebook_index)
                    chosen[row] = ids[where] = coder(FrequencyTable(counts[row]), int(ids[where]))
            return SampledToken(chosen)

        rows = [*labels, *[labels[0]] * (ROWS - len(labels))]
        seen = max((block.rows - 1) * columns + block.columns for block in blocks)
        cond = jnp.asarray(rows, jnp.int32)
        decoding.decode(self.generator, self.variables, cond, code_ids, positions=seen, compiled=False)


@dataclasses.dataclass(frozen=True)
class Probe:
    """Origin of the probabilities that a file was written with.

    Attributes:
      probe: see `NetworkPrior.probe`.
      computer: backend and version of the library that computed them.
    """

    probe: bytes
    computer: str


def read_probe(header: Header) -> Probe:
    """Reads the origin of a network's probabilities from a header.

    Raises:
      BitstreamError: the header has none, or it is too short.
    """
    data = header.feature(NETWORK_FEATURE) or b''
    if len(data) < FINGERPRINT_BYTES:
        raise BitstreamError('the header is damaged: it says nothing about the probabilities of the network')
    computer = data[FINGERPRINT_BYTES:].decode('ascii', 'replace')  # is printed, so it has to be one printable line
    return Probe(data[:FINGERPRINT_BYTES], ''.join(c if c.isprintable() else '?' for c in computer))


def _counts(logits: Float[np.ndarray, 'b K']) -> Int[np.ndarray, 'b K']:
    """Converts logits to integer frequencies, of which the largest is 2^31."""
    logits = logits.astype(np.float64)
    return np.floor(np.exp(logits - logits.max(axis=1, keepdims=True)) * _SCALE).astype(np.int64)


def _computer() -> str:
    return f'{jax.default_backend()}, jaxlib {importlib.metadata.version("jaxlib")}'
