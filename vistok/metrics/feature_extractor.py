"""Feature extractors of metrics: 8-bit images to features, by the network and preprocessing of a protocol."""

import dataclasses
import functools
import hashlib
import os
import pathlib
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from vistok.errors import UserError
from vistok.metrics.protocols import Protocol
from vistok.pretrained.convert import INCEPTION_IGNORED, inception_rules
from vistok.pretrained.inception import SIDE, FIDInception
from vistok.pretrained.stand_in import StandInPooledFeatures, stand_in_params
from vistok.weights.files import is_ours, load_variables, read_state_dict
from vistok.weights.rules import to_ours, variable_shapes

# The published file carries the start of its digest in its name: pt_inception-2015-12-05-6726825d.pth.
_SHA256_START = '6726825d'


@dataclasses.dataclass(frozen=True)
class ImageFeatures:
    """Features of n images on the host; None where the protocol has none.

    Attributes:
      pool: pooled features, one vector per image.
      spatial: spatial features, for sFID.
      logits: logits without bias, for the inception score.
    """

    pool: Float[np.ndarray, 'n d']
    spatial: Float[np.ndarray, 'n s'] | None = None
    logits: Float[np.ndarray, 'n classes'] | None = None


@dataclasses.dataclass(frozen=True)
class FeatureExtractor:
    """Feature network of a protocol, with its weights.

    Attributes:
      protocol: evaluation protocol.
      module: feature network.
      variables: weights of the network.
    """

    protocol: Protocol
    module: nn.Module
    variables: Any

    @functools.cached_property
    def network_sha256(self) -> str:
        """SHA-256 digest of the weights themselves, independent of the file that held them."""
        digest = hashlib.sha256()
        for path, value in sorted(flax.traverse_util.flatten_dict(dict(self.variables), sep='/').items()):
            digest.update(path.encode())
            digest.update(np.ascontiguousarray(value).data)
        return digest.hexdigest()

    def __call__(self, images: UInt8[np.ndarray, 'n h w 3'], batch_size: int = 0) -> ImageFeatures:
        """Extracts the features of n images.

        Args:
          images: RGB, of any one size.
          batch_size: smaller batches are padded to this size, so that a last batch needs no compilation of its own.
        """
        count = len(images)
        if count < batch_size:
            images = np.concatenate([images, np.zeros((batch_size - count, *images.shape[1:]), np.uint8)])
        found = jax.device_get(_features(self.module, self.protocol, self.variables, images))
        return ImageFeatures(**{name: np.asarray(x)[:count] for name, x in found.items()})


@functools.partial(jax.jit, static_argnums=(0, 1))
def _features(
    module: nn.Module, protocol: Protocol, variables: Any, images: UInt8[Array, 'b h w 3']
) -> dict[str, Float[Array, 'b _']]:
    output: Any = module.apply(variables, protocol.prepare(images))
    if not protocol.is_fid:
        return {'pool': output}
    features = {'pool': output.pool}
    if protocol.spatial:
        features['spatial'] = output.spatial
    if protocol.score:
        features['logits'] = output.unbiased_logits
    return features


def load_extractor(
    protocol: Protocol, path: str | os.PathLike[str] | None = None, *, sha256: str | None = None
) -> FeatureExtractor:
    """Loads the feature network of a protocol.

    Args:
      protocol: one of `PROTOCOLS`.
      path: file of Inception weights in pytorch-fid's names (`pt_inception-2015-12-05-6726825d.pth`), or what
        launch/convert.py made of it; None for the stand-in.
      sha256: expected digest of the file; needed for another file than the published one.

    Raises:
      UserError: the weights are missing, not needed, or not what the digest says, or of another model.
    """
    if not protocol.is_fid:
        if path is not None:
            raise UserError(f'protocol {protocol.name!r} comes with its weights; {str(path)!r} cannot be used')
        return FeatureExtractor(
            protocol, StandInPooledFeatures(), {'params': {'features': stand_in_params()['features']}}
        )
    if path is None:
        raise UserError(
            f'protocol {protocol.name!r} needs the Inception weights of pytorch-fid, '
            "pt_inception-2015-12-05-6726825d.pth; without them use protocol 'stand_in'"
        )
    file = pathlib.Path(path)
    if not file.is_file():
        raise UserError(f'there is no file {file}')
    with file.open('rb') as opened:
        found = hashlib.file_digest(opened, 'sha256').hexdigest()
    if sha256 is None and not found.startswith(_SHA256_START):
        raise UserError(
            f'{file} is not the published file: its sha256 starts with {found[:8]}, not {_SHA256_START}; '
            'if it holds the same weights, state the sha256 that it should have'
        )
    if sha256 is not None and found != sha256.lower():
        raise UserError(f'{file} has the sha256 {found}, not {sha256}')
    module = FIDInception()
    if is_ours(file):
        saved = load_variables(file)
        if saved.name != 'inception_fid':
            raise UserError(f'{file} holds {saved.name}, not inception_fid')
        variables = saved.variables
    else:
        shapes = variable_shapes(module, jax.ShapeDtypeStruct((1, SIDE, SIDE, 3), jnp.float32))
        variables = to_ours(inception_rules(), read_state_dict(file), shapes, INCEPTION_IGNORED).variables
    return FeatureExtractor(protocol, module, jax.tree.map(jnp.asarray, variables))
