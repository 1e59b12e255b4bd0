"""VQ-DDM: generation of all tokens at once by discrete diffusion.

Hu et al., "Global Context with Discrete Diffusion in Vector Quantised Modelling for Image Generation", CVPR 2022, with
the noise of the papers that `discrete_diffusion.py` names as alternatives.
"""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vistok.collectives import replica_draw
from vistok.errors import UserError
from vistok.generators.diffusion import discrete_diffusion as diffusion
from vistok.generators.diffusion.discrete_diffusion import NoiseSteps, Transition
from vistok.generators.diffusion.timestep_sampling import (
    empty_statistics,
    importance_probabilities,
    sample_timesteps,
    update_statistics,
)
from vistok.generators.diffusion.transformer_denoiser import TransformerDenoiser
from vistok.generators.diffusion.unet import UNet
from vistok.generators.generator import (
    Condition,
    Generator,
    GeneratorLoss,
    SampleConfig,
    Variables,
    class_labels,
    draw_dropped,
)
from vistok.generators.sampling import filter_logits, fold_in_rows, guidance_scales, guide, row_keys
from vistok.tokenizers.tokenizer import Tokens

TOKEN_INPUTS = ('vector', 'number')
DENOISERS = ('unet', 'transformer')
PREDICTIONS = ('x0', 'mixture', 'direct')
_STATISTICS = 'diffusion_stats'


@flax.struct.dataclass
class _Terms:
    """Terms of the loss of each row, in nats summed over its tokens: of the bound, and -log of the predicted p(x_0)."""

    bound: Float[Array, ' b']
    cross_entropy: Float[Array, ' b']


