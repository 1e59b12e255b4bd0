"""What occurs in images: their tokens, and the codewords these stand for, to count or to cluster."""

import numpy as np
from jaxtyping import Float, UInt8
from tqdm import tqdm

from vistok.compression.codec import Codec
from vistok.compression.rate_control import shares_at
from vistok.data.images.pipeline import open_source
from vistok.tokenizers.tokenizer import Tokens
from vistok.tokenizers.trained import TrainedTokenizer

_PLACES = (0.15, 0.3, 0.5, 0.7, 0.85)  # on the curve of shares, in turn, for tokenizers with grains


def tokens_of(codec: Codec, source: str, images: int, crop: int = 0) -> list[Tokens]:
    """Tokens of at most so many images of a source, evenly spread over it; none is taken twice.

    Args:
      codec: whose tokens.
      source: as for training.
      images: how many at most.
      crop: side of the square in the middle of an image that is looked at, in pixels; what is smaller is looked at
        whole, as everything is if this is 0.  Networks are compiled for each size of images.
    """
    opened = open_source(source, 'train')
    tokens, seen, grains = [], set(), codec.tokenizer.spec.grains
    for index in tqdm(np.unique(np.linspace(0, len(opened) - 1, images).astype(int)), desc='counting', disable=None):
        record = opened[int(index)]
        if record.name in seen:  # a source may give one image many times
            continue
        seen.add(record.name)
        shares = shares_at(_PLACES[len(seen) % len(_PLACES)], len(grains)) if len(grains) > 1 else None
        tokens.append(codec.encode(middle(record.image, crop) if crop else record.image, grain_ratios=shares))
    return tokens


def middle(image: UInt8[np.ndarray, 'h w 3'], side: int) -> UInt8[np.ndarray, 'H W 3']:
    """The square in the middle of an image, not resized; of sides that are shorter, all."""
    top, left = (max(length - side, 0) // 2 for length in image.shape[:2])
    return image[top : top + side, left : left + side]


def codewords(model: TrainedTokenizer) -> list[Float[np.ndarray, '_ _']]:
    """Of each sub-codebook, `[K, d]`, as the decoder gets them, beside constant values of the other ones."""
    found, spec = [], model.spec
    for j, size in enumerate(spec.codebook_sizes):
        ids = np.zeros((1, 1, size, len(spec.codebook_sizes)), np.int32)
        ids[..., j] = np.arange(size)
        grain = np.ones(ids.shape[:3], np.int32) if len(spec.grains) > 1 else None
        found.append(np.asarray(model.embed(Tokens(ids, grain)))[0, 0])
    return found
