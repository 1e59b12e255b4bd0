"""DQ-Transformer: where the next code lies, then what it is, from coarse grains to fine ones.

Huang et al., "Towards Accurate Image Coding: Improved Autoregressive Image Generation with Dynamic Vector Quantization"
(2023).  A stack of blocks reads the pairs so far and predicts the next position; a second stack reads what the first
says, with the next position added, and predicts the content there.
"""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vistok.collectives import replica_mean
from vistok.errors import UserError
from vistok.generators.autoregressive import kv_cache
from vistok.generators.autoregressive.grain_grammar import GrainGrammar
from vistok.generators.autoregressive.grain_sequence import GrainSequence, GrainSequences
from vistok.generators.autoregressive.kv_cache import KVCache
from vistok.generators.autoregressive.transformer import NORMAL, CausalTransformer, DecoderState, Linear, causal_context
from vistok.generators.cross_entropy import cross_entropy
from vistok.generators.generator import Condition, Generator, GeneratorLoss, SampleConfig, Variables, class_labels
from vistok.generators.sampling import at_position, draw, guidance_scales, guide, row_keys
from vistok.tokenizers.tokenizer import Tokens


class GrainNetwork(nn.Module):
    """The network of `DQTransformer`, which see.

    Attributes:
      contents: rows of the table of contents, specials included.
      positions: rows of the table of positions of each part.
      places: rows of the table of places in the sequence.
    """

    contents: int
    positions: tuple[int, ...]
    places: int
    position_layers: int
    content_layers: int
    heads: int
    width: int
    dropout: float
    remat: bool
    dtype: Any

    def setup(self) -> None:
        """Tables, the two stacks, and a head for each."""
        rows = {'contents': self.contents, 'places': self.places, 'parts': len(self.positions)}
        self.tables = {name: self.param(name, NORMAL, (count, self.width)) for name, count in rows.items()}
        self.position_tables = [
            self.param(f'positions_{segment}', NORMAL, (count, self.width))
            for segment, count in enumerate(self.positions)
        ]
        self.drop = nn.Dropout(self.dropout)
        self.position_stack = self._stack(self.position_layers)
        self.content_stack = self._stack(self.content_layers)
        self.position_norm = nn.LayerNorm(epsilon=1e-5, dtype=self.dtype)
        self.content_norm = nn.LayerNorm(epsilon=1e-5, dtype=self.dtype)
        self.position_head = Linear(self.positions[-1], dtype=self.dtype, result=jnp.float32)
        self.content_head = Linear(self.contents, dtype=self.dtype, result=jnp.float32)

    def _stack(self, layers: int) -> CausalTransformer:
        return CausalTransformer(layers, self.heads, None, 'gpt', self.dropout, self.remat, self.dtype)

    def position_vectors(self, position: Int[Array, 'b n'], segment: Int[Array, 'b n']) -> Float[Array, 'b n d']:
        """Each part has a table of its own; the head is shared and has the size of the last part's."""
        offsets = jnp.asarray([sum(self.positions[:i]) for i in range(len(self.positions))])
        return jnp.concatenate(self.position_tables)[offsets[segment] + position]

    def read(self, pairs: GrainSequence, cache: KVCache | None, first: Any, *, train: bool = False) -> DecoderState:
        """What the position stack says after each of n pairs.

        Args:
          pairs: of a whole sequence, or the next ones.
          cache: of the pairs before; None for a whole sequence.
          first: place of the first pair in the cache.
          train: whether dropout is on.
        """
        x = self.tables['contents'][pairs.content] + self.position_vectors(pairs.position, pairs.segment)
        x = x + self.tables['places'][pairs.index] + self.tables['parts'][pairs.segment]
        x = self.drop(x.astype(self.dtype), deterministic=not train)
        return self._through(self.position_stack, DecoderState(x, cache), first, train)

    def look(
        self,
        hidden: DecoderState,
        position: Int[Array, 'b n'],
        segment: Int[Array, 'b n'],
        first: Any,
        *,
        train: bool = False,
    ) -> DecoderState:
        """What the content stack says when it is told the positions of the pairs that follow.

        Args:
          hidden: what the position stack said, and the content stack's own cache.
          position: of each next pair.
          part: of each next pair.
          first: place of the first pair in the cache.
          train: whether dropout is on.
        """
        x = hidden.x + self.position_vectors(position, segment).astype(self.dtype)
        return self._through(self.content_stack, DecoderState(x, hidden.cache), first, train)

    def _through(self, stack: CausalTransformer, stream: DecoderState, first: Any, train: bool) -> DecoderState:
        n = stream.x.shape[1]
        capacity = n if stream.cache is None else stream.cache.capacity
        return stack(stream, causal_context(first, n, capacity), train=train)

    def head_inputs(self, sequence: GrainSequence, *, train: bool = False) -> dict[str, Float[Array, 'b m d']]:
        """What the heads see after all pairs but the last: 'position' and 'content' of the next pair."""
        before = jax.tree.map(lambda x: x[:, :-1], sequence)
        hidden = self.read(before, None, 0, train=train)
        seen = self.look(hidden, sequence.position[:, 1:], sequence.segment[:, 1:], 0, train=train)
        return {'position': self.position_norm(hidden.x), 'content': self.content_norm(seen.x)}

    def logits(self, sequence: GrainSequence) -> dict[str, Float[Array, 'b m K']]:
        """Logits of the next pair's position and content; for small cases only."""
        head_inputs = self.head_inputs(sequence)
        return {
            'position': self.position_head(head_inputs['position']),
            'content': self.content_head(head_inputs['content']),
        }

    def position_logits(self, hidden: Float[Array, 'b d']) -> Float[Array, 'b K']:
        """From what the position stack says."""
        return self.position_head(self.position_norm(hidden))

    def content_logits(self, seen: Float[Array, 'b d']) -> Float[Array, 'b K']:
        """From what the content stack says."""
        return self.content_head(self.content_norm(seen))


