"""ADDP: tokens are decoded to pixels, a vision transformer looks at the pixels, and new tokens are predicted.

Tian et al., "ADDP: Learning General Representations for Image Recognition and Generation with Alternating Denoising
Diffusion Process", 2024.
"""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import flax.struct
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from vistok.errors import UserError
from vistok.generators.generator import Condition, Generator, GeneratorLoss, SampleConfig, Variables, class_labels
from vistok.generators.masked.bidirectional import XAVIER, Bidirectional, CodewordHead, table_init
from vistok.generators.masked.mage import MAGE
from vistok.generators.masked.masking import (
    MaskedGrid,
    NestedMasks,
    all_hidden,
    counts_rounded_up,
    draw_nested_masks,
    reveal,
    share_grid,
)
from vistok.generators.masked.parallel_decoding import (
    Candidates,
    DecodingSchedule,
    check_one_codebook,
    drop_labels,
    flat_ids,
    guided,
    mean_over,
    sample_candidates,
)
from vistok.generators.sampling import at_position, row_keys
from vistok.tokenizers.tokenizer import Tokenizer, Tokens
from vistok.training.initialization import InitialData

_MEAN = np.array([0.485, 0.456, 0.406], np.float32)  # of ImageNet's pixels in [0, 1]
_DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)


def _patch_init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """As that of the dense layer it is."""
    return XAVIER(key, (math.prod(shape[:-1]), shape[-1]), dtype).reshape(shape)


class PixelEncoder(nn.Module):
    """A vision transformer: a feature of each patch, after one of the whole image.

    Attributes:
      cells: patches of an image, n.
      patch: their side in pixels.
      width: of the features.
      layers: blocks.
      heads: attention heads.
      dropout: everywhere.
      remat: whether a backward pass computes the blocks again.
      dtype: computation type.
    """

    cells: int
    patch: int
    width: int
    layers: int
    heads: int
    dropout: float = 0.1
    remat: bool = False
    dtype: Any = jnp.float32

    def setup(self) -> None:
        """Builds the layers and tables."""
        sides = (self.patch, self.patch)
        self.patches = nn.Conv(self.width, sides, sides, 'VALID', dtype=self.dtype, kernel_init=_patch_init)
        self.embedding_norm = nn.LayerNorm(epsilon=1e-6, dtype=self.dtype)
        self.drop = nn.Dropout(self.dropout)
        self.blocks = Bidirectional(self.layers, self.heads, self.dropout, self.remat, self.dtype)
        self.image = self.param('image', table_init(self.width), (self.width,))
        self.positions = self.param('positions', table_init(self.width), (self.cells + 1, self.width))

    def embed(self, images: Float[Array, 'b H W 3'], *, train: bool = False) -> Float[Array, 'b m d']:
        """What the first block sees."""
        pixels = (jnp.clip((images + 1) / 2, 0, 1) - _MEAN) / _DEVIATION
        x = self.patches(pixels).reshape(len(images), -1, self.width)
        whole = jnp.broadcast_to(self.image.astype(self.dtype), (len(x), 1, self.width))
        x = jnp.concatenate([whole, x], axis=1) + self.positions.astype(self.dtype)
        return self.drop(self.embedding_norm(x), deterministic=not train)

    def __call__(self, images: Float[Array, 'b H W 3'], *, train: bool = False) -> Float[Array, 'b m d']:
        """Features of `images` in [-1, 1] (values outside are cut off)."""
        return self.blocks(self.embed(images, train=train), train=train)


