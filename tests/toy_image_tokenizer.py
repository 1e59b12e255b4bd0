"""A tokenizer without a network, for codecs: each cell is described by its mean colour, in few levels."""

import dataclasses

import numpy as np

from vistok.tokenizers.tokenizer import Tokens, TokenSpec


@dataclasses.dataclass(frozen=True)
class ToyTokenizer:
    """`levels`^3 colours per cell; with several grains the least varied blocks are described at once."""

    factor: int = 8
    grains: tuple[int, ...] = (1,)
    levels: int = 4
    codebooks: int = 1

    @property
    def spec(self):
        sizes = (self.levels**3,) if self.codebooks == 1 else (self.levels,) * 3
        names = ('colour',) if self.codebooks == 1 else ('red', 'green', 'blue')
        return TokenSpec(sizes, self.factor, names, self.grains)

    def encode(self, images, *, grain_ratios=None):
        images = np.asarray(images)
        b, height, width, _ = images.shape
        assert height % self.spec.cell == width % self.spec.cell == 0
        means = _pooled(images, self.factor)
        grain = np.ones(means.shape[:3], np.int32)
        shares = grain_ratios or [1 / len(self.grains)] * len(self.grains)
        taken = 0.0
        block = max(self.grains)
        for share, side in zip(shares, sorted(self.grains, reverse=True), strict=True):
            variety = np.abs(means - _spread(_pooled(means, block), block)).sum(-1)
            order = np.argsort(np.argsort(_pooled(variety[..., None], block)[..., 0].reshape(b, -1), kind='stable'))
            low, high = round(taken * order.shape[1]), round((taken + share) * order.shape[1])
            here = ((order >= low) & (order < high)).reshape(b, height // self.spec.cell, -1)
            chosen = _spread(here[..., None], block)[..., 0]
            grain[chosen] = side
            means = np.where(chosen[..., None], _spread(_pooled(means, side), side), means)
            taken += share
        digits = np.clip(np.floor((means + 1) / 2 * self.levels), 0, self.levels - 1).astype(np.int32)
        ids = digits if self.codebooks == 3 else digits @ np.array([[self.levels**2], [self.levels], [1]], np.int32)
        return Tokens(ids, grain if len(self.grains) > 1 else None)

    def decode(self, tokens):
        ids = np.asarray(tokens.ids)
        places = np.array([self.levels**2, self.levels, 1])
        digits = ids if self.codebooks == 3 else ids // places % self.levels
        return _spread((digits + 0.5) / self.levels * 2 - 1, self.factor).astype(np.float32)


def _pooled(x, side):
    b, h, w, c = x.shape
    return x.reshape(b, h // side, side, w // side, side, c).mean((2, 4))


def _spread(x, side):
    return np.repeat(np.repeat(x, side, 1), side, 2)
