"""Linear probe and fine-tuning of ADDP's encoder for image classification.

Tian et al., "ADDP", 2024, section 4: linear classification of frozen features, and fine-tuning.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from vistok.collectives import replica_axis
from vistok.generators.masked.addp_network import PixelEncoder
from vistok.training.initialization import InitialData
from vistok.training.state import Batch, Objective, StepReport


@dataclasses.dataclass(frozen=True)
class TrainedEncoder:
    """Initializer that copies a trained encoder of pixels into a classifier, frozen or to be trained further."""

    option: str = ''

    def arrays(self, model: Any, settings: Any, data: InitialData) -> dict[str, np.ndarray]:
        """Returns the parameters of the encoder."""
        del settings
        place = 'frozen/trained_encoder' if model.linear else 'params/encoder'
        flat = flax.traverse_util.flatten_dict(data.components['encoder'], sep='/')
        return {f'{place}/{name}': np.asarray(value) for name, value in flat.items()}


class LinearProbe(nn.Module):
    """Classifier on mean-pooled patch features of a frozen or fine-tuned encoder.

    Attributes:
      encoder: pixel encoder that ADDP trained.
      num_classes: number of classes.
      linear: whether the encoder is frozen (linear probe); its variables are then in the collection 'frozen'.
    """

    initializers = (TrainedEncoder(),)

    encoder: PixelEncoder
    num_classes: int
    linear: bool = True

    @nn.compact
    def __call__(self, images: Float[Array, 'b H W 3'], *, train: bool = False) -> Float[Array, 'b k']:
        """Classifies images in [-1, 1]; returns logits."""
        features: Any
        if self.linear:
            encoder = self.encoder.clone(parent=None)
            params = self.variable('frozen', 'trained_encoder', lambda: self._init_encoder(encoder, images)).value
            features = jax.lax.stop_gradient(encoder.apply({'params': params}, images))
        else:
            features = self.encoder(images, train=train)
        x = nn.LayerNorm(epsilon=1e-6, name='norm')(features[:, 1:].astype(jnp.float32).mean(axis=1))
        return nn.Dense(self.num_classes, kernel_init=nn.initializers.normal(2e-5), name='classes')(x)

    def _init_encoder(self, encoder: PixelEncoder, images: Float[Array, 'b H W 3']) -> Any:
        return encoder.init(self.make_rng('params'), images)['params']


@dataclasses.dataclass(frozen=True, eq=False)
class LinearProbeObjective(Objective):
    """Classification objective with one player, 'recognizer', over batches of 'image' and 'label'.

    Attributes:
      model: the classifier.
      label_smoothing: share of the target that is spread over all classes.
    """

    model: LinearProbe
    label_smoothing: float = 0.0

    @property
    def players(self) -> tuple[str, ...]:
        return ('recognizer',)

    @property
    def frozen(self) -> None:
        """None: the frozen encoder belongs to the model, and is saved with it."""

    def init(self, rng: jax.Array, batch: Batch) -> tuple[dict[str, Any], dict[str, Any]]:
        variables = dict(self.model.init(rng, batch['image']))
        params = {'recognizer': variables.pop('params')}
        return params, {'recognizer': variables}

    def losses(
        self,
        params: dict[str, Any],
        model_state: dict[str, Any],
        frozen: None,
        batch: Batch,
        rng: jax.Array,
        step: jax.Array,
    ) -> tuple[dict[str, Float[Array, '']], tuple[dict[str, Any], StepReport]]:
        del frozen, step
        axis = replica_axis()
        if axis is not None:  # each replica drops other values
            rng = jax.random.fold_in(rng, jax.lax.axis_index(axis))
        variables = {'params': params['recognizer'], **model_state['recognizer']}
        logits: Any = self.model.apply(variables, batch['image'], train=True, rngs={'dropout': rng})
        nll, right = _score(logits, batch['label'])
        smooth = -jax.nn.log_softmax(logits).mean(axis=-1)
        loss = jnp.mean((1 - self.label_smoothing) * nll + self.label_smoothing * smooth)
        return {'recognizer': loss}, (model_state, StepReport({'accuracy': right.mean()}))

    def scores(self, variables: Any, batch: Batch) -> dict[str, Float[Array, ' b']]:
        """Computes the 'loss' of each image, and its 'accuracy': 1 where the true class is the most likely, else 0."""
        logits: Any = self.model.apply(variables, batch['image'])
        nll, right = _score(logits, batch['label'])
        return {'loss': nll, 'accuracy': right}


def _score(logits: Float[Array, 'b k'], labels: Int[Array, ' b']) -> tuple[Float[Array, ' b'], Float[Array, ' b']]:
    nll = -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=-1)[:, 0]
    return nll, (logits.argmax(axis=-1) == labels).astype(jnp.float32)
