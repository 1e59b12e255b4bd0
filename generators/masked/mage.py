"""MAGE: an encoder over the known tokens, and a decoder that predicts the masked ones.

Li et al., "MAGE: MAsked Generative Encoder to Unify Representation Learning and Image Synthesis", 2023.  It is also the
frozen token predictor of ADDP.
"""

import dataclasses
import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vistok.collectives import replica_draw
from vistok.generators.generator import Condition, Generator, GeneratorLoss, SampleConfig, Variables, class_labels
from vistok.generators.masked.bidirectional import XAVIER, Bidirectional, CodewordHead, table_init
from vistok.generators.masked.masking import (
    MaskedGrid,
    count_masked,
    counts_falling,
    fully_masked,
    ranks,
    reveal,
    sample_normal_shares,
    schedule_share,
)
from vistok.generators.masked.parallel_decoding import (
    DecodingSchedule,
    check_one_codebook,
    drop_labels,
    flat_ids,
    mean_over,
    predict_guided,
    sample_candidates,
)
from vistok.generators.sampling import fold_in_rows, row_keys
from vistok.networks.dropout import Dropout
from vistok.networks.norms import LayerNorm
from vistok.tokenizers.tokenizer import Tokens

SIZES: dict[str, dict[str, int]] = {
    'base': {'width': 768, 'encoder_layers': 12, 'encoder_heads': 12, 'decoder_layers': 8, 'decoder_heads': 16},
    'large': {'width': 1024, 'encoder_layers': 24, 'encoder_heads': 16, 'decoder_layers': 8, 'decoder_heads': 16},
}
"""Published sizes of MAGE and of ADDP, as arguments of both."""


class TokenPredictor(nn.Module):
    """Masked autoencoder that predicts every token from the known tokens and a label.

    The vocabulary consists of the codewords, then the labels, then one mask token.

    Attributes:
      codebook_size: number of codewords, K.
      label_rows: number of labels in the vocabulary.
      cells: tokens of a grid, n.
      width: channels of encoder and decoder.
      encoder_layers: blocks of the encoder.
      encoder_heads: attention heads of the encoder.
      decoder_layers: blocks of the decoder.
      decoder_heads: attention heads of the decoder.
      dropout: dropout rate.
      detached: whether gradients of the logits stop at the token table, see `CodewordHead`.
      remat: whether the backward pass recomputes the blocks.
      dtype: computation type.
    """

    codebook_size: int
    label_rows: int
    cells: int
    width: int
    encoder_layers: int
    encoder_heads: int
    decoder_layers: int
    decoder_heads: int
    dropout: float = 0.1
    detached: bool = True
    remat: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        ids: Int[Array, 'b n'],
        hidden: Bool[Array, 'b n'],
        labels: Int[Array, ' b'],
        seen: Int[Array, 'b m'] | None = None,
        *,
        train: bool = False,
    ) -> Float[Array, 'b n v']:
        """Computes logits over the whole vocabulary.

        Args:
          ids: codeword numbers; arbitrary where tokens are masked.
          hidden: mask of the tokens to predict.
          labels: labels in [0, label_rows).
          seen: indices of the cells that the encoder sees, which include all known ones; None: all cells, masked ones
            as mask tokens.
          train: whether dropout is on.
        """
        rows_init = table_init(self.width)
        table = self.param('tokens', rows_init, (self.codebook_size + self.label_rows + 1, self.width))
        drop = Dropout(self.dropout, deterministic=not train)
        stack = functools.partial(Bidirectional, dropout=self.dropout, remat=self.remat, dtype=self.dtype)

        rows = jnp.where(hidden, table.shape[0] - 1, ids)
        rows = jnp.concatenate([self.codebook_size + labels[:, None], rows], axis=1)
        x = table[rows] + self.param('positions', rows_init, (self.cells + 1, self.width))
        x = drop(LayerNorm(epsilon=1e-6, dtype=self.dtype, name='embedding_norm')(x))
        if seen is not None:
            indices = jnp.concatenate([jnp.zeros_like(seen[:, :1]), seen + 1], axis=1)
            x = jnp.take_along_axis(x, indices[..., None], axis=1)
        x = stack(self.encoder_layers, self.encoder_heads, name='encoder')(x, train=train)

        x = nn.Dense(self.width, dtype=self.dtype, kernel_init=XAVIER, name='between')(x)
        summary = x[:, :1]  # the encoder's output at the label is the decoder's mask token
        if seen is not None:
            everywhere = jnp.broadcast_to(summary, (*rows.shape, self.width))
            x = jax.vmap(lambda full, at, given: full.at[at].set(given))(everywhere, indices, x)
        x = jnp.concatenate([summary, jnp.where(hidden[..., None], summary, x[:, 1:])], axis=1)
        x = x + self.param('decoder_positions', rows_init, (self.cells + 1, self.width)).astype(self.dtype)
        x = stack(self.decoder_layers, self.decoder_heads, name='decoder')(x, train=train)
        return CodewordHead(self.detached, self.dtype, name='head')(x[:, 1:], table)


