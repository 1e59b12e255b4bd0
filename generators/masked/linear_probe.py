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
from vistok.errors import UserError
from vistok.generators.masked.addp_network import PixelEncoder
from vistok.networks.norms import BatchNorm, LayerNorm
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
      drop_path: rate of stochastic depth in the last block of a fine-tuned encoder, in earlier ones linearly less.
      batch_norm: whether features are normalized over the batch, without learned factors, as in MAGE's linear probe.
    """

    initializers = (TrainedEncoder(),)

    encoder: PixelEncoder
    num_classes: int
    linear: bool = True
    drop_path: float = 0.0
    batch_norm: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.drop_path < 1:
            raise UserError(f'model.drop_path must be at least 0 and below 1, got {self.drop_path}')

    @nn.compact
    def __call__(self, images: Float[Array, 'b H W 3'], *, train: bool = False) -> Float[Array, 'b k']:
        """Classifies images in [-1, 1]; returns logits."""
        features: Any
        if self.linear:
            encoder = self.encoder.clone(parent=None)
            params = self.variable('frozen', 'trained_encoder', lambda: self._init_encoder(encoder, images)).value
            features = jax.lax.stop_gradient(encoder.apply({'params': params}, images))
        else:
            features = self.encoder(images, train=train, drop_path=self.drop_path)
        learned = not self.batch_norm
        norm = LayerNorm(epsilon=1e-6, use_scale=learned, use_bias=learned, name='norm')
        x = norm(features[:, 1:].astype(jnp.float32).mean(axis=1))
        if self.batch_norm:
            x = BatchNorm(
                use_running_average=not train,
                momentum=0.9,
                epsilon=1e-6,
                use_scale=False,
                use_bias=False,
                axis_name=replica_axis(),
                name='statistics',
            )(x)
        deviation = 0.01 if self.batch_norm else 2e-5  # as published, of the linear probe and of fine-tuning
        return nn.Dense(self.num_classes, kernel_init=nn.initializers.normal(deviation), name='classes')(x)

    def _init_encoder(self, encoder: PixelEncoder, images: Float[Array, 'b H W 3']) -> Any:
        return encoder.init(self.make_rng('params'), images)['params']


@dataclasses.dataclass(frozen=True, eq=False)
class LinearProbeObjective(Objective):
    """Classification objective with one player, 'recognizer', over batches of 'image' and 'label'.

    Batches of mixed images also have 'other_label', and 'share', the weight of 'label'.

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
        rngs = {'dropout': rng, 'drop_path': jax.random.fold_in(rng, 1)}
        variables = {'params': params['recognizer'], **model_state['recognizer']}
        logits: Any
        changed: Any
        logits, changed = self.model.apply(variables, batch['image'], train=True, rngs=rngs, mutable=['batch_stats'])
        loss, right = classification_scores(logits, batch, self.label_smoothing)
        model_state = {**model_state, 'recognizer': {**model_state['recognizer'], **changed}}
        return {'recognizer': loss.mean()}, (model_state, StepReport({'accuracy': right.mean()}))

    def parameter_depths(self, params: Any) -> Any:
        """Returns the depth of each parameter of the player, for the decay of the learning rate with depth.

        That is 0 for the embedding of patches, 1 and on for the blocks (which are stacked along the first axis), and
        one more for what follows them, as in BEiT, masked autoencoders and ADDP.
        """
        blocks = self.model.encoder.layers

        def depth(path: tuple[Any, ...], value: Any) -> np.ndarray:
            names = [key.key for key in path]
            if names[0] != 'encoder' or names[1:3] == ['blocks', 'norm']:
                return np.asarray(blocks + 1)
            if names[1] != 'blocks':
                return np.asarray(0)
            return np.arange(1, blocks + 1).reshape(-1, *(1 for _ in value.shape[1:]))

        return jax.tree_util.tree_map_with_path(depth, params)

    def scores(self, variables: Any, batch: Batch) -> dict[str, Float[Array, ' b']]:
        """Computes the 'loss' of each image, and its 'accuracy': 1 where the true class is the most likely, else 0."""
        logits: Any = self.model.apply(variables, batch['image'])
        nll, right = classification_scores(logits, batch)
        return {'loss': nll, 'accuracy': right}


def classification_scores(
    logits: Float[Array, 'b k'], batch: Batch, label_smoothing: float = 0.0
) -> tuple[Float[Array, ' b'], Float[Array, ' b']]:
    """Computes the cross-entropy of each image, and whether the most likely class is its own.

    Args:
      logits: of the classes.
      batch: 'label', and for mixtures 'other_label' and 'share': the two labels count by their shares in both results.
      label_smoothing: share of the target that is spread over all classes.
    """
    nll, right = _score(logits, batch['label'])
    if 'other_label' in batch:
        share = batch['share']
        other_nll, other_right = _score(logits, batch['other_label'])
        nll, right = share * nll + (1 - share) * other_nll, share * right + (1 - share) * other_right
    smooth = -jax.nn.log_softmax(logits).mean(axis=-1)
    return (1 - label_smoothing) * nll + label_smoothing * smooth, right


def _score(logits: Float[Array, 'b k'], labels: Int[Array, ' b']) -> tuple[Float[Array, ' b'], Float[Array, ' b']]:
    nll = -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=-1)[:, 0]
    return nll, (logits.argmax(axis=-1) == labels).astype(jnp.float32)
