"""Trained generators: a generator together with its variables."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from vistok.errors import UserError
from vistok.generators.class_labels import check_class_ids
from vistok.generators.generator import Condition, Generator, GeneratorLoss, SampleConfig, TextFeatures
from vistok.tokenizers.tokenizer import Tokens
from vistok.tokenizers.trained import TrainedTokenizer

ConditionLike = Condition | Int[np.ndarray, ' b'] | Sequence[int]


@dataclasses.dataclass(frozen=True)
class TrainedGenerator:
    """Generator with its variables; calls are compiled once per shape and `SampleConfig`.

    Attributes:
      generator: the generator; its arguments are hashable (tuples, not lists).
      variables: its collections ('params', ...).
      ignored: names of the entries of official files that were not used.
      tokenizer: decoder of its tokens, where one is known: an object with `decode(tokens) -> images`.
      class_names: names of the classes in the order of their numbers; empty where they are unknown.
      sample_config: sampling defaults of the model (guidance, temperature, top-k, ...).
      tokenizer_fingerprint: fingerprint of the tokenizer of its tokens; '' where it is not known.
      text_encoder: for a generator on text, the encoder of its captions: 'encoder' (name), 'tokens' and 'width'.
    """

    generator: Generator
    variables: dict[str, Any]
    ignored: tuple[str, ...] = ()
    tokenizer: Any = None
    class_names: tuple[str, ...] = ()
    sample_config: SampleConfig = SampleConfig()  # noqa: RUF009 (frozen)
    tokenizer_fingerprint: str = ''
    text_encoder: Any = None

    def with_tokenizer(self, tokenizer: TrainedTokenizer) -> 'TrainedGenerator':
        """Returns this generator together with the tokenizer of its tokens.

        Raises:
          UserError: the tokenizer's tokens are others.
        """
        theirs, ours = tokenizer.spec, self.generator.spec
        if self.tokenizer_fingerprint not in ('', tokenizer.fingerprint):
            raise UserError(
                f'the generator is one for the tokenizer with the fingerprint {self.tokenizer_fingerprint[:16]}…, got '
                f'the tokenizer with {tokenizer.fingerprint[:16]}…'
            )
        for field in ('codebook_sizes', 'grains'):
            if getattr(theirs, field) != getattr(ours, field):
                raise UserError(
                    f'the tokenizer has other tokens than the generator: its {field} are {getattr(theirs, field)}, the '
                    f"generator's {getattr(ours, field)}"
                )
        # Official generators do not say what their tokens look like in pixels; the tokenizer does.
        generator = self.generator if self.tokenizer_fingerprint else dataclasses.replace(self.generator, spec=theirs)
        return dataclasses.replace(self, generator=generator, tokenizer=tokenizer)

    def sample(
        self,
        cond: ConditionLike,
        seed: int | Array = 0,
        config: SampleConfig = SampleConfig(),  # noqa: B008 (frozen)
        sample_ids: Sequence[int] | Int[np.ndarray | Array, ' b'] | None = None,
    ) -> Tokens:
        """Samples one token grid for each condition.

        Args:
          cond: class numbers in [0, num_classes], where `num_classes` means no condition, or text features.
          seed: seed of the sampling run, or a random key.
          config: sampling options.
          sample_ids: number of each sample in the run, 0, 1, ... by default.  A sample depends on the seed, its number
            and its condition, not on the rest of the batch.

        Raises:
          UserError: a class number is out of range.
        """
        cond = self._check_condition(cond)
        rng = jax.random.key(seed) if isinstance(seed, int) else seed
        count = len(jax.tree.leaves(cond)[0])
        numbers = jnp.arange(count) if sample_ids is None else jnp.asarray(sample_ids, jnp.int32)
        return _sample(self.generator, config, self.sampling_variables, cond, rng, numbers)

    @functools.cached_property
    def sampling_variables(self) -> dict[str, Any]:
        """Variables prepared for `sample`; computed at the first use and kept.

        The preparation is not compiled, because a compiled function would copy arrays that do not change.
        """
        return self.generator.prepare_for_sampling(self.variables)

    def loss(self, tokens: Tokens, cond: ConditionLike) -> GeneratorLoss:
        """Computes the loss of a batch of tokens, without dropout and with every condition."""
        return _loss(self.generator, self.variables, tokens, self._check_condition(cond))

    def _check_condition(self, cond: ConditionLike) -> Condition:
        if isinstance(cond, TextFeatures):
            return cond
        ids = np.asarray(cond, np.int32)
        check_class_ids(ids, self.generator.num_classes)
        return jnp.asarray(ids)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _sample(
    generator: Generator, config: SampleConfig, variables: Any, cond: Condition, rng: Array, numbers: Array
) -> Tokens:
    return generator.sample(variables, cond, rng, numbers, config)


@functools.partial(jax.jit, static_argnums=0)
def _loss(generator: Generator, variables: Any, tokens: Tokens, cond: Condition) -> GeneratorLoss:
    return generator.loss(variables, tokens, cond, jax.random.key(0), train=False)