@dataclasses.dataclass(frozen=True)
class MAGE(Generator):
    """Masked generative encoder: predicts masked tokens, and generates by revealing confident predictions step by step.

    In training at least half of the tokens are masked, and the encoder does not see that half at all.

    Attributes:
      width: channels of the network.
      encoder_layers: blocks of the encoder.
      encoder_heads: attention heads of the encoder.
      decoder_layers: blocks of the decoder.
      decoder_heads: attention heads of the decoder.
      dropout: dropout rate in training.
      label_dropout: share of labels that are dropped in training, for guidance; 1: there are no labels, in samples
        neither, as in the published models.
      label_smoothing: share of the target that is spread over the predicted vocabulary.
      codes_only: whether only codewords are predicted, as in the published models; otherwise also labels and the mask
        token, which never occur as targets.
      detached: whether gradients of the logits stop at the token table, as in the published models; otherwise the table
        is trained as input and output embedding, and small models learn faster.
      label_rows: number of labels in the vocabulary; None: `num_classes` and one null label.
      null_row: index of the null label; None: the last.
      steps: default number of decoding steps.
      schedule: masking schedule of decoding, 'cosine' or 'linear'.
      choice_temperature: factor of the Gumbel noise on confidences, annealed to 0 over the steps.
      remat: whether the backward pass recomputes the blocks.
      dtype: computation type.
    """

    width: int = 768
    encoder_layers: int = 12
    encoder_heads: int = 12
    decoder_layers: int = 8
    decoder_heads: int = 16
    dropout: float = 0.1
    label_dropout: float = 0.1
    label_smoothing: float = 0.1
    codes_only: bool = True
    detached: bool = True
    label_rows: int | None = None
    null_row: int | None = None
    steps: int = 20
    schedule: str = 'cosine'
    choice_temperature: float = 6.0
    remat: bool = False
    dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        check_one_codebook(type(self).__name__, self.spec)

    @property
    def cells(self) -> int:
        """Number of tokens of a grid."""
        return math.prod(self.grid)

    @property
    def network(self) -> TokenPredictor:
        """Masked autoencoder of this generator."""
        return TokenPredictor(
            codebook_size=self.spec.codebook_sizes[0],
            label_rows=self.num_classes + 1 if self.label_rows is None else self.label_rows,
            cells=self.cells,
            width=self.width,
            encoder_layers=self.encoder_layers,
            encoder_heads=self.encoder_heads,
            decoder_layers=self.decoder_layers,
            decoder_heads=self.decoder_heads,
            dropout=self.dropout,
            detached=self.detached,
            remat=self.remat,
            dtype=self.dtype,
        )

    def init(self, rng: jax.Array) -> Variables:
        guess = fully_masked(1, self.cells)
        return dict(self.network.init(rng, guess.ids, guess.hidden, self.label_indices(jnp.zeros((1,), jnp.int32))))

    def label_indices(self, labels: Int[Array, ' b']) -> Int[Array, ' b']:
        """Maps labels, where `num_classes` means none, to indices of the labels in the vocabulary."""
        null = self.num_classes if self.null_row is None else self.null_row
        return jnp.where((labels == self.num_classes) | (self.label_dropout == 1), null, labels)

    def sample_shares(self, rng: jax.Array, rows: int) -> Float[Array, ' b']:
        """Samples the masking ratio of each training sample."""
        return sample_normal_shares(rng, rows, least=self.unseen_share)

    @property
    def unseen_share(self) -> float:
        """Share of tokens that the encoder does not see in training."""
        return 0.5

    def loss(
        self,
        variables: Variables,
        tokens: Tokens,
        cond: Condition,
        rng: jax.Array,
        *,
        train: bool,
    ) -> GeneratorLoss:
        """Computes the cross-entropy of masked tokens; 'hidden_bits' is without smoothing, in bits per masked token."""
        ids = flat_ids(tokens)
        share_rng, noise_rng, label_rng, dropout_rng = jax.random.split(rng, 4)
        noise = replica_draw(lambda rows: jax.random.uniform(noise_rng, (rows, self.cells)), len(ids))
        shares = replica_draw(lambda rows: self.sample_shares(share_rng, rows), len(ids))
        order = ranks(noise)
        hidden = order < count_masked(shares, self.cells)[:, None]
        seen = jnp.argsort(order, axis=-1)[:, math.ceil(self.cells * self.unseen_share) :]
        labels = class_labels(cond)
        if train:
            labels = drop_labels(labels, label_rng, self.label_dropout, self.num_classes)
        logits: Any = self.network.apply(
            {'params': variables['params']},
            ids,
            hidden,
            self.label_indices(labels),
            seen if self.unseen_share else None,
            train=train,
            rngs={'dropout': dropout_rng},
        )
        if self.codes_only:
            logits = logits[..., : self.spec.codebook_sizes[0]]
        logs = jax.nn.log_softmax(logits)
        nll = -jnp.take_along_axis(logs, ids[..., None], axis=-1)[..., 0]
        smooth = (1 - self.label_smoothing) * nll - self.label_smoothing * logs.mean(axis=-1)
        return GeneratorLoss(mean_over(smooth, hidden), {'hidden_bits': mean_over(nll, hidden) / math.log(2)})

    def logits(
        self, variables: Variables, guess: MaskedGrid, labels: Int[Array, ' b'], scale: Float[Array, ''] | None
    ) -> Float[Array, 'b n K']:
        """Computes the logits of the codewords, with guidance where a scale is given."""

        def predict(guess: MaskedGrid, labels: jax.Array) -> jax.Array:
            params = {'params': variables['params']}
            logits: Any = self.network.apply(params, guess.ids, guess.hidden, self.label_indices(labels))
            return logits

        return predict_guided(predict, guess, labels, self.num_classes, scale)[..., : self.spec.codebook_sizes[0]]

    def sample(
        self,
        variables: Variables,
        cond: Condition,
        rng: jax.Array,
        sample_ids: Int[Array, ' b'],
        config: SampleConfig,
    ) -> Tokens:
        """Samples by MaskGIT's parallel decoding; a 'position' of the guidance schedule is a step."""
        labels, keys = class_labels(cond), row_keys(rng, sample_ids)
        schedule = DecodingSchedule.from_counts(
            counts_falling(self.cells, config.steps or self.steps, self.schedule), config
        )

        def step(guess: MaskedGrid, at: DecodingSchedule) -> tuple[MaskedGrid, None]:
            scale = None if config.guidance_scale == 1 else at.guidance
            logits = self.logits(variables, guess, labels, scale)
            candidates = sample_candidates(logits, fold_in_rows(keys, at.step), config)
            noise = self.choice_temperature * at.annealing * candidates.noise
            return reveal(guess, logits, candidates.drawn, noise, at.count), None

        guess, _ = jax.lax.scan(step, fully_masked(len(labels), self.cells), schedule)
        return Tokens(guess.ids.reshape(-1, *self.grid, 1))

    def inpaint(
        self, variables: Variables, tokens: Tokens, known: Bool[Array, 'b h w'], cond: Condition, *, steps: int = 0
    ) -> Tokens:
        """Fills the unknown cells with the most likely ids, the most confident first, and keeps the known ones.

        Deterministic: nothing is sampled.

        Args:
          variables: as `init` gives them.
          tokens: ids; those of unknown cells do not matter.
          known: mask of the known cells.
          cond: class of each row; `num_classes` means no condition.
          steps: number of decoding steps; 0: as many as `sample` takes.
        """
        labels, hidden = class_labels(cond), ~known.reshape(len(known), -1)
        steps = steps or self.steps
        shares = [schedule_share(self.schedule, (step + 1) / steps) for step in range(steps - 1)]
        unknown = hidden.sum(axis=1, keepdims=True)

        def step(guess: MaskedGrid, share: jax.Array) -> tuple[MaskedGrid, None]:
            logits = self.logits(variables, guess, labels, None)
            likeliest = jnp.argmax(logits, axis=-1).astype(jnp.int32)
            count = jnp.floor(unknown * share).astype(jnp.int32)
            return reveal(guess, logits, likeliest, jnp.zeros(hidden.shape), count), None

        start = MaskedGrid(flat_ids(tokens).astype(jnp.int32), hidden)
        guess, _ = jax.lax.scan(step, start, jnp.asarray([*shares, 0.0]))
        return Tokens(guess.ids.reshape(-1, *self.grid, 1))
