"""A file of the size that is asked for: shares of the grains are searched for, or a level of nested codebooks.

The shares lie on one curve from all coarse to all fine: a block is divided n - 1 times at most, each time with chance
t, so that grain i of n has the binomial share C(n-1, i) t^i (1-t)^(n-1-i).  Tokenizers with one grain have a choice
where their codebook has levels.
"""

import dataclasses
import math
from collections.abc import Callable

from vistok.errors import UserError

_TRIALS = 14
_CLOSE = 0.003  # part of the wanted size
_NEAR = 1.02  # times the wanted size still are what was wanted, where it may be above


@dataclasses.dataclass(frozen=True)
class Target:
    """A size.

    Attributes:
      size: in bytes.
      never_above: whether the file may not be larger; else it should be as near as possible, on either side.
    """

    size: int
    never_above: bool

    @property
    def most(self) -> float:
        """Bytes that are not too many."""
        return self.size * (1.0 if self.never_above else _NEAR)

    @classmethod
    def of_bpp(cls, bpp: float, width: int, height: int) -> 'Target':
        """A size in bits per pixel of the original image; UserError for none."""
        if not 0 < bpp < math.inf:
            raise UserError(f'bits per pixel must be a number above 0, got {bpp}')
        return cls(max(1, round(bpp * width * height / 8)), never_above=False)


def binomial_grain_ratios(t: float, count: int) -> tuple[float, ...]:
    """Shares of `count` grains, from coarse to fine, for t from 0 (all coarse) to 1 (all fine)."""
    return tuple(math.comb(count - 1, i) * t**i * (1 - t) ** (count - 1 - i) for i in range(count))


def compress_to(
    target: Target, compress: Callable[[tuple[float, ...] | None], bytes], count: int, pixels: int
) -> bytes:
    """The bitstream whose size comes nearest to the target.

    Args:
      target: the size.
      compress: gives the bitstream for shares of the grains from coarse to fine; for None, of the tokenizer's choice.
      count: number of grains of the tokenizer.
      pixels: of the image, for messages.

    Raises:
      UserError: no bitstream of the image is as small; or the tokenizer has one grain and hence one size, which is
        not the wanted one.
    """
    if count == 1:
        return _only_size(target, compress(None), pixels)
    best: bytes | None = None
    low, high = 0.0, 1.0
    sizes = dict[float, int]()
    for t in (0.0, 1.0):
        data = compress(binomial_grain_ratios(t, count))
        sizes[t] = len(data)
        best = _better(best, data, target)
        if t == 0.0 and len(data) > target.most:
            raise UserError(
                f'with coarse tokens only, this image has {_size(len(data), pixels)}; asked for were '
                f'{_size(target.size, pixels)}'
            )
        if t == 1.0 and len(data) <= target.size:
            return data
    for trial in range(_TRIALS):
        if best is not None and -_CLOSE * target.size <= len(best) - target.size <= 0:
            break
        # Where a straight line between the ends meets the target; every third time the middle, lest one end stays.
        rate = (target.size - sizes[low]) / max(sizes[high] - sizes[low], 1)
        t = low + (high - low) * (0.5 if trial % 3 == 2 else min(max(rate, 0.02), 0.98))
        data = compress(binomial_grain_ratios(t, count))
        sizes[t] = len(data)
        best = _better(best, data, target)
        low, high = (t, high) if len(data) <= target.size else (low, t)
    assert best is not None
    return best


def most_codewords(target: Target, pack: Callable[[int], bytes], levels: int, pixels: int) -> bytes:
    """The bitstream with the most codewords that is not above the target; levels are few, so it may be far below.

    Args:
      target: the size.
      pack: gives the bitstream at a level.
      levels: of the nested codebooks; 0, the whole codebook, is another one.
      pixels: of the image, for messages.

    Raises:
      UserError: even with the fewest codewords there are more bytes.
    """
    data = b''
    for level in range(levels + 1):
        data = pack(level)
        if len(data) <= target.most:
            return data
    raise UserError(
        f'with the fewest codewords there are, this image has {_size(len(data), pixels)}; asked for were '
        f'{_size(target.size, pixels)}'
    )


def _better(best: bytes | None, data: bytes, target: Target) -> bytes | None:
    if target.never_above and len(data) > target.size:
        return best
    return data if best is None or abs(len(data) - target.size) < abs(len(best) - target.size) else best


def _only_size(target: Target, data: bytes, pixels: int) -> bytes:
    enough = target.never_above or len(data) >= target.size * (2 - _NEAR)
    if len(data) > target.most or not enough:
        raise UserError(
            f'this tokenizer has tokens of one grain, so the size of an image is given: {_size(len(data), pixels)}, '
            f'not {_size(target.size, pixels)}; weights of control_gic or dq_vae leave a choice, '
            'and so do nested codebooks'
        )
    return data


def _size(count: int, pixels: int) -> str:
    return f'{count} bytes ({8 * count / pixels:.4f} bits per pixel)'
