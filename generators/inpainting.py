"""Parts of images made anew: hidden pixels, the tokens that remain known, and what a VQ-DDM makes of the others."""

import functools
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.ndimage
from jaxtyping import Array, Bool, Float, Int
from PIL import Image, UnidentifiedImageError

from vistok.errors import UserError
from vistok.generators.diffusion.vq_ddm import VQDDM
from vistok.generators.generator import Generator, SampleConfig
from vistok.tokenizers.tokenizer import Tokens
from vistok.tokenizers.trained import TrainedTokenizer

REGIONS = ('left', 'right', 'upper', 'lower', 'centre', 'border')


def read_mask(path: str | os.PathLike[str], side: int) -> Bool[np.ndarray, 'side side']:
    """Reads a mask from an image: white (brighter than mid-grey) hides a pixel.

    Args:
      path: of the image; another size is scaled, without smoothing.
      side: of the mask in pixels.

    Raises:
      UserError: the file is missing or no image.
    """
    try:
        with Image.open(path) as image:
            grey = image.convert('L').resize((side, side), Image.Resampling.NEAREST)
    except (OSError, UnidentifiedImageError) as error:
        raise UserError(f'{path} cannot be read as a mask: {error}') from None
    return np.asarray(grey) >= 128


def mask_region(name: str, side: int) -> Bool[np.ndarray, 'side side']:
    """Returns a mask that hides half of the image, its middle (half its side), or all around that.

    Raises:
      UserError: an unknown name.
    """
    hidden = np.zeros((side, side), bool)
    half, quarter = side // 2, side // 4
    if name in ('centre', 'border'):
        hidden[quarter : side - quarter, quarter : side - quarter] = True
        return hidden if name == 'centre' else ~hidden
    halves: dict[str, Any] = {
        'left': np.s_[:, :half],
        'right': np.s_[:, half:],
        'upper': np.s_[:half],
        'lower': np.s_[half:],
    }
    if name not in halves:
        raise UserError(f'unknown region {name!r}; known: {", ".join(REGIONS)}')
    hidden[halves[name]] = True
    return hidden


def cover_hidden(images: Float[np.ndarray, 'b h w 3'], hidden: Bool[np.ndarray, 'h w']) -> Float[np.ndarray, 'b h w 3']:
    """Replaces hidden pixels by the nearest visible one, so that a tokenizer learns nothing of them.

    If everything is hidden, they are mid-grey.
    """
    if hidden.all():
        return np.zeros_like(images)
    _, nearest = scipy.ndimage.distance_transform_edt(hidden, return_indices=True)
    return images[:, nearest[0], nearest[1]]


def find_known_cells(
    hidden: Bool[np.ndarray, 'h w'], grid: tuple[int, int], margin: int = 0
) -> Bool[np.ndarray, 'gh gw']:
    """Returns the cells of the token grid without a hidden pixel.

    Args:
      hidden: pixels.
      grid: rows and columns.
      margin: cells around those with hidden pixels that count as unknown as well.
    """
    rows, columns = grid
    cells = hidden.reshape(rows, hidden.shape[0] // rows, columns, hidden.shape[1] // columns).any(axis=(1, 3))
    if margin:
        cells = np.asarray(scipy.ndimage.binary_dilation(cells, np.ones((3, 3), bool), iterations=margin))
    return np.logical_not(cells)


def inpaint_images(
    generator: Generator,
    variables: Any,
    tokenizer: TrainedTokenizer | None,
    images: Float[np.ndarray, 'b h w 3'],
    hidden: Bool[np.ndarray, 'h w'],
    cond: Int[np.ndarray, ' b'],
    sample_ids: Int[np.ndarray, ' b'],
    config: SampleConfig,
    *,
    seed: int = 0,
    repeats: int = 1,
    margin: int = 0,
    paste: bool = False,
) -> Float[np.ndarray, 'b h w 3']:
    """Fills the hidden parts of images by a generator; no hidden pixel is looked at.

    Args:
      generator: a VQ-DDM.
      variables: its variables.
      tokenizer: of its tokens.
      images: in [-1, 1], of the size that the model makes.
      hidden: pixels to make, the same in all images.
      cond: class of each image; `num_classes` asks for nothing.
      sample_ids: number of each completion; other numbers give other completions.
      config: sampling options.
      seed: seed of the sampling run.
      repeats: number of times that each step is taken (`VQDDM.inpaint`).
      margin: see `find_known_cells`.
      paste: whether pixels that are not hidden come from the images instead of from their tokens.

    Raises:
      UserError: the model is no VQ-DDM or comes without a tokenizer, or the images have another size.
    """
    if not isinstance(generator, VQDDM) or tokenizer is None:
        raise UserError(f'only a VQ-DDM with its tokenizer inpaints images, got a {type(generator).__name__}')
    sides = tuple(cells * generator.spec.downsample_factor for cells in generator.grid)
    if images.shape[1:3] != sides or hidden.shape != sides:
        raise UserError(f'the model makes images of {sides} pixels, got {images.shape[1:3]} and a mask {hidden.shape}')
    tokens = tokenizer.encode(cover_hidden(images, hidden))
    known = jnp.broadcast_to(find_known_cells(hidden, generator.grid, margin), (len(images), *generator.grid))
    filled = _complete(
        generator,
        config,
        repeats,
        variables,
        tokens,
        known,
        jnp.asarray(cond),
        jax.random.key(seed),
        jnp.asarray(sample_ids),
    )
    made = np.asarray(tokenizer.decode(filled)).clip(-1, 1)
    return np.where(hidden[..., None], made, images) if paste else made


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _complete(
    generator: VQDDM,
    config: SampleConfig,
    repeats: int,
    variables: Any,
    tokens: Tokens,
    known: Bool[Array, 'b gh gw'],
    cond: Int[Array, ' b'],
    rng: jax.Array,
    sample_ids: Int[Array, ' b'],
) -> Tokens:
    return generator.inpaint(variables, tokens, known, cond, rng, sample_ids, config, repeats=repeats)
