"""An autoregressive generator as model of ids: what it expects next decides how many bits an id takes.

LlamaGen, FAR and VQGAN-LC's GPT fit; generators of tokens with grains do not, nor do those that reveal ids in another
order.  A tile is cut into blocks of the generator's grid, and each block is a walk over `Autoregressive.step`, as in
sampling.  Whoever encodes and whoever decodes run one compiled step with one number of rows; the ids alone come from
elsewhere.  Its logits become integer frequencies on the host.

Floating-point numbers decide here, and they differ between machines, between programs, and between one pass and step by
step.  Hence a file has a fingerprint of tables that a fixed walk gave where it was written, and is refused where they
are others; the encoder decodes what it wrote before it trusts it; and every tile has a checksum.
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

from vistok.compression.entropy.entropy_coder import Decoder, FrequencyTable, Meter, SymbolCoder
from vistok.compression.format.header import FINGERPRINT_BYTES, BitstreamError, Feature, Header, TileArea
from vistok.generators.autoregressive import decoding
from vistok.generators.autoregressive.decoding import Autoregressive, SampledToken
from vistok.generators.generator import Variables
from vistok.weights.fingerprints import fingerprint_weights

FEATURE = 1
"""Number of the header's feature: a fingerprint of probabilities, and what computed them."""
ROWS = 8
"""Blocks that walk side by side, always: with other numbers of rows a step rounds otherwise."""
_TRIED = 16  # conditions that the encoder tries at most
_SCALE = float(1 << 31)  # counts of the likeliest id
_PROBED = 2  # rows of the grid


