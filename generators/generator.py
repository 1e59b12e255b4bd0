"""The interface between conditions and tokens: `Generator`, `Condition`, `SampleConfig`."""

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import flax.struct
import jax
from jaxtyping import Array, Bool, Float, Int

from vistok.errors import UserError
from vistok.tokenizers.tokenizer import Tokens, TokenSpec
from vistok.training.initialization import Initializer

Variables = dict[str, Any]
"""Collections of nested dicts: 'params', and others that are never trained ('frozen')."""


@flax.struct.dataclass
class TextFeatures:
    """Features of captions from a frozen text encoder.

    Attributes:
      features: one vector per text token; padding comes first.
      mask: which of them are real.
    """

    features: Float[Array, 'b n c']
    mask: Bool[Array, 'b n']


Condition = Int[Array, ' b'] | TextFeatures
"""What is asked for: class numbers in [0, num_classes), or text."""


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


@dataclasses.dataclass(frozen=True)
class SampleConfig:
    """How ids are drawn from logits, in this order: guidance, temperature, top-k, top-p.

    Attributes:
      temperature: divides the logits; 0 takes the most likely id.
      top_k: the k most likely ids remain, and those that tie with the last of them; 0 keeps all.
      top_p: the most likely ids remain whose probabilities add up to p, the one that crosses p included; 1 keeps all.
      guidance_scale: s in `null + s * (conditional - null)`; 1 needs no null condition.
      guidance_schedule: 'constant'; 'interval', guidance only for the first `guidance_interval` positions;
        'power_cosine', rising from 1 to s over the positions.
      guidance_interval: positions, for 'interval'.
      guidance_power: exponent, for 'power_cosine'.
      window: ids that an autoregressive method guesses at a time and checks in one pass: the same ids in fewer passes;
        0: one id after the other.
      steps: network calls of a method that refines all positions again and again, whose steps the schedules of guidance
        then run over; 0: as the method has it.
      second: how the second kind of ids is drawn, for methods that have two (CTF: fine ids, DQ-Transformer: positions);
        None: as the method has it.
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
    """What training minimises.

    Attributes:
      loss: scalar.
      metrics: other scalars worth logging; 'bits_per_token' where the method has a likelihood or a bound on it.
      state: new values of collections besides 'params', by name, of a method that keeps statistics while it trains.
    """

    loss: Float[Array, '']
    metrics: dict[str, Float[Array, '']] = flax.struct.field(default_factory=dict)
    state: Variables = flax.struct.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Generator(abc.ABC):
    """(condition) -> tokens: an algorithm around a network, as pure functions of its variables.

    Hashable, so that it can be a static argument of `jax.jit`.

    Attributes:
      spec: of the tokenizer whose tokens are generated.
      grid: rows and columns of the token grid.
      num_classes: labels are in [0, num_classes); label `num_classes` means no condition.
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
        """Fresh variables."""

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
        """What is minimised, over a batch of tokens `[b, *grid, k]`.

        Args:
          variables: as `init` gives them.
          tokens: of the tokenizer that `spec` describes.
          cond: of each sample.
          rng: for dropout, dropped conditions and noise.
          train: whether dropout and dropped conditions are on.
        """

    def prepare_for_sampling(self, variables: Variables) -> Variables:
        """Variables as `sample` reads them fastest, which takes them as well; by default as they are.

        Whoever draws many samples does this once; done again, it changes nothing and costs nothing.
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
        """Draws one token grid for each condition.

        Row i is drawn with `jax.random.fold_in(rng, sample_ids[i])`: what a sample looks like does not depend on the
        other samples of its batch, on the batch size or on the devices.

        Args:
          variables: as `init` or `prepare_for_sampling` gives them.
          cond: of each sample.
          rng: of the whole run of sampling.
          sample_ids: number of each sample in that run.
          config: how ids are drawn.
        """
