"""DQ-Transformer: autoregression over where the next code lies and what it is, from coarse grains to fine ones.

Huang et al., "Towards Accurate Image Coding: Improved Autoregressive Image Generation with Dynamic Vector Quantization"
(2023).  A stack of blocks reads the pairs so far and predicts the next position; a second stack reads the output of the
first, with the next position added, and predicts the content there.
"""

import dataclasses
import math
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vistok.collectives import replica_mean
from vistok.errors import UserError
from vistok.generators.autoregressive import kv_cache
from vistok.generators.autoregressive.decoding import DecodeStep, sample_sequences
from vistok.generators.autoregressive.grain_grammar import GrainGrammar
from vistok.generators.autoregressive.grain_network import GrainNetwork
from vistok.generators.autoregressive.grain_sequence import GrainSequence, GrainSequences
from vistok.generators.autoregressive.kv_cache import KVCache
from vistok.generators.autoregressive.transformer import DecoderState
from vistok.generators.cross_entropy import cross_entropy
from vistok.generators.generator import (
    Condition,
    Generator,
    GeneratorLoss,
    SampleConfig,
    Variables,
    class_labels,
    draw_dropped,
    require_null_condition,
)
from vistok.generators.sampling import row_keys
from vistok.tokenizers.tokenizer import Tokens

_FORBIDDEN = -1e30  # logit of ids that must not follow; finite, so that guidance, a difference of logits, stays finite


@flax.struct.dataclass
class GrainCache:
    """Decoding cache of DQ-Transformer.

    Attributes:
      place: number of the newest pair of the sequence, a scalar.
      labels: class of each row, `[r]`.
      sequence: pairs so far, `[r, n]`, with class 0 in the starts and without contents, which are the decoded ids.
      covered: cells of the finest grid that have an id, `[r, cells]`.
      finished: rows that have nothing but padding from here on, `[r]`.
      features: output of the position stack after the newest pair, `[r, 1, d]`.
      position_cache: of the position stack.
      content_cache: of the content stack.
    """

    place: Any
    labels: Any
    sequence: GrainSequence
    covered: Any
    finished: Any
    features: Any
    position_cache: KVCache
    content_cache: KVCache


