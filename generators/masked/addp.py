"""ADDP: alternating denoising of tokens and pixels; tokens are predicted from pixels that were decoded from tokens.

Tian et al., "ADDP: Learning General Representations for Image Recognition and Generation with Alternating Denoising
Diffusion Process", 2024.
"""

import dataclasses
import math
from typing import Any

import flax.struct
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from vistok.collectives import replica_draw
from vistok.errors import UserError
from vistok.generators.generator import Condition, Generator, GeneratorLoss, SampleConfig, Variables, class_labels
from vistok.generators.masked.addp_network import ADDPNetwork
from vistok.generators.masked.mage import MAGE
from vistok.generators.masked.masking import (
    MaskedGrid,
    NestedMasks,
    counts_rounded_up,
    draw_nested_masks,
    fully_masked,
    reveal,
    share_grid,
)
from vistok.generators.masked.parallel_decoding import (
    Candidates,
    DecodingSchedule,
    check_one_codebook,
    drop_labels,
    flat_ids,
    mean_over,
    predict_guided,
    sample_candidates,
)
from vistok.generators.sampling import fold_in_rows, row_keys
from vistok.tokenizers.tokenizer import Tokenizer, Tokens
from vistok.training.initialization import InitialData


@flax.struct.dataclass
class DenoisingState:
    """Tokens and pixels at one step of generation.

    Attributes:
      guess: tokens, and the mask of those that are not reliable.
      images: images decoded from the tokens, from soft codewords where they are masked, `[b, H, W, 3]`.
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
        return jax.tree.map(np.asarray, flax.traverse_util.flatten_dict(parts, sep='/'))


@dataclasses.dataclass(frozen=True)
class ADDP(Generator):
    """Alternating denoising diffusion process over tokens and pixels.

    Besides 'params', its variables have two collections that are never trained: 'tokenizer', the variables of the
    tokenizer, and 'predictor', the parameters of a predictor of the same tokens, which training needs.  `init` creates
    random ones, to be replaced by trained ones.  Training needs no images: as in generation, the encoder's input is
    decoded from tokens.

    Attributes:
      tokenizer: tokenizer module of the generated tokens; it also decodes soft codewords.
      predictor: frozen token predictor whose distributions are the training targets.
      width: channels of the network.
      encoder_layers: blocks of the encoder.
      encoder_heads: attention heads of the encoder.
      decoder_layers: blocks of the decoder.
      decoder_heads: attention heads of the decoder.
      dropout: dropout rate in training.
      label_dropout: share of labels that are dropped in training, for guidance; 1: there are no labels, in samples
        neither, as in the published models.
      label_smoothing: share of the target that is spread over the predicted vocabulary.
      codes_only: whether only codewords are predicted; the published models also predict labels and one more row, which
        never occur as targets.
      detached: whether gradients of the logits stop at the token table, as in the published models; otherwise the table
        is trained as input and output embedding, and small models learn faster.
      label_rows: number of labels in the vocabulary; None: `num_classes`.
      steps: default number of decoding steps.
      schedule: masking schedule of decoding, 'cosine' or 'linear'.
      choice_temperature: factor of the Gumbel noise on confidences, annealed to 0 over the steps.
      remat: whether the backward pass recomputes the blocks.
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
        """Number of tokens of a grid."""
        return math.prod(self.grid)

    @property
    def network(self) -> ADDPNetwork:
        """Encoder of pixels and decoder of tokens."""
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
        """Returns random variables, with collections 'tokenizer' and 'predictor' where the generator has these."""
        own, tokenizer, predictor = jax.random.split(rng, 3)
        start = self.initial_state(1)
        variables = dict(self.network.init(own, start.images, start.guess, jnp.zeros((1,), jnp.int32)))
        if self.tokenizer is not None:
            variables['tokenizer'] = dict(self.tokenizer.init(tokenizer, start.images, train=False))
        if self.predictor is not None:
            variables['predictor'] = self.predictor.init(predictor)['params']
        return variables

    def initial_state(self, rows: int) -> DenoisingState:
        """Returns the first state: all tokens masked, and a gray image (which does not count yet)."""
        height, width = (side * self.spec.downsample_factor for side in self.grid)
        return DenoisingState(fully_masked(rows, self.cells), jnp.zeros((rows, height, width, 3)))

    def loss(
        self,
        variables: Variables,
        tokens: Tokens,
        cond: Condition,
        rng: jax.Array,
        *,
        train: bool,
    ) -> GeneratorLoss:
        """Computes the cross-entropy of masked tokens against the predictor's distribution.

        Metrics: 'hidden_bits', bits per masked token of the true tokens, and 'predictor_bits', those of the predictor.
        """
        ids = flat_ids(tokens)
        mask_rng, label_rng, dropout_rng = jax.random.split(rng, 3)
        masks = replica_draw(lambda rows: draw_nested_masks(mask_rng, share_grid(), rows, self.cells), len(ids))
        labels = class_labels(cond)
        if train:
            labels = drop_labels(labels, label_rng, self.label_dropout, self.num_classes)
        target, state = self.training_state(variables, ids, masks, labels)
        logits: Any = self.network.apply(
            {'params': variables['params']},
            state.images,
            state.guess,
            self.network_labels(labels),
            train=train,
            rngs={'dropout': dropout_rng},
        )
        found = self.distillation_loss(logits, target, masks.now)
        own, theirs = (
            -jnp.take_along_axis(logs, ids[..., None], axis=-1)[..., 0]
            for logs in (jax.nn.log_softmax(logits[..., : target.shape[-1]]), jnp.log(jnp.maximum(target, 1e-30)))
        )
        metrics = {'hidden_bits': mean_over(own, masks.now), 'predictor_bits': mean_over(theirs, masks.now)}
        return GeneratorLoss(found, {name: value / math.log(2) for name, value in metrics.items()})

    def training_state(
        self, variables: Variables, ids: Int[Array, 'b n'], masks: NestedMasks, labels: Int[Array, ' b']
    ) -> tuple[Float[Array, 'b n K'], DenoisingState]:
        """Computes the targets of the masked tokens, and the state of generation at the time of these masks.

        Targets are the predictor's probabilities.  In the image, masked tokens are decoded from soft codewords, with
        the predictor's probabilities of a few steps earlier.
        """
        if self.predictor is None:
            raise UserError('ADDP learns from a predictor of tokens, and this one has none')
        both = MaskedGrid(jnp.concatenate([ids, ids]), jnp.concatenate([masks.now, masks.before]))
        predictor = {'params': variables['predictor']}
        if self.predictor.num_classes != self.num_classes:  # a predictor without classes, such as the released ones
            labels = jnp.full_like(labels, self.predictor.num_classes)
        logits = self.predictor.logits(predictor, both, jnp.concatenate([labels, labels]), None)
        target, earlier = jnp.split(jax.nn.softmax(logits), 2)
        guess = MaskedGrid(ids, masks.now)
        return target, DenoisingState(guess, self.decode_mixture(variables, guess, earlier))

    def distillation_loss(
        self, logits: Float[Array, 'b n v'], target: Float[Array, 'b n K'], hidden: Bool[Array, 'b n']
    ) -> Float[Array, '']:
        """Computes the cross-entropy of masked tokens against a distribution over codewords, with label smoothing."""
        codes = target.shape[-1]
        logs = jax.nn.log_softmax(logits[..., :codes] if self.codes_only else logits)
        plain = -jnp.sum(target * logs[..., :codes], axis=-1)
        smooth = (1 - self.label_smoothing) * plain - self.label_smoothing * logs.mean(axis=-1)
        return mean_over(smooth, hidden)

    def decode_mixture(
        self, variables: Variables, guess: MaskedGrid, probabilities: Float[Array, 'b n K']
    ) -> Float[Array, 'b H W 3']:
        """Decodes images from the known tokens, and from mixtures of codewords where tokens are masked."""
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

    def network_labels(self, labels: Int[Array, ' b']) -> Int[Array, ' b']:
        """Maps the null label to -1, which means none for the network."""
        return jnp.where((labels == self.num_classes) | (self.label_dropout == 1), -1, labels)

    def logits(
        self,
        variables: Variables,
        state: DenoisingState,
        labels: Int[Array, ' b'],
        scale: Float[Array, ''] | None = None,
    ) -> Float[Array, 'b n K']:
        """Computes the logits of the codewords, with guidance where a scale is given."""

        def predict(state: DenoisingState, labels: jax.Array) -> jax.Array:
            params = {'params': variables['params']}
            logits: Any = self.network.apply(params, state.images, state.guess, self.network_labels(labels))
            return logits[..., : self.spec.codebook_sizes[0]]

        return predict_guided(predict, state, labels, self.num_classes, scale)

    def advance(
        self,
        variables: Variables,
        state: DenoisingState,
        logits: Float[Array, 'b n K'],
        candidates: Candidates,
        annealing: Float[Array, ''] | float,
        count: Int[Array, ''] | int,
    ) -> DenoisingState:
        """Takes one step: accepts the most confident candidates and decodes the new image.

        Args:
          variables: of the generator.
          state: state before the step.
          logits: logits of its masked tokens.
          candidates: candidate ids and noise.
          annealing: factor of the choice temperature, from 1 at the beginning of generation to 0 at its end.
          count: number of tokens that stay masked.
        """
        noise = self.choice_temperature * annealing * candidates.noise
        guess = reveal(state.guess, logits, candidates.drawn, noise, count)
        return DenoisingState(guess, self.decode_mixture(variables, guess, jax.nn.softmax(logits)))

    def generate(
        self,
        variables: Variables,
        cond: Condition,
        rng: jax.Array,
        sample_ids: Int[Array, ' b'],
        config: SampleConfig,
    ) -> DenoisingState:
        """Generates tokens and the image of the last step, in which one token is still a mixture.

        The arguments are those of `sample`; a 'position' of the guidance schedule is a step.
        """
        labels, keys = class_labels(cond), row_keys(rng, sample_ids)
        schedule = DecodingSchedule.from_counts(
            counts_rounded_up(self.cells, config.steps or self.steps, self.schedule), config
        )

        def step(state: DenoisingState, at: DecodingSchedule) -> tuple[DenoisingState, None]:
            logits = self.logits(variables, state, labels, None if config.guidance_scale == 1 else at.guidance)
            candidates = sample_candidates(logits, fold_in_rows(keys, at.step), config)
            return self.advance(variables, state, logits, candidates, at.annealing, at.count), None

        return jax.lax.scan(step, self.initial_state(len(labels)), schedule)[0]

    def sample(
        self,
        variables: Variables,
        cond: Condition,
        rng: jax.Array,
        sample_ids: Int[Array, ' b'],
        config: SampleConfig,
    ) -> Tokens:
        """Samples token grids; see `generate`."""
        found = self.generate(variables, cond, rng, sample_ids, config)
        return Tokens(found.guess.ids.reshape(-1, *self.grid, 1))
