"""ReFiT: a new codebook for a trained tokenizer, made of k-means centres of the vectors of its encoder.

ReFiT of Hu et al., "Global Context with Discrete Diffusion in Vector Quantised Modelling for Image Generation" (2022):
a codebook of which training left most unused becomes a smaller one of which nearly all is used.
"""

import dataclasses
import functools
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from vistok.clustering.kmeans import kmeans
from vistok.errors import UserError
from vistok.tokenizers.codebooks.codebook import unit_norm
from vistok.tokenizers.plain_codebook import to_plain_codebook
from vistok.tokenizers.trained import TrainedTokenizer
from vistok.tokenizers.vqgan import VQGAN


def sample_latents(
    trained: TrainedTokenizer, images: Iterable[Float[np.ndarray, 'b H W 3']], count: int, *, seed: int = 0
) -> Float[np.ndarray, 'n d']:
    """Samples one encoder output from each image, at a random position: many images count, not many positions of one.

    Args:
      trained: a tokenizer that `refitted` takes.
      images: batches; no more are taken than needed.
      count: number of vectors.
      seed: seed of the random positions.

    Raises:
      UserError: there are no images.
    """
    module: Any = trained.module
    latents = jax.jit(functools.partial(module.apply, method='latents'))
    rng, found, done = np.random.default_rng(seed), [], 0
    for batch in images:
        z = np.asarray(latents(trained.variables, jnp.asarray(batch)), np.float32)
        z = z.reshape(len(z), -1, z.shape[-1])
        found.append(z[np.arange(len(z)), rng.integers(0, z.shape[1], len(z))])
        done += len(z)
        if done >= count:
            break
    if not found:
        raise UserError('there are no images to take vectors of')
    return np.concatenate(found)[:count]


def refit_codebook(
    trained: TrainedTokenizer, vectors: Float[np.ndarray, 'n d'], size: int | None = None, *, seed: int = 0
) -> TrainedTokenizer:
    """Replaces the codebook by k-means centres of `vectors`; encoder and decoder stay the same.

    Args:
      trained: a tokenizer that `to_plain_codebook` makes a `VQGAN` of: VQGAN, VQGAN-LC, SimVQ, FVQ.
      vectors: outputs of its encoder (`sample_latents`).
      size: codewords; None: as many as before.
      seed: seed of k-means.

    Raises:
      UserError: another tokenizer, or fewer vectors than codewords.
    """
    plain = to_plain_codebook(trained)
    module = plain.module
    if type(module) is not VQGAN:
        raise UserError(f'the vectors of a {type(trained.module).__name__} do not lie around its codewords alone')
    size = size or module.codebook_size
    if not 1 <= size <= len(vectors):
        raise UserError(f'{size} codewords need at least as many vectors, got {len(vectors)}')
    if module.normalize:
        vectors = np.asarray(unit_norm(jnp.asarray(vectors)))
    centres = jnp.asarray(kmeans(vectors, size, seed=seed).centroids)
    params = {**plain.variables['params'], 'quantizer': {'codebook': {'codewords': centres}}}
    return dataclasses.replace(plain, module=module.clone(codebook_size=size), variables={'params': params})