class ADDPNetwork(nn.Module):
    """Logits of hidden tokens, from an image and the reliable tokens.

    The decoder sees, at every cell, the encoder's feature if the token there is reliable, else a mask vector, and after
    these the vectors of the reliable tokens.  So the image counts only where tokens are reliable.

    Attributes:
      codebook_size: codewords, K.
      label_rows: labels in the vocabulary, which lie behind the codewords; behind them is one more row.
      cells: tokens of a grid, n.
      patch: pixels per cell along one side.
      width: of both halves.
      encoder_layers: blocks of the encoder.
      encoder_heads: their attention heads.
      decoder_layers: blocks of the decoder.
      decoder_heads: their attention heads.
      dropout: everywhere.
      detached: whether the head leaves the table of tokens alone, see `CodewordHead`.
      remat: whether a backward pass computes the blocks again.
      dtype: computation type.
    """

    codebook_size: int
    label_rows: int
    cells: int
    patch: int
    width: int
    encoder_layers: int
    encoder_heads: int
    decoder_layers: int
    decoder_heads: int
    dropout: float = 0.1
    detached: bool = True
    remat: bool = False
    dtype: Any = jnp.float32

    def setup(self) -> None:
        """Builds the layers and tables."""
        stack = {'dropout': self.dropout, 'remat': self.remat, 'dtype': self.dtype}
        self.encoder = PixelEncoder(
            self.cells, self.patch, self.width, self.encoder_layers, self.encoder_heads, **stack
        )
        self.between = nn.Dense(self.width, dtype=self.dtype, kernel_init=XAVIER)
        self.decoder = Bidirectional(self.decoder_layers, self.decoder_heads, **stack)
        self.head = CodewordHead(self.detached, self.dtype)
        rows_init = table_init(self.width)
        self.tokens = self.param('tokens', rows_init, (self.codebook_size + self.label_rows + 1, self.width))
        self.mask = self.param('mask', rows_init, (self.width,))
        # Row 0 is that of the whole image, or of no cell.
        places = (self.cells + 1, self.width)
        self.known_positions = self.param('known_positions', rows_init, places)
        self.hidden_positions = self.param('hidden_positions', rows_init, places)
        self.token_positions = self.param('token_positions', rows_init, places)

    def __call__(
        self,
        images: Float[Array, 'b H W 3'],
        guess: MaskedGrid,
        labels: Int[Array, ' b'],
        *,
        train: bool = False,
    ) -> Float[Array, 'b n v']:
        """Logits over the whole vocabulary, at every cell.

        Args:
          images: in [-1, 1].
          guess: which tokens are reliable, and their ids.
          labels: in [0, label_rows); others mean none.
          train: whether dropout is on.
        """
        return self.predict(self.encoder(images, train=train), guess, labels, train=train)

    def predict(
        self,
        features: Float[Array, 'b m d'],
        guess: MaskedGrid,
        labels: Int[Array, ' b'],
        *,
        train: bool = False,
    ) -> Float[Array, 'b n v']:
        """The decoder: logits from the encoder's features."""
        hidden = guess.hidden[..., None]
        unlabelled = (labels < 0) | (labels >= self.label_rows)
        label_row = self.codebook_size + jnp.where(unlabelled, 0, labels)
        whole = jnp.where(unlabelled[:, None], self.mask, self.tokens[label_row]) + self.known_positions[0]
        cells = jnp.where(hidden, self.mask, self.between(features)[:, 1:])
        cells = cells + jnp.where(hidden, self.hidden_positions[1:], self.known_positions[1:])
        known = self.tokens[guess.ids] + self.token_positions[1:]
        x = jnp.concatenate([whole[:, None], cells, known], axis=1).astype(self.dtype)
        visible = jnp.concatenate([jnp.ones((len(x), 1 + self.cells), bool), ~guess.hidden], axis=1)
        x = self.decoder(x, visible, train=train)
        return self.head(x[:, 1 : 1 + self.cells], self.tokens)


@flax.struct.dataclass
class DenoisingState:
    """Where generation stands.

    Attributes:
      guess: the tokens.
      images: decoded from the tokens, soft ones where they are hidden, `[b, H, W, 3]`.
    """

    guess: Any
    images: Any


@dataclasses.dataclass(frozen=True)
class TrainedParts:
    """Initializer that copies the trained tokenizer and the trained predictor into an ADDP."""

    option: str = ''

    def arrays(self, model: Any, settings: Any, data: InitialData) -> dict[str, np.ndarray]:
        """Returns the variables of both, below 'tokenizer' and 'predictor'."""
        del model, settings
        parts = {'tokenizer': data.tokenizer.variables, 'predictor': data.components['predictor']}
        return flax.traverse_util.flatten_dict(parts, sep='/')


