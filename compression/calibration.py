"""Statistics of tokens over a set of images, from which priors and nested codebooks are fitted."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from vistok.compression.pixel_formats import ImageArray
from vistok.compression.rate_control import binomial_grain_ratios
from vistok.tokenizers.tokenizer import Tokens, TokenSpec

_FINE_PROBABILITIES = (0.15, 0.3, 0.5, 0.7, 0.85)  # cycled over the images, so that all rates are represented


def encode_for_statistics(
    encode: Callable[[ImageArray, Sequence[float] | None], Tokens], images: Iterable[ImageArray], grains: int
) -> list[Tokens]:
    """Encodes images, with varying shares of the grains where there are several.

    Args:
      encode: maps an image and its grain ratios (None for the tokenizer's own choice) to tokens, a batch of one.
      images: uint8 or uint16 `[h, w, c]` each.
      grains: number of grains of the tokenizer.
    """
    tokens = []
    for number, image in enumerate(images, 1):
        t = _FINE_PROBABILITIES[number % len(_FINE_PROBABILITIES)]
        tokens.append(encode(image, binomial_grain_ratios(t, grains) if grains > 1 else None))
    return tokens


def count_codewords(tokens: Sequence[Tokens], spec: TokenSpec) -> list[Int[np.ndarray, ' _']]:
    """Counts the occurrences of each codeword, for each sub-codebook `[K]`."""
    return [
        np.bincount(np.concatenate([np.asarray(image.ids)[..., j].ravel() for image in tokens]), minlength=size)
        for j, size in enumerate(spec.codebook_sizes)
    ]


def embed_codewords(tokenizer: Any) -> list[Float[np.ndarray, '_ _']]:
    """Returns the codewords of each sub-codebook `[K, d]` as the decoder receives them.

    The other sub-codebooks' ids are 0 meanwhile, which adds the same constant to all vectors.

    Args:
      tokenizer: has `spec` and `embed`, as `TrainedTokenizer` does.
    """
    vectors, spec = [], tokenizer.spec
    for j, size in enumerate(spec.codebook_sizes):
        ids = np.zeros((1, 1, size, len(spec.codebook_sizes)), np.int32)
        ids[..., j] = np.arange(size)
        grain = np.ones(ids.shape[:3], np.int32) if len(spec.grains) > 1 else None
        vectors.append(np.asarray(tokenizer.embed(Tokens(ids, grain)))[0, 0])
    return vectors
