"""Training objective of generators, over extracted tokens or tokens that a frozen tokenizer encodes."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vistok.errors import UserError
from vistok.generators.generator import Condition, Generator, TextFeatures, Variables
from vistok.tokenizers.tokenizer import Tokens
from vistok.tokenizers.trained import TrainedTokenizer
from vistok.training.state import Batch, Objective, StepReport


def condition(batch: Batch) -> Condition:
    """Returns the condition of each row of a batch: captions ('text', 'text_mask') if there are any, else classes."""
    if 'text' not in batch:
        return batch['label']
    return TextFeatures(jnp.asarray(batch['text'], jnp.float32), jnp.asarray(batch['text_mask']))


@dataclasses.dataclass(frozen=True, eq=False)
class GeneratorObjective(Objective):
    """Generator objective with one player, 'generator' (an `Objective`).

    Batches contain 'label', or captions (see `condition`), and either 'image', which the tokenizer encodes inside the
    step, or 'ids' (and 'grain', for tokenizers with grains).  The collections of the generator other than 'params' are
    the model state; `GeneratorLoss.state` replaces some of it.

    Attributes:
      generator: the model.
      tokenizer: tokenizer of the images; may be None where all batches contain tokens.
    """

    generator: Generator
    tokenizer: TrainedTokenizer | None = None

    @property
    def players(self) -> tuple[str, ...]:
        return ('generator',)

    @property
    def frozen(self) -> Variables | None:
        return None if self.tokenizer is None else self.tokenizer.variables

    def init(self, rng: jax.Array, batch: Batch) -> tuple[dict[str, Any], dict[str, Any]]:
        del batch
        variables = dict(self.generator.init(rng))
        params = {'generator': variables.pop('params')}
        return params, {'generator': variables}

    def tokens(self, frozen: Variables | None, batch: Batch) -> Tokens:
        """Returns the tokens of a batch, encoding images where it has no tokens.

        Raises:
          UserError: the batch contains images, and there is no tokenizer.
        """
        if 'ids' in batch:
            return Tokens(batch['ids'], batch.get('grain'))
        if self.tokenizer is None or frozen is None:
            raise UserError('batches of images need a tokenizer')
        tokens: Any = self.tokenizer.module.apply(frozen, batch['image'], method='encode')
        return tokens

    def losses(
        self,
        params: dict[str, Any],
        model_state: dict[str, Any],
        frozen: Variables | None,
        batch: Batch,
        rng: jax.Array,
        step: jax.Array,
    ) -> tuple[dict[str, Float[Array, '']], tuple[dict[str, Any], StepReport]]:
        del step
        variables = {'params': params['generator'], **model_state['generator']}
        result = self.generator.loss(variables, self.tokens(frozen, batch), condition(batch), rng, train=True)
        model_state = {**model_state, 'generator': {**model_state['generator'], **result.state}}
        return {'generator': result.loss}, (model_state, StepReport(dict(result.metrics)))

    def losses_by_image(
        self,
        variables: Variables,
        frozen: Variables | None,
        batch: Batch,
        rng: jax.Array,
    ) -> dict[str, Float[Array, ' b']]:
        """Computes evaluation loss and metrics for each image separately.

        Args:
          variables: of the generator.
          frozen: of the tokenizer.
          batch: as in training, with 'index', the number of each image.  It seeds, together with `rng`, the random
            numbers of methods that need some, so that these do not depend on the batch.
          rng: random key of the evaluation.
        """

        tokens = self.tokens(frozen, batch)

        def one(index: Array, *row: Any) -> dict[str, Array]:
            ids, grain, fields = jax.tree.map(lambda x: x[None], row)
            rng_one = jax.random.fold_in(rng, index)
            cond = condition(fields)
            result = self.generator.loss(variables, Tokens(ids, grain), cond, rng_one, train=False)
            return {'loss': result.loss, **result.metrics}

        conditions = {name: batch[name] for name in ('label', 'text', 'text_mask') if name in batch}
        return jax.vmap(one)(batch['index'], tokens.ids, tokens.grain, conditions)
