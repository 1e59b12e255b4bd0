"""Interface of generators: a condition goes in, token grids come out."""

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import flax.struct
import jax
from jaxtyping import Array, Bool, Float, Int

from vistok.collectives import replica_draw
from vistok.errors import UserError
from vistok.tokenizers.tokenizer import Tokens, TokenSpec
from vistok.training.initialization import Initializer

Variables = dict[str, Any]
"""Collections of nested dicts: 'params', and others that are never trained ('frozen')."""


@flax.struct.dataclass
class TextFeatures:
    """Caption features from a frozen text encoder.

    Attributes:
      features: one vector per text token; padding comes first.
      mask: True at text tokens, False at padding.
    """

    features: Float[Array, 'b n c']
    mask: Bool[Array, 'b n']


Condition = Int[Array, ' b'] | TextFeatures
"""Class numbers in [0, num_classes], where `num_classes` means no condition, or text features."""


def class_labels(cond: Condition) -> Int[Array, ' b']:
    """Returns the class numbers of a condition, for class-conditional generators.

    Raises:
      UserError: it is text.
    """
    if isinstance(cond, TextFeatures):
        raise UserError('this generator is conditioned on class numbers, got text features')
    return cond


def text_features(cond: Condition) -> TextFeatures:
    """Returns the text features of a condition, for text-conditional generators.

    Raises:
      UserError: it is class numbers.
    """
    if not isinstance(cond, TextFeatures):
        raise UserError('this generator is conditioned on text features, got class numbers')
    return cond


def draw_dropped(rng: jax.Array, share: float, rows: int) -> Bool[Array, ' b']:
    """Draws which samples of a training batch lose their condition."""
    return replica_draw(lambda count: jax.random.bernoulli(rng, share, (count,)), rows)


def require_null_condition(condition_dropout: float) -> None:
    """Raises UserError unless a null condition was trained, which classifier-free guidance needs."""
    if not condition_dropout:
        raise UserError('guidance needs a generator that was trained with condition_dropout above 0')


@dataclasses.dataclass(frozen=True)
class SampleConfig:
    """Sampling options, applied to logits in this order: guidance, temperature, top-k, top-p.

    Attributes:
      temperature: divides the logits; 0 takes the most likely id.
      top_k: keeps the k most likely ids, and those that tie with the last of them; 0 keeps all.
      top_p: keeps the most likely ids whose probabilities add up to p, the one that crosses p included; 1 keeps all.
      guidance_scale: s in `null + s * (conditional - null)`; 1 needs no null condition.
      guidance_schedule: 'constant'; 'interval': guidance at the first `guidance_interval` positions only;
        'power_cosine': a scale that rises from 1 to s over the positions.
      guidance_interval: number of positions, for 'interval'.  LlamaGen's `cfg_interval`, which is counted after the
        first position and includes its end, is smaller by 2.
      guidance_power: exponent, for 'power_cosine'.
      window: number of ids that speculative Jacobi decoding drafts and verifies per pass, for autoregressive
        generators with one id per position: the same ids in fewer passes; 0: one id per pass.
      steps: network calls of iterative methods (masked, diffusion), over which the guidance schedule then runs; 0: the
        generator's own number.
      second: options for the second kind of ids, for methods that have two (CTF: fine ids, DQ-Transformer: positions);
        None: the method's defaults.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    guidance_scale: float = 1.0
    guidance_schedule: str = 'constant'
    guidance_interval: int = 0
    guidance_power: float = 1.0
    window: int = 0
    steps: int = 0
    second: 'SampleConfig | None' = None

    def __post_init__(self) -> None:
        if self.temperature < 0 or self.top_k < 0 or not 0 < self.top_p <= 1 or self.window < 0:
            raise UserError(
                f'temperature {self.temperature}, top_k {self.top_k} and window {self.window} must be at least 0, '
                f'top_p {self.top_p} above 0 and at most 1'
            )


@flax.struct.dataclass
class GeneratorLoss:
    """Training loss of a batch.

    Attributes:
      loss: scalar to be minimized.
      metrics: other scalars to log; 'bits_per_token' where the method has a likelihood or a bound on it.
      state: new values of collections other than 'params', by name, for methods with training statistics.
    """

    loss: Float[Array, '']
    metrics: dict[str, Float[Array, '']] = flax.struct.field(default_factory=dict)
    state: Variables = flax.struct.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Generator(abc.ABC):
    """Generative model of token grids: an algorithm around a network, as pure functions of its variables.

    Hashable, so that it can be a static argument of `jax.jit`.

    Attributes:
      spec: description of the tokens, as their tokenizer gives it.
      grid: rows and columns of the token grid.
      num_classes: number of classes; label `num_classes` means no condition.
    """

    initializers: ClassVar[tuple[Initializer, ...]] = ()
    """Makers of the arrays that a fresh run starts from instead of random ones."""
    components: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Arguments that are trained generators themselves, with the model names that can take each place."""
    spec: TokenSpec
    grid: tuple[int, int]
    num_classes: int

    @abc.abstractmethod
    def init(self, rng: jax.Array) -> Variables:
        """Returns freshly initialized variables."""

    @abc.abstractmethod
    def loss(
        self,
        variables: Variables,
        tokens: Tokens,
        cond: Condition,
        rng: jax.Array,
        *,
        train: bool,
    ) -> GeneratorLoss:
        """Computes the training loss of a batch of tokens `[b, *grid, k]`.

        Args:
          variables: as `init` gives them.
          tokens: of the tokenizer that `spec` describes.
          cond: condition of each sample.
          rng: random key of dropout, dropped conditions and noise.
          train: whether dropout and dropped conditions are on.
        """

    def prepare_for_sampling(self, variables: Variables) -> Variables:
        """Prepares variables for repeated `sample` calls, for example by casting weights once (idempotent).

        `sample` takes prepared and unprepared variables.  By default nothing changes.
        """
        return variables

    @abc.abstractmethod
    def sample(
        self,
        variables: Variables,
        cond: Condition,
        rng: jax.Array,
        sample_ids: Int[Array, ' b'],
        config: SampleConfig,
    ) -> Tokens:
        """Samples one token grid for each condition.

        Row i is drawn with the key `jax.random.fold_in(rng, sample_ids[i])`, so a sample does not depend on the other
        samples of its batch, on the batch size or on the devices.

        Args:
          variables: as `init` or `prepare_for_sampling` gives them.
          cond: condition of each sample.
          rng: random key of the whole sampling run.
          sample_ids: number of each sample in that run.
          config: sampling options.
        """