@dataclasses.dataclass(frozen=True)
class ADDP(Generator):
    """Alternates between pixels and tokens.

    Besides 'params', its variables hold two collections that are never trained: 'tokenizer', the variables of the
    tokenizer, and 'predictor', the parameters of a predictor of the same tokens, which training needs.  `init` makes
    fresh ones, to be replaced by trained ones.  The images themselves are not needed: what is looked at in training
    is decoded from tokens, as in generation.

    Attributes:
      tokenizer: the module whose tokens are generated; soft codewords are decoded with it.
      predictor: what is learned from.
      width: of the network.
      encoder_layers: blocks of the encoder.
      encoder_heads: their attention heads.
      decoder_layers: blocks of the decoder.
      decoder_heads: their attention heads.
      dropout: in training.
      label_dropout: share of labels that are dropped in training, for guidance.
      label_smoothing: share of the target that is spread over all that can be predicted.
      codes_only: whether that is codewords only; the published models also predict labels and one more row, which
        never occur.
      detached: whether the loss leaves the table of tokens alone where hidden vectors are compared with it, as in the
        published models; else it is trained from both sides, and small models learn faster.
      label_rows: rows of the vocabulary for labels; None: `num_classes`.
      steps: of generation, where `SampleConfig` does not say.
      schedule: of generation, 'cosine' or 'linear'.
      choice_temperature: of the noise that confidences are ranked with, falling to 0 over the steps.
      remat: whether a backward pass computes the blocks again.
      dtype: computation type.
    """

    initializers = (TrainedParts(),)
    components = {'predictor': ('mage', 'maskgit')}

    tokenizer: Tokenizer | None = None
    predictor: MAGE | None = None
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
    steps: int = 20
    schedule: str = 'cosine'
    choice_temperature: float = 6.0
    remat: bool = False
    dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        check_one_codebook('ADDP', self.spec)

    @property
    def cells(self) -> int:
        """Tokens of a grid."""
        return math.prod(self.grid)

    @property
    def network(self) -> ADDPNetwork:
        """The network."""
        return ADDPNetwork(
            codebook_size=self.spec.codebook_sizes[0],
            label_rows=self.num_classes if self.label_rows is None else self.label_rows,
            cells=self.cells,
            patch=self.spec.downsample_factor,
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
        """Fresh variables; the collections 'tokenizer' and 'predictor' where the generator has these parts."""
        own, tokenizer, predictor = jax.random.split(rng, 3)
        start = self.beginning(1)
        variables = dict(self.network.init(own, start.images, start.guess, jnp.zeros((1,), jnp.int32)))
        if self.tokenizer is not None:
            variables['tokenizer'] = dict(self.tokenizer.init(tokenizer, start.images, train=False))
        if self.predictor is not None:
            variables['predictor'] = self.predictor.init(predictor)['params']
        return variables

    def beginning(self, rows: int) -> DenoisingState:
        """Nothing is known, and the image (which does not count yet) is gray."""
        height, width = (side * self.spec.downsample_factor for side in self.grid)
        return DenoisingState(all_hidden(rows, self.cells), jnp.zeros((rows, height, width, 3)))

    def loss(
        self,
        variables: Variables,
        tokens: Tokens,
        cond: Condition,
        rng: jax.Array,
        *,
        train: bool,
    ) -> GeneratorLoss:
        """Cross-entropy of hidden tokens against the predictor's distribution.

        Metrics are 'hidden_bits', the true tokens' bits per hidden token, and 'predictor_bits', those of the predictor.
        """
        ids = flat_ids(tokens)
        mask_rng, label_rng, dropout_rng = jax.random.split(rng, 3)
        masks = draw_nested_masks(mask_rng, share_grid(), len(ids), self.cells)
        labels = class_labels(cond)
        if train:
            labels = drop_labels(labels, label_rng, self.label_dropout, self.num_classes)
        target, noised = self.noised(variables, ids, masks, labels)
        logits: Any = self.network.apply(
            {'params': variables['params']},
            noised.images,
            noised.guess,
            self.rows_of(labels),
            train=train,
            rngs={'dropout': dropout_rng},
        )
        found = self.distillation(logits, target, masks.now)
        own, theirs = (
            -jnp.take_along_axis(logs, ids[..., None], axis=-1)[..., 0]
            for logs in (jax.nn.log_softmax(logits[..., : target.shape[-1]]), jnp.log(jnp.maximum(target, 1e-30)))
        )
        metrics = {'hidden_bits': mean_over(own, masks.now), 'predictor_bits': mean_over(theirs, masks.now)}
        return GeneratorLoss(found, {name: value / math.log(2) for name, value in metrics.items()})

    def noised(
        self, variables: Variables, ids: Int[Array, 'b n'], masks: NestedMasks, labels: Int[Array, ' b']
    ) -> tuple[Float[Array, 'b n K'], DenoisingState]:
        """What the predictor says of the hidden tokens, and an image of a time of generation when these are hidden.

        Hidden tokens are decoded from soft codewords: the predictor's, of a time a few steps earlier.
        """
        if self.predictor is None:
            raise UserError('ADDP learns from a predictor of tokens, and this one has none')
        both = MaskedGrid(jnp.concatenate([ids, ids]), jnp.concatenate([masks.now, masks.before]))
        predictor = {'params': variables['predictor']}
        logits = self.predictor.logits(predictor, both, jnp.concatenate([labels, labels]), None)
        target, earlier = jnp.split(jax.nn.softmax(logits), 2)
        guess = MaskedGrid(ids, masks.now)
        return target, DenoisingState(guess, self.decoded(variables, guess, earlier))

    def distillation(
        self, logits: Float[Array, 'b n v'], target: Float[Array, 'b n K'], hidden: Bool[Array, 'b n']
    ) -> Float[Array, '']:
        """Cross-entropy of the hidden tokens against a distribution over codewords, smoothed."""
        codes = target.shape[-1]
        logs = jax.nn.log_softmax(logits[..., :codes] if self.codes_only else logits)
        plain = -jnp.sum(target * logs[..., :codes], axis=-1)
        smooth = (1 - self.label_smoothing) * plain - self.label_smoothing * logs.mean(axis=-1)
        return mean_over(smooth, hidden)

    def decoded(
        self, variables: Variables, guess: MaskedGrid, probabilities: Float[Array, 'b n K']
    ) -> Float[Array, 'b H W 3']:
        """The image of the known tokens, and of mixtures of codewords where tokens are hidden."""
        if self.tokenizer is None:
            raise UserError('ADDP looks at decoded tokens, and this one has no tokenizer to decode them')

        def decode(tokenizer: Tokenizer) -> Float[Array, 'b H W 3']:
            every = jnp.arange(self.spec.codebook_sizes[0]).reshape(1, 1, -1, 1)
            codewords = tokenizer.embed(Tokens(every))[0, 0]
            soft = jnp.einsum('bnk,kd->bnd', probabilities, codewords)
            latents = jnp.where(guess.hidden[..., None], soft, codewords[guess.ids])
            return tokenizer.decode_latents(latents.reshape(len(latents), *self.grid, -1))

        images: Any = self.tokenizer.apply(variables['tokenizer'], method=decode)
        return images

    def rows_of(self, labels: Int[Array, ' b']) -> Int[Array, ' b']:
        """Labels for the network, where -1 means none."""
        return jnp.where(labels == self.num_classes, -1, labels)

    def logits(
        self,
        variables: Variables,
        state: DenoisingState,
        labels: Int[Array, ' b'],
        scale: Float[Array, ''] | None = None,
    ) -> Float[Array, 'b n K']:
        """Logits of the codewords; with a scale, guided by those without a label."""

        def predict(state: DenoisingState, labels: jax.Array) -> jax.Array:
            params = {'params': variables['params']}
            logits: Any = self.network.apply(params, state.images, state.guess, self.rows_of(labels))
            return logits[..., : self.spec.codebook_sizes[0]]

        return guided(predict, state, labels, self.num_classes, scale)

    def advance(
        self,
        variables: Variables,
        state: DenoisingState,
        logits: Float[Array, 'b n K'],
        candidates: Candidates,
        annealing: Float[Array, ''] | float,
        count: Int[Array, ''] | int,
    ) -> DenoisingState:
        """One step: tokens are drawn, the least confident stay hidden, and all are decoded, these as mixtures.

        Args:
          variables: of the generator.
          state: before the step.
          logits: of its hidden tokens.
          chance: what is random.
          heat: 1 at the beginning of generation, 0 at its end.
          count: how many tokens stay hidden.
        """
        noise = self.choice_temperature * annealing * candidates.noise
        guess = reveal(state.guess, logits, candidates.drawn, noise, count)
        return DenoisingState(guess, self.decoded(variables, guess, jax.nn.softmax(logits)))

    def generate(
        self,
        variables: Variables,
        cond: Condition,
        rng: jax.Array,
        sample_ids: Int[Array, ' b'],
        config: SampleConfig,
    ) -> DenoisingState:
        """Tokens, and the image of the last step: one token of it is still a mixture there.

        The arguments are those of `sample`; a 'position' of the guidance schedule is a step.
        """
        labels, keys = class_labels(cond), row_keys(rng, sample_ids)
        plan = DecodingSchedule.of(counts_rounded_up(self.cells, config.steps or self.steps, self.schedule), config)

        def step(state: DenoisingState, at: DecodingSchedule) -> tuple[DenoisingState, None]:
            logits = self.logits(variables, state, labels, None if config.guidance_scale == 1 else at.guidance)
            candidates = sample_candidates(logits, at_position(keys, at.step), config)
            return self.advance(variables, state, logits, candidates, at.annealing, at.count), None

        return jax.lax.scan(step, self.beginning(len(labels)), plan)[0]

    def sample(
        self,
        variables: Variables,
        cond: Condition,
        rng: jax.Array,
        sample_ids: Int[Array, ' b'],
        config: SampleConfig,
    ) -> Tokens:
        """The tokens of `generate`, all of them as they were drawn."""
        found = self.generate(variables, cond, rng, sample_ids, config)
        return Tokens(found.guess.ids.reshape(-1, *self.grid, 1))