@dataclasses.dataclass(frozen=True)
class VQDDM(Generator):
    """Discrete diffusion generator; several sub-codebooks are noised independently and predicted together.

    Attributes:
      denoiser: 'unet', as in the paper, or 'transformer'.
      token_input: how the U-Net sees tokens.  'vector': one learned vector each; 'number': the id divided by the
        largest, with 1 added to the logit of the noised token itself, as in the authors' settings for ImageNet.
      channels: width of the embeddings and of the transformer.
      channel_multipliers: U-Net: width of each level over `channels`.
      official: U-Net: architecture of the official code and weights, see `UNet`.
      layers: transformer: number of blocks.
      heads: transformer: attention heads.
      dropout: dropout rate inside the network.
      condition_dropout: share of training samples whose class is dropped; guidance needs some.
      timesteps: number of noise steps, T.
      schedule: noise schedule: 'cos' (the paper's code), 'cos2' (the paper's formula) or 'linear'.
      mask_share: 0, as in the paper: noise redraws tokens; 1: it masks them; between: it does both.
      prediction: meaning of the network's distribution.  'x0': of the clean tokens, inserted into the posterior in
        their place, as in the paper; 'mixture': likewise, but the posterior is averaged over it; 'direct': of the
        tokens one step before.
      importance: whether training draws a timestep in proportion to the root mean square of its term of the bound, once
        every timestep has been visited often enough, instead of uniformly.
      auxiliary_weight: weight of the cross-entropy of the clean tokens in the loss; the paper has none.
      evaluation_terms: number of terms of the bound, spread over all timesteps, that an evaluation averages for each
        image; `timesteps` gives the whole bound.
      dtype: computation type of the network.
      remat: whether the backward pass recomputes the network's blocks.
    """

    denoiser: str = 'unet'
    token_input: str = 'vector'
    channels: int = 128
    channel_multipliers: tuple[int, ...] = (1, 2, 4, 8)
    official: bool = False
    layers: int = 12
    heads: int = 8
    dropout: float = 0.0
    condition_dropout: float = 0.1
    timesteps: int = 4000
    schedule: str = 'cos'
    mask_share: float = 0.0
    prediction: str = 'x0'
    importance: bool = True
    auxiliary_weight: float = 0.0
    evaluation_terms: int = 16
    dtype: Any = jnp.float32
    remat: bool = False

    def __post_init__(self) -> None:
        if self.spec.grains != (1,):
            raise UserError(f'VQ-DDM generates full grids, the tokenizer has grains {self.spec.grains}')
        if self.denoiser not in DENOISERS:
            raise UserError(f'unknown denoiser {self.denoiser!r}; known: {", ".join(DENOISERS)}')
        if self.token_input not in TOKEN_INPUTS:
            raise UserError(f'unknown token_input {self.token_input!r}; known: {", ".join(TOKEN_INPUTS)}')
        if self.token_input == 'number' and (self.masks or self.denoiser != 'unet'):
            raise UserError("token_input 'number' goes with the U-Net and without masks, which are no number")
        if self.prediction not in PREDICTIONS:
            raise UserError(f'unknown prediction {self.prediction!r}; known: {", ".join(PREDICTIONS)}')
        if self.timesteps < 2:
            raise UserError(f'timesteps must be at least 2, got {self.timesteps}')
        if not 1 <= self.evaluation_terms <= self.timesteps:
            raise UserError(f'evaluation_terms must be in [1, {self.timesteps}], got {self.evaluation_terms}')
        if self.prediction == 'direct' and (self.masks or self.auxiliary_weight):
            raise UserError("prediction 'direct' knows neither masks nor clean tokens: set another one")
        self.steps()  # refuses a schedule that does not exist

    @property
    def masks(self) -> bool:
        """True if there is a mask state."""
        return self.mask_share > 0

    @property
    def numbers(self) -> bool:
        """True if the network sees tokens as numbers."""
        return self.token_input == 'number'

    @property
    def network(self) -> nn.Module:
        """Denoiser, a U-Net or a transformer."""
        sizes = self.spec.codebook_sizes
        given: dict[str, Any] = {
            'states': tuple(size + self.masks for size in sizes),
            'outputs': sum(sizes),
            'channels': self.channels,
            'num_classes': self.num_classes,
            'dropout': self.dropout,
            'dtype': self.dtype,
            'remat': self.remat,
        }
        if self.denoiser == 'transformer':
            return TransformerDenoiser(layers=self.layers, heads=self.heads, **given)
        return UNet(channel_multipliers=self.channel_multipliers, official=self.official, numbers=self.numbers, **given)

    def steps(self, count: int = 0) -> NoiseSteps:
        """Returns the noise process in `timesteps` steps or in `count` jumps."""
        return diffusion.noise_steps(self.schedule, self.timesteps, self.mask_share, count)

    def init(self, rng: jax.Array) -> Variables:
        states = jnp.zeros((1, *self.grid, len(self.spec.codebook_sizes)), jnp.int32)
        variables = dict(self.network.init(rng, states, jnp.zeros(1), jnp.zeros(1, jnp.int32)))
        if self.importance:
            variables[_STATISTICS] = empty_statistics(self.timesteps)
        return variables

    def loss(
        self,
        variables: Variables,
        tokens: Tokens,
        cond: Condition,
        rng: jax.Array,
        *,
        train: bool,
    ) -> GeneratorLoss:
        """Estimates the variational bound without bias from some of its terms, in nats per token.

        Training uses one term for each sample; the terms of a batch are stratified over all timesteps.
        """
        ids, labels = jnp.asarray(tokens.ids), class_labels(cond)
        count, cells = len(ids), math.prod(tokens.ids.shape[1:])
        sizes = self.spec.codebook_sizes
        prior = sum(diffusion.prior_divergence(self.steps(), size) for size in sizes) / len(sizes)
        time_rng, term_rng, label_rng = jax.random.split(rng, 3)
        if not train:
            u = jax.random.uniform(time_rng, (count,))

            def evaluate(part: Int[Array, '']) -> Float[Array, ' b']:
                t = jnp.minimum((part + u) * (self.timesteps / self.evaluation_terms), self.timesteps - 1)
                key = jax.random.fold_in(term_rng, part)
                return self._terms(variables, ids, labels, t.astype(jnp.int32), key, train=False).bound

            terms = jax.lax.map(evaluate, jnp.arange(self.evaluation_terms))
            loss = self.timesteps * terms.mean() / cells + prior
            return GeneratorLoss(loss, {'bits_per_token': loss / math.log(2)})

        if self.num_classes:
            hidden = draw_dropped(label_rng, self.condition_dropout, count)
            labels = jnp.where(hidden, self.num_classes, labels)
        probabilities = self.time_probabilities(variables)
        times = replica_draw(lambda rows: sample_timesteps(time_rng, probabilities, rows), count)
        terms = self._terms(variables, ids, labels, times.t, term_rng, train=True)
        bound = jnp.mean(terms.bound / times.probability) / cells + prior
        clean = jnp.mean(terms.cross_entropy / times.probability) / (self.timesteps * cells)
        loss = bound + self.auxiliary_weight * clean
        metrics = {'bits_per_token': bound / math.log(2), 'clean_cross_entropy': clean}
        if not self.importance:
            return GeneratorLoss(loss, metrics)
        bounds = jax.lax.stop_gradient(terms.bound)
        return GeneratorLoss(loss, metrics, {_STATISTICS: update_statistics(variables[_STATISTICS], times.t, bounds)})

    def sample(
        self,
        variables: Variables,
        cond: Condition,
        rng: jax.Array,
        sample_ids: Int[Array, ' b'],
        config: SampleConfig,
    ) -> Tokens:
        """Samples by reversing the noise in `config.steps` jumps, each exact over several timesteps; 0: every timestep.

        Temperature, top-k and top-p apply to the predicted distribution, not to the noise.

        Raises:
          UserError: jumps with `prediction='direct'`, or guidance without classes.
        """
        return self._reverse(variables, cond, rng, sample_ids, config)

    def inpaint(
        self,
        variables: Variables,
        tokens: Tokens,
        known: Bool[Array, 'b h w'],
        cond: Condition,
        rng: jax.Array,
        sample_ids: Int[Array, ' b'],
        config: SampleConfig,
        *,
        repeats: int = 1,
    ) -> Tokens:
        """Samples the unknown cells and keeps the known ones.

        At every step the known cells are sampled from the noise process, the others from the model.

        Args:
          variables: as `init` gives them.
          tokens: ids; those of unknown cells do not matter.
          known: mask of the known cells.
          cond: condition of each sample.
          rng: random key of the whole sampling run.
          sample_ids: number of each sample in that run.
          config: sampling options.
          repeats: number of times that each step is taken; in between its noise is added again, so that the unknown
            cells harmonize with the known ones (Lugmayr et al., "RePaint", 2022).

        Raises:
          UserError: as `sample`, or fewer than one repeat.
        """
        if repeats < 1:
            raise UserError(f'repeats must be at least 1, got {repeats}')
        return self._reverse(variables, cond, rng, sample_ids, config, tokens.ids, known[..., None], repeats)

    def _reverse(
        self,
        variables: Variables,
        cond: Condition,
        rng: jax.Array,
        sample_ids: Int[Array, ' b'],
        config: SampleConfig,
        given: Any = None,
        known: Any = None,
        repeats: int = 1,
    ) -> Tokens:
        """Reverses the noise process from its end to tokens; cells that are `known` keep the ids `given`."""
        if self.prediction == 'direct' and config.steps not in (0, self.timesteps):
            raise UserError(f"prediction 'direct' samples in {self.timesteps} steps only, got {config.steps}")
        if not self.num_classes and config.guidance_scale != 1:
            raise UserError(f'a model without classes cannot be guided, got guidance_scale {config.guidance_scale}')
        steps, labels, keys = self.steps(config.steps), class_labels(cond), row_keys(rng, sample_ids)
        count, sizes = len(steps.time), self.spec.codebook_sizes

        def back(x: jax.Array, at: NoiseSteps, scale: jax.Array, number: jax.Array) -> jax.Array:
            now = fold_in_rows(keys, number)
            log_p = self._previous_states(variables, x, labels, at, scale, config)
            drawn = [jax.vmap(jax.random.categorical)(fold_in_rows(now, i), log_p[i]) for i in range(len(sizes))]
            x = jnp.stack(drawn, axis=-1).astype(jnp.int32)
            if known is not None:
                x = jnp.where(known, self._add_noise(fold_in_rows(now, len(sizes)), given, at.before), x)
            return x

        def step(x: jax.Array, element: tuple[NoiseSteps, jax.Array, jax.Array]) -> tuple[jax.Array, None]:
            at, scale, number = element

            def again(turn: jax.Array, x: jax.Array) -> jax.Array:
                forth = fold_in_rows(fold_in_rows(keys, number + turn), len(sizes) + 1)
                return back(self._add_noise(forth, x, at.step), at, scale, number + turn)

            x = back(x, at, scale, number)
            return (jax.lax.fori_loop(1, repeats, again, x) if repeats > 1 else x), None

        def start(key: jax.Array) -> jax.Array:
            parts = [
                diffusion.sample_first_state(jax.random.fold_in(key, i), self.grid, steps, size, masks=self.masks)
                for i, size in enumerate(sizes)
            ]
            return jnp.stack(parts, axis=-1)

        x = jax.vmap(start)(fold_in_rows(keys, count * repeats))
        scales = jnp.asarray(guidance_scales(config, count)[::-1].copy())  # sampling begins at the last step
        x, _ = jax.lax.scan(step, x, (steps, scales, jnp.arange(count) * repeats), reverse=True)
        return Tokens(x if known is None else jnp.where(known, given, x))

    def _add_noise(self, keys: jax.Array, ids: Any, what: Transition) -> Int[Array, 'b h w k']:
        """Applies a transition (the same for all rows, or one for each row) with the random key of each row."""
        count = len(keys)
        what = jax.tree.map(lambda x: jnp.broadcast_to(jnp.asarray(x), (count,)), what)

        def row(key: jax.Array, ids: jax.Array, what: Transition) -> jax.Array:
            parts = [
                diffusion.add_noise(jax.random.fold_in(key, i), ids[..., i], what, size, masks=self.masks)
                for i, size in enumerate(self.spec.codebook_sizes)
            ]
            return jnp.stack(parts, axis=-1)

        return jax.vmap(row)(keys, jnp.asarray(ids), what)

    def _logits(self, variables: Variables, x: jax.Array, time: Any, labels: jax.Array, **options: Any) -> jax.Array:
        time = jnp.broadcast_to(jnp.asarray(time), (len(x),))
        logits: Any = self.network.apply({'params': variables['params']}, x, time, labels, **options)
        if self.numbers:
            one_hots = [jax.nn.one_hot(x[..., i], size) for i, size in enumerate(self.spec.codebook_sizes)]
            logits = logits + jnp.concatenate(one_hots, axis=-1)
        return logits

    def _split_codebooks(self, logits: jax.Array) -> list[jax.Array]:
        """Splits the logits by sub-codebook."""
        edges = [sum(self.spec.codebook_sizes[: i + 1]) for i in range(len(self.spec.codebook_sizes) - 1)]
        return jnp.split(logits, edges, axis=-1)

    def _step_back(self, log_prediction: jax.Array, x: jax.Array, at: NoiseSteps) -> jax.Array:
        """Computes the distribution of the state before a step from the predicted distribution."""
        if self.prediction == 'direct':
            return log_prediction
        rule = diffusion.mixture if self.prediction == 'mixture' else diffusion.posterior
        return rule(log_prediction, x, at, masks=self.masks)

    def _terms(
        self, variables: Variables, ids: jax.Array, labels: jax.Array, t: jax.Array, rng: jax.Array, *, train: bool
    ) -> _Terms:
        """Computes term t of the bound for each row."""
        noise_rng, dropout_rng = jax.random.split(rng)
        at = self.steps().at(t)
        keys = replica_draw(lambda rows: jax.random.split(noise_rng, rows), len(ids))
        x = self._add_noise(keys, ids, at.after)
        logits = self._logits(variables, x, at.time, labels, train=train, rngs={'dropout': dropout_rng})
        bound, cross_entropy = jnp.zeros(len(ids)), jnp.zeros(len(ids))
        for i, part in enumerate(self._split_codebooks(logits)):
            clean, noised = ids[..., i], x[..., i]
            log_prediction = jax.nn.log_softmax(part)
            log_p = self._step_back(log_prediction, noised, at)
            log_q = diffusion.posterior(
                diffusion.log_one_hot(clean, part.shape[-1]), noised, at, masks=self.masks
            )  # fmt: skip
            bound = bound + diffusion.variational_term(log_q, log_p, clean, t).sum((1, 2))
            cross_entropy = cross_entropy - jnp.take_along_axis(log_prediction, clean[..., None], -1).sum((1, 2, 3))
        return _Terms(bound, cross_entropy)

    def _previous_states(
        self,
        variables: Variables,
        x: jax.Array,
        labels: jax.Array,
        at: NoiseSteps,
        scale: jax.Array,
        config: SampleConfig,
    ) -> list[jax.Array]:
        """Computes the distribution of the state before a step for each sub-codebook."""
        if config.guidance_scale == 1:
            logits = self._logits(variables, x, at.time, labels)
        else:
            both = jnp.concatenate([labels, jnp.full_like(labels, self.num_classes)])
            logits = self._logits(variables, jnp.concatenate([x, x]), at.time, both)
            logits = guide(logits.reshape(-1, logits.shape[-1]), scale).reshape(*x.shape[:-1], -1)
        found = []
        for i, part in enumerate(self._split_codebooks(logits)):
            if config.temperature:
                log_prediction = jax.nn.log_softmax(filter_logits(part.reshape(-1, part.shape[-1]), config))
                log_prediction = log_prediction.reshape(part.shape)
            else:
                log_prediction = diffusion.log_one_hot(part.argmax(axis=-1), part.shape[-1])
            found.append(self._step_back(log_prediction, x[..., i], at))
        return found

    def time_probabilities(self, variables: Variables) -> Float[Array, ' T']:
        """Computes the probability with which training draws each timestep."""
        if not self.importance:
            return jnp.full(self.timesteps, 1 / self.timesteps)
        return importance_probabilities(variables[_STATISTICS])