@flax.struct.dataclass
class _Walk:
    """What sampling carries from pair to pair.

    Attributes:
      place: of the newest pair.
      sequence: the pairs so far, with class 0 in the starts.
      covered: cells of the finest grid that have an id.
      done: whether a row has ended.
      position_cache: of the position stack.
      content_cache: of the content stack.
    """

    place: Any
    sequence: GrainSequence
    covered: Any
    done: Any
    position_cache: KVCache
    content_cache: KVCache


@dataclasses.dataclass(frozen=True)
class DQTransformer(Generator):
    """Pairs of position and content, over the tokens of a tokenizer with two or more grains.

    The paper has two grains.  Differences from its code: dropout is not applied to attention weights; unless `layout`
    is 'official', what follows from the sequence so far (starts, and the content of an end) is neither learned nor
    counted, and padding comes at the end only; the last cell may be coarse like any other; the last part ends when the
    grid is covered and not before; in sampling the content stack is told the same positions as in training.

    Attributes:
      position_layers, content_layers: blocks of the two stacks.
      heads, width, remat, dtype: of the blocks.
      dropout: in training.
      condition_dropout: share of training samples whose class is dropped; 0 learns no null class.
      order: of the cells in a part; see `GrainSequences`.
      layout: of the sequences; see `GrainSequences`.
      finest_positions: in sampling, whether the positions of the last part are 'drawn' too, or the 'remaining' ones are
        taken in order, and only their contents are drawn.
      position_weight: weight of the cross-entropy of positions; that of contents has 1.
      position_sizes: cells that the vocabularies of positions have room for; None: those of `grid`.
      place_rows: rows of the table of places; None: as many as are needed.
    """

    position_layers: int = 6
    content_layers: int = 18
    heads: int = 8
    width: int = 1024
    dropout: float = 0.1
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
        if self.place_rows is not None and self.place_rows < grammar.sequences.places:
            raise UserError(f'a grid of {self.grid} needs {grammar.sequences.places} places, got {self.place_rows}')

    @property
    def sequences(self) -> GrainSequences:
        """How grids are written."""
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
        """What may follow what."""
        return GrainGrammar(self.sequences, self.finest_positions)

    @property
    def network(self) -> GrainNetwork:
        """The network."""
        sequences = self.sequences
        return GrainNetwork(
            contents=sequences.contents.total,
            positions=tuple(words.total for words in sequences.positions),
            places=self.place_rows or sequences.places,
            position_layers=self.position_layers,
            content_layers=self.content_layers,
            heads=self.heads,
            width=self.width,
            dropout=self.dropout,
            remat=self.remat,
            dtype=self.dtype,
        )

    def init(self, rng: jax.Array) -> Variables:
        """Fresh variables."""
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
        """Mean cross-entropy of contents plus that of positions, the latter a mean over the parts.

        Metrics, in nats: 'content', 'position', 'position/grain_2', ...; 'bits_per_token' divides what all positions
        and contents cost by the number of codes.
        """
        labels = class_labels(cond)
        for_drop, for_network = jax.random.split(rng)
        if train and self.condition_dropout:
            dropped = jax.random.bernoulli(for_drop, self.condition_dropout, labels.shape)
            labels = jnp.where(dropped, self.num_classes, labels)
        sequences = self.sequences
        sequence = sequences.sequence(tokens, labels)
        head_inputs = self._apply(variables, 'head_inputs', sequence, train=train, rngs={'dropout': for_network})
        nll = {
            kind: cross_entropy(x, variables['params'][f'{kind}_head']['kernel'], getattr(sequence, kind)[:, 1:]).nll
            for kind, x in head_inputs.items()
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
        by_part = [_mean(nll['position'], position_counts & (segment == p)) for p in range(sequences.num_segments)]
        of_positions = jnp.mean(jnp.stack(by_part))
        whole = jnp.where(cell, nll['content'], 0).sum()
        whole += jnp.where(cell | (position == words[..., 1]), nll['position'], 0).sum()
        codes = replica_mean(cell.sum().astype(jnp.float32))
        return GeneratorLoss(
            content + self.position_weight * of_positions,
            {
                'bits_per_token': whole / (codes * math.log(2)),
                'content': content,
                'position': of_positions,
                **{f'position/grain_{grain}': x for grain, x in zip(sequences.grains, by_part, strict=True)},
            },
        )

    def sample(
        self,
        variables: Variables,
        cond: Condition,
        rng: jax.Array,
        sample_ids: Int[Array, ' b'],
        config: SampleConfig,
    ) -> Tokens:
        """See `Generator.sample`; `config.second` is how positions are drawn (None: at the same temperature, from all).

        Every row stands alone, in the official layout too: it has no padding before its end.
        """
        return self.sequences.tokens(self.sample_sequence(variables, cond, rng, sample_ids, config))

    def sample_sequence(
        self,
        variables: Variables,
        cond: Condition,
        rng: jax.Array,
        sample_ids: Int[Array, ' b'],
        config: SampleConfig,
    ) -> GrainSequence:
        """The pairs that `sample` turns into a grid; the starts have class 0."""
        labels = class_labels(cond)
        of_positions = config.second or SampleConfig(
            temperature=config.temperature,
            guidance_scale=config.guidance_scale,
            guidance_schedule=config.guidance_schedule,
            guidance_interval=config.guidance_interval,
            guidance_power=config.guidance_power,
        )
        guided = config.guidance_scale != 1 or of_positions.guidance_scale != 1
        if guided and not self.condition_dropout:
            raise UserError('guidance needs a generator that was trained with condition_dropout above 0')
        grammar, b = self.grammar, len(sample_ids)
        if guided:
            labels = jnp.concatenate([labels, jnp.full_like(labels, self.num_classes)])
        keys = row_keys(rng, sample_ids)
        length = grammar.sequences.length
        scales = {how: jnp.asarray(guidance_scales(how, length)) for how in {config, of_positions}}

        def chosen(logits: jax.Array, allowed: jax.Array, how: SampleConfig, place: jax.Array, kind: int) -> jax.Array:
            if guided:
                logits = guide(logits, scales[how][place])
            return draw(jnp.where(allowed, logits, -jnp.inf), at_position(keys, 2 * place + kind), how)

        def body(walk: _Walk) -> _Walk:
            place = walk.place
            newest = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, place, 1, axis=1), walk.sequence)
            pairs = grammar.with_labels(newest, labels)
            hidden = self._apply(variables, 'read', pairs, walk.position_cache, place)
            logits = self._apply(variables, 'position_logits', hidden.x[:, 0])
            drawn = chosen(logits, grammar.allowed(walk.covered, newest.segment[:, 0]), of_positions, place, 0)

            following = grammar.next(newest, drawn, walk.done)
            told = grammar.with_labels(following, labels)
            stream = DecoderState(hidden.x, walk.content_cache)
            seen = self._apply(variables, 'look', stream, told.position, told.segment, place)
            logits = self._apply(variables, 'content_logits', seen.x[:, 0])
            ids = jnp.arange(logits.shape[-1]) < grammar.sequences.contents.size
            following = grammar.fill_contents(following, chosen(logits, ids, config, place, 1))
            return _Walk(
                place + 1,
                jax.tree.map(
                    lambda x, new: jax.lax.dynamic_update_slice_in_dim(x, new, place + 1, axis=1),
                    walk.sequence,
                    following,
                ),
                walk.covered | grammar.covered_cells(following),
                grammar.is_finished(newest, walk.done),
                hidden.cache,
                seen.cache,
            )

        caches = [
            kv_cache.empty(layers, len(labels), self.heads, length, self.width // self.heads, self.dtype)
            for layers in (self.position_layers, self.content_layers)
        ]
        covered, done = jnp.zeros((b, math.prod(self.grid)), bool), jnp.zeros((b,), bool)
        begin = _Walk(jnp.zeros((), jnp.int32), grammar.begin(b), covered, done, *caches)
        return jax.lax.while_loop(lambda walk: (walk.place < length - 1) & ~walk.done.all(), body, begin).sequence


def _mean(values: Float[Array, 'b n'], counted: Bool[Array, 'b n']) -> Float[Array, '']:
    """Over those counted in the whole batch, as a mean over replicas gives it."""
    return jnp.where(counted, values, 0).sum() / jnp.maximum(replica_mean(counted.sum().astype(jnp.float32)), 1)