@dataclasses.dataclass(frozen=True, eq=False)
class NetworkPrior:
    """See the module.

    Attributes:
      generator: of tokens of one grain, conditioned on classes or on nothing.
      variables: as its `prepare_for_sampling` gives them.
      fingerprint: of the variables as they were trained.
      kind: number in the header of a bitstream.
      portable: not all machines have the same tables.
    """

    generator: Autoregressive
    variables: Variables
    fingerprint: bytes
    kind: int = dataclasses.field(default=2, init=False)
    portable: bool = dataclasses.field(default=False, init=False)

    @classmethod
    def of(cls, generator: Autoregressive, variables: Variables) -> 'NetworkPrior':
        """A prior from the variables as they were trained."""
        return cls(generator, generator.prepare_for_sampling(variables), fingerprint_weights(variables))

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """See `Prior`."""
        return self.generator.spec.codebook_sizes

    @property
    def grains(self) -> tuple[int, ...]:
        """See `Prior`."""
        return self.generator.spec.grains

    @functools.cached_property
    def probe(self) -> bytes:
        """Fingerprint of the tables that a fixed walk gives on this machine."""
        digest = hashlib.blake2b(digest_size=FINGERPRINT_BYTES)

        def note(table: FrequencyTable, symbol: int) -> int:
            digest.update(table.frequencies.astype('<i8').tobytes())
            return symbol

        rows, columns = min(self.generator.grid[0], _PROBED), self.generator.grid[1]
        shape = (ROWS * rows, columns, len(self.codebook_sizes))
        ids = (np.arange(np.prod(shape)).reshape(shape) * 7919 % np.asarray(self.codebook_sizes)).astype(np.int32)
        blocks = [TileArea(i * rows, 0, rows, columns) for i in range(ROWS)]
        labels = [self._labels[i % len(self._labels)] for i in range(ROWS)]
        self._pass(blocks, labels, [note] * ROWS, ids)
        return digest.digest()

    @property
    def feature(self) -> Feature:
        """See `Prior`."""
        return Feature(FEATURE, self.probe + _computer().encode('ascii', 'replace'))

    def check(self, header: Header) -> None:
        """See `Prior`."""
        found = probe_of(header)
        if found.probe != self.probe:
            raise BitstreamError(
                f'the network {self.fingerprint.hex()} gives other probabilities here (on {_computer()}) than where '
                f'the bitstream was written (on {found.computer}), so its ids cannot be read here'
            )

    def code(
        self, coder: SymbolCoder, ids: Integer[np.ndarray, 'h w k'], grain: Integer[np.ndarray, 'h w'] | None
    ) -> None:
        """See `Prior`.  An encoder tries several classes for each block, and writes the best."""
        height, width = ids.shape[:2]
        rows, columns = self.generator.grid
        blocks = [
            TileArea(top, left, min(rows, height - top), min(columns, width - left))
            for top in range(0, height, rows)
            for left in range(0, width, columns)
        ]
        chosen = [0] * len(blocks) if isinstance(coder, Decoder) else self._best_labels(blocks, ids)
        labels = [self._labels[coder(self._label_table, label)] for label in chosen]
        for i in range(0, len(blocks), ROWS):
            here = blocks[i : i + ROWS]
            self._pass(here, labels[i : i + ROWS], [coder] * len(here), ids)

    @functools.cached_property
    def _labels(self) -> list[int]:
        """Classes that a block may have; if the generator knows how to do without, that is the last one."""
        classes = list(range(self.generator.num_classes))
        return [*classes, self.generator.num_classes] if self.generator.condition_dropout or not classes else classes

    @property
    def _has_null(self) -> bool:
        return self._labels[-1] == self.generator.num_classes

    @functools.cached_property
    def _label_table(self) -> FrequencyTable:
        """One bit for no class, if there is such a thing; all classes are alike."""
        counts = [1] * len(self._labels)
        counts[-1] = max(len(counts) - 1, 1) if self._has_null else 1
        return FrequencyTable(counts)

    def _best_labels(self, blocks: Sequence[TileArea], ids: Integer[np.ndarray, 'h w k']) -> list[int]:
        """Number of the label with which each block costs the fewest bits."""
        count = len(self._labels)
        tried = range(count) if count <= _TRIED else range(count - 1, count) if self._has_null else range(_TRIED)
        if len(tried) == 1:
            return [tried[0]] * len(blocks)
        cases = [(block, label) for block in blocks for label in tried]
        meters = [Meter() for _ in cases]
        for i in range(0, len(cases), ROWS):
            some = cases[i : i + ROWS]
            labels = [self._labels[label] for _, label in some]
            self._pass([block for block, _ in some], labels, meters[i : i + ROWS], ids)
        bits = [meter.bits + self._label_table.bits(label) for meter, (_, label) in zip(meters, cases, strict=True)]
        return [tried[place] for place in np.reshape(bits, (len(blocks), len(tried))).argmin(1)]

    def _pass(
        self,
        blocks: Sequence[TileArea],
        labels: Sequence[int],
        coders: Sequence[SymbolCoder],
        ids: Integer[np.ndarray, 'h w k'],
    ) -> None:
        """Walks through at most `ROWS` blocks at once, each with a label and a coder.

        Beyond the border of the tile a block has the ids that are likeliest there, which take no bits.
        """
        columns = self.generator.grid[1]

        def choose(state: Any, logits: Any, position: Any, codebook_index: int) -> SampledToken:
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
        decoding.decode(self.generator, self.variables, cond, choose, positions=seen, compiled=False)


@dataclasses.dataclass(frozen=True)
class Probe:
    """What a file says about the probabilities that it was written with.

    Attributes:
      probe: see `NetworkPrior.probe`.
      computer: backend and version of what computed them.
    """

    probe: bytes
    computer: str


def probe_of(header: Header) -> Probe:
    """What the header of a file with a network says.

    Raises:
      BitstreamError: nothing, or too little.
    """
    data = header.feature(FEATURE) or b''
    if len(data) < FINGERPRINT_BYTES:
        raise BitstreamError('the header is damaged: it says nothing about the probabilities of the network')
    computer = data[FINGERPRINT_BYTES:].decode('ascii', 'replace')  # is shown: a line, whatever the file says
    return Probe(data[:FINGERPRINT_BYTES], ''.join(c if c.isprintable() else '?' for c in computer))


def _counts(logits: Float[np.ndarray, 'b K']) -> Int[np.ndarray, 'b K']:
    """Probabilities as integers, to the largest of which 2^31 belongs."""
    logits = logits.astype(np.float64)
    return np.floor(np.exp(logits - logits.max(axis=1, keepdims=True)) * _SCALE).astype(np.int64)


def _computer() -> str:
    return f'{jax.default_backend()}, jaxlib {importlib.metadata.version("jaxlib")}'
