"""Trained generators: a generator together with its variables."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, UInt8

from vistok.errors import UserError
from vistok.generators.class_labels import check_class_ids, find_classes
from vistok.generators.generator import Condition, Generator, GeneratorLoss, SampleConfig, TextFeatures
from vistok.generators.inpainting import inpaint_images
from vistok.tokenizers.tokenizer import Tokens
from vistok.tokenizers.trained import TrainedTokenizer
from vistok.visualization import to_uint8

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
        classes: Sequence[int | str] = ('all',),
        *,
        per_class: int = 1,
        seed: int = 0,
        batch_size: int = 64,
        **options: Any,
    ) -> UInt8[np.ndarray, 'n H W 3']:
        """Samples images of some classes.

        Classes take turns: with two classes and `per_class=2` the images are of the first, second, first and second
        class.  The command `sample` draws the same images for the same seed.

        Args:
          classes: numbers or names, `['all']` for every class; a generator without classes takes the default.
          per_class: images of each class.
          seed: seed of the sampling run.
          batch_size: images at a time; has no influence on them.
          **options: fields of `SampleConfig` that replace the model's defaults, such as `guidance_scale=2.0`.

        Raises:
          UserError: there is no such class or option, the generator is conditioned on text (use `sample_tokens`), or
            its tokenizer is not known.
        """
        if self.tokenizer is None:
            raise UserError('the generator has no tokenizer to decode its tokens: add one by `with_tokenizer`')
        if self.text_encoder is not None:
            raise UserError('this generator is conditioned on text: sample tokens of text features, `sample_tokens`')
        if per_class < 1 or batch_size < 1:
            raise UserError(f'per_class and batch_size are at least 1, got {per_class} and {batch_size}')
        config = self.change_sample_config(**options)
        names = self.class_names or [str(i) for i in range(self.generator.num_classes)]
        ids = find_classes([str(word) for word in classes], names) if self.generator.num_classes else (0,)
        labels = np.tile(np.asarray(ids, np.int32), per_class)
        images = []
        for start in range(0, len(labels), batch_size):
            numbers = start + np.arange(min(batch_size, len(labels)))  # batches of one size need one program
            tokens = self.sample_tokens(labels[np.minimum(numbers, len(labels) - 1)], seed, config, numbers)
            images.append(np.asarray(to_uint8(self.tokenizer.decode(tokens))))
        return np.concatenate(images)[: len(labels)]

    def change_sample_config(self, **options: Any) -> SampleConfig:
        """Returns the model's sampling defaults with some fields changed.

        Raises:
          UserError: `SampleConfig` has no such field.
        """
        known = [field.name for field in dataclasses.fields(SampleConfig)]
        unknown = sorted(set(options) - set(known))
        if unknown:
            raise UserError(f'there is no sampling option {unknown[0]!r}; known: {", ".join(known)}')
        return dataclasses.replace(self.sample_config, **options)

    def inpaint(
        self,
        images: UInt8[np.ndarray, '*b H W 3'],
        mask: Bool[np.ndarray, 'H W'],
        *,
        seed: int = 0,
        classes: Sequence[int] | None = None,
        repeats: int = 1,
        margin: int = 0,
        paste: bool = False,
        **options: Any,
    ) -> UInt8[np.ndarray, '*b H W 3']:
        """Fills the hidden parts of an image, or of a batch of images, see `inpainting.inpaint_images`.

        Args:
          images: of the size that the model makes.
          mask: True where pixels are hidden.
          seed: seed of the sampling run; other seeds give other completions.
          classes: class number of each image; None leaves the class open.
          repeats: number of times that each step is taken.
          margin: cells around the hidden ones that are made anew as well.
          paste: whether pixels that are not hidden are copied from the images.
          **options: fields of `SampleConfig` that replace the model's defaults.

        Raises:
          UserError: the model cannot inpaint, or the images have another size.
        """
        batch = images if images.ndim == 4 else images[None]
        if classes is None:
            classes = [self.generator.num_classes] * len(batch)
            options.setdefault('guidance_scale', 1.0)  # without a condition there is nothing to be guided to
        filled = inpaint_images(
            self.generator,
            self.variables,
            self.tokenizer,
            batch.astype(np.float32) / 127.5 - 1.0,
            mask,
            np.asarray(classes, np.int32),
            np.arange(len(batch), dtype=np.int32),
            self.change_sample_config(**options),
            seed=seed,
            repeats=repeats,
            margin=margin,
            paste=paste,
        )
        return np.asarray(to_uint8(filled)).reshape(images.shape)

    def sample_tokens(
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
        """Variables prepared for `sample_tokens`; computed at the first use and kept.

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