@dataclasses.dataclass(frozen=True)
class DQTransformer(Generator):
    """Autoregressive generator of (position, content) pairs, for tokenizers with two or more grains.

    The paper has two grains.  Differences from its code: unless `layout` is 'official', symbols that follow from the
    sequence so far (starts, and the content of an end) are neither learned nor counted, and padding comes at the end
    only; the last cell may be coarse like any other; the last segment ends when the grid is covered and not before;
    sampling gives the content stack the same positions as training does.

    Attributes:
      position_layers, content_layers: blocks of the two stacks.
      heads, width, remat, dtype: of the blocks.
      dropout: dropout rate of inputs and blocks in training.
      attention_dropout: dropout rate of attention weights in training.
      condition_dropout: share of training samples whose class is dropped; 0 learns no null class.
      order: order of the cells in a segment; see `GrainSequences`.
      layout: layout of the sequences; see `GrainSequences`.
      finest_positions: 'drawn': positions of the last segment are sampled too; 'remaining': the cells that remain are
        taken in order, and only their contents are sampled.
      position_weight: weight of the cross-entropy of positions, relative to that of contents.
      position_sizes: cells that the position vocabularies have room for; None: those of `grid`.
      place_rows: rows of the table of sequence indices; None: as many as are needed.
    """

    position_layers: int = 6
    content_layers: int = 18
    heads: int = 8
    width: int = 1024
    dropout: float = 0.1
    attention_dropout: float = 0.0
    condition_dropout: float = 0.1
    order: str = 'row'
    layout: str = 'compact'
    finest_positions: str = 'drawn'
    position_weight: float = 1.0
    remat: bool = False
    dtype: Any = jnp.float32
    position_sizes: tuple[int, ...] | None = None
    place_rows: int | None = None

    def __post_init__(self) -> None:
        grammar = self.grammar
        if self.place_rows is not None and self.place_rows < grammar.sequences.index_rows:
            raise UserError(f'a grid of {self.grid} needs {grammar.sequences.index_rows} places, got {self.place_rows}')

    @property
    def sequences(self) -> GrainSequences:
        """Serialization of token grids as sequences of pairs."""
        return GrainSequences.of(
            self.spec,
            self.grid,
            self.num_classes + (self.condition_dropout > 0),
            position_sizes=self.position_sizes,
            order=self.order,
            layout=self.layout,
        )

    @property
    def grammar(self) -> GrainGrammar:
        """Rules of what may follow in a sequence."""
        return GrainGrammar(self.sequences, self.finest_positions)

    @property
    def network(self) -> GrainNetwork:
        """Network of two stacks."""
        sequences = self.sequences
        return GrainNetwork(
            contents=sequences.contents.total,
            positions=tuple(words.total for words in sequences.positions),
            index_rows=self.place_rows or sequences.index_rows,
            position_layers=self.position_layers,
            content_layers=self.content_layers,
            heads=self.heads,
            width=self.width,
            dropout=self.dropout,
            attention_dropout=self.attention_dropout,
            remat=self.remat,
            dtype=self.dtype,
        )

    def init(self, rng: jax.Array) -> Variables:
        two = jnp.zeros((1, 2), jnp.int32)
        variables: Any = self.network.init(rng, GrainSequence(two, two, two, two), method='logits')
        return variables

    def _apply(self, variables: Variables, method: str, *args: Any, **kwargs: Any) -> Any:
        return self.network.apply(variables, *args, method=method, **kwargs)

    def loss(
        self,
        variables: Variables,
        tokens: Tokens,
        cond: Condition,
        rng: jax.Array,
        *,
        train: bool,
    ) -> GeneratorLoss:
        """Computes the mean cross-entropy of contents plus that of positions, the latter averaged over segments.

        Metrics, in nats: 'content', 'position', 'position/grain_2', ...; 'bits_per_token' is the total of positions and
        contents divided by the number of codes.
        """
        labels = class_labels(cond)
        for_drop, for_network = jax.random.split(rng)
        if train and self.condition_dropout:
            dropped = draw_dropped(for_drop, self.condition_dropout, len(labels))
            labels = jnp.where(dropped, self.num_classes, labels)
        sequences = self.sequences
        sequence = sequences.encode(tokens, labels)
        inputs = self._apply(variables, 'head_inputs', sequence, train=train, rngs={'dropout': for_network})
        nll = {
            kind: cross_entropy(x, variables['params'][f'{kind}_head']['kernel'], getattr(sequence, kind)[:, 1:]).nll
            for kind, x in inputs.items()
        }

        cell = sequences.is_cell(sequence)[:, 1:]
        words = jnp.asarray([[v.pad, v.end] for v in sequences.positions])[sequence.segment[:, 1:]]
        position, segment = sequence.position[:, 1:], sequence.segment[:, 1:]
        if self.layout == 'official':
            content_counts = sequence.content[:, 1:] != sequences.contents.pad
            position_counts = position != words[..., 0]
        else:
            content_counts, position_counts = cell, cell | (position == words[..., 1])

        content = _mean(nll['content'], content_counts)
        by_segment = [_mean(nll['position'], position_counts & (segment == p)) for p in range(sequences.num_segments)]
        position_loss = jnp.mean(jnp.stack(by_segment))
        total = jnp.where(cell, nll['content'], 0).sum()
        total += jnp.where(cell | (position == words[..., 1]), nll['position'], 0).sum()
        codes = replica_mean(cell.sum().astype(jnp.float32))
        return GeneratorLoss(
            content + self.position_weight * position_loss,
            {
                'bits_per_token': total / (codes * math.log(2)),
                'content': content,
                'position': position_loss,
                **{f'position/grain_{grain}': x for grain, x in zip(sequences.grains, by_segment, strict=True)},
            },
        )

    @property
    def positions(self) -> int:
        """Length of the longest sequence, in pairs."""
        return self.sequences.length

    @property
    def ids_per_position(self) -> int:
        """Two ids for each pair: its position, then its content."""
        return 2

    def init_cache(self, variables: Variables, cond: Condition) -> GrainCache:
        """Returns the cache of sequences that consist of a start."""
        labels = class_labels(cond)
        rows = len(labels)
        caches = [
            kv_cache.empty(layers, rows, self.heads, self.positions, self.width // self.heads, self.dtype)
            for layers in (self.position_layers, self.content_layers)
        ]
        return GrainCache(
            jnp.zeros((), jnp.int32),
            labels,
            self.grammar.begin(rows),
            jnp.zeros((rows, math.prod(self.grid)), bool),
            jnp.zeros((rows,), bool),
            jnp.zeros((rows, 1, self.width), self.dtype),
            *caches,
        )

    def step(
        self, variables: Variables, cache: GrainCache, ids: Int[Array, 'b two'], codebook_index: int
    ) -> DecodeStep:
        """Computes the logits of the next pair's position (codebook index 0), or of its content (1).

        Args:
          variables: as `init` gives them.
          cache: of `init_cache` or of the step before.
          ids: position and content of the newest pair; for the content, the next pair's position is in column 0.
          codebook_index: 0 or 1.
        """
        if codebook_index == 0:
            return self._position_step(variables, cache, ids[:, 1])
        return self._content_step(variables, cache, ids[:, 0])

    def _position_step(self, variables: Variables, cache: GrainCache, content: Int[Array, ' b']) -> DecodeStep:
        grammar, place = self.grammar, cache.place
        newest = grammar.fill_contents(_pair(cache.sequence, place), content[:, None])
        covered = cache.covered | grammar.covered_cells(newest)
        pairs = grammar.with_labels(newest, cache.labels)
        state = self._apply(variables, 'position_features', pairs, cache.position_cache, place)
        logits = self._apply(variables, 'position_logits', state.x[:, 0])
        allowed = grammar.position_mask(covered, newest.segment[:, 0])
        cache = dataclasses.replace(cache, covered=covered, features=state.x, position_cache=state.cache)
        return DecodeStep(cache, jnp.where(allowed, logits, _FORBIDDEN))

    def _content_step(self, variables: Variables, cache: GrainCache, position: Int[Array, ' b']) -> DecodeStep:
        grammar, place = self.grammar, cache.place
        newest = _pair(cache.sequence, place)
        following = grammar.next_pairs(newest, position, cache.finished)
        given = grammar.with_labels(following, cache.labels)
        state = DecoderState(cache.features, cache.content_cache)
        state = self._apply(variables, 'content_features', state, given.position, given.segment, place)
        logits = self._apply(variables, 'content_logits', state.x[:, 0])
        codeword = jnp.arange(logits.shape[-1]) < grammar.sequences.contents.size
        cache = dataclasses.replace(
            cache,
            place=place + 1,
            sequence=jax.tree.map(
                lambda x, new: jax.lax.dynamic_update_slice_in_dim(x, new, place + 1, axis=1),
                cache.sequence,
                following,
            ),
            finished=grammar.finished_rows(newest, cache.finished),
            content_cache=state.cache,
        )
        return DecodeStep(cache, jnp.where(codeword, logits, _FORBIDDEN))

    def finished_rows(self, cache: GrainCache) -> Bool[Array, ' b']:
        """Returns which rows have nothing but padding from here on."""
        return cache.finished

    def sample(
        self,
        variables: Variables,
        cond: Condition,
        rng: jax.Array,
        sample_ids: Int[Array, ' b'],
        config: SampleConfig,
    ) -> Tokens:
        """Samples pair by pair; `config.second` has the options for positions.

        `second=None` samples positions at the same temperature and guidance, without top-k and top-p.  Rows are
        independent of each other, in the official layout too: a sampled row has no padding before its end.
        """
        return self.sequences.decode(self.sample_sequence(variables, cond, rng, sample_ids, config))

    def sample_sequence(
        self,
        variables: Variables,
        cond: Condition,
        rng: jax.Array,
        sample_ids: Int[Array, ' b'],
        config: SampleConfig,
    ) -> GrainSequence:
        """Samples the pairs that `sample` turns into grids; the starts have class 0."""
        labels, b = class_labels(cond), len(sample_ids)
        position_config = config.second or SampleConfig(
            temperature=config.temperature,
            guidance_scale=config.guidance_scale,
            guidance_schedule=config.guidance_schedule,
            guidance_interval=config.guidance_interval,
            guidance_power=config.guidance_power,
        )
        null = None
        if config.guidance_scale != 1 or position_config.guidance_scale != 1:
            require_null_condition(self.condition_dropout)
            null = jnp.full_like(labels, self.num_classes)
        keys, configs = row_keys(rng, sample_ids), (position_config, config)
        last = self.positions - 1  # pairs to decode: the start is given
        result = sample_sequences(self, variables, labels, null, keys, configs, positions=last)
        sequence = jax.tree.map(lambda x: x[:b], result.cache.sequence)
        return self.grammar.fill_contents(sequence, jnp.pad(result.ids[:b, :, 1], ((0, 0), (1, 0))))


def _pair(sequence: GrainSequence, place: Int[Array, '']) -> GrainSequence:
    """Returns the pairs `[b, 1]` at a place of the sequences."""
    return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, place, 1, axis=1), sequence)


def _mean(values: Float[Array, 'b n'], counted: Bool[Array, 'b n']) -> Float[Array, '']:
    """Averages the counted values over the whole batch, 0 if none count; replicas return parts whose mean this is."""
    count = replica_mean(counted.sum().astype(jnp.float32))  # can lie between 0 and 1
    return jnp.where(counted, values, 0).sum() / jnp.where(count > 0, count, 1)
