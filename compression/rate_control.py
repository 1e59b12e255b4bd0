"""Rate control: search of the grain ratios, or of the nested codebook, with which a bitstream has a given size.

The grain ratios lie on one curve from all coarse to all fine: a block is divided at most n - 1 times, each time with
probability t, so that grain i of n has the binomial share C(n-1, i) t^i (1-t)^(n-1-i).  Tokenizers with one grain have
several rates only with nested codebooks.
"""

import dataclasses
import math
from collections.abc import Callable

from vistok.errors import UserError

_TRIALS = 14
_CLOSE = 0.003  # relative distance below the target at which the search ends
_NEAR = 1.02  # largest ratio to the target that is accepted where it may be exceeded


@dataclasses.dataclass(frozen=True)
class SizeTarget:
    """Size that a bitstream should have.

    Attributes:
      size: in bytes.
      never_above: True for an upper bound, False for the nearest size on either side.
    """

    size: int
    never_above: bool

    @property
    def most(self) -> float:
        """Largest number of bytes that is accepted."""
        return self.size * (1.0 if self.never_above else _NEAR)

    @classmethod
    def from_bpp(cls, bpp: float, width: int, height: int) -> 'SizeTarget':
        """Returns the target of a rate in bits per pixel; raises UserError unless it is above 0 and finite."""
        if not 0 < bpp < math.inf:
            raise UserError(f'bits per pixel must be a number above 0, got {bpp}')
        return cls(max(1, round(bpp * width * height / 8)), never_above=False)


def binomial_grain_ratios(t: float, count: int) -> tuple[float, ...]:
    """Computes the shares of `count` grains, coarse to fine, for t from 0 (all coarse) to 1 (all fine)."""
    return tuple(math.comb(count - 1, i) * t**i * (1 - t) ** (count - 1 - i) for i in range(count))


def compress_to_size(
    target: SizeTarget, compress: Callable[[tuple[float, ...] | None], bytes], count: int, pixels: int
) -> bytes:
    """Searches the grain ratios with which the size of the bitstream is nearest to the target.

    Args:
      target: size to come near to, or not to exceed.
      compress: maps grain ratios, from coarse to fine, to a bitstream; None stands for the tokenizer's own choice.
      count: number of grains of the tokenizer.
      pixels: of the image, for messages.

    Returns:
      The bitstream.

    Raises:
      UserError: no grain ratios make the bitstream as small; or the tokenizer has one grain and hence one size, which
        is not that of the target.
    """
    if count == 1:
        return _accept_only_size(target, compress(None), pixels)
    best: bytes | None = None
    low, high = 0.0, 1.0
    sizes = dict[float, int]()
    for t in (0.0, 1.0):
        data = compress(binomial_grain_ratios(t, count))
        sizes[t] = len(data)
        best = _choose_nearer(best, data, target)
        if t == 0.0 and len(data) > target.most:
            raise UserError(
                f'with coarse tokens only, this image has {_format_size(len(data), pixels)}, more than the '
                f'target of {_format_size(target.size, pixels)}'
            )
        if t == 1.0 and len(data) <= target.size:
            return data
    for trial in range(_TRIALS):
        if best is not None and -_CLOSE * target.size <= len(best) - target.size <= 0:
            break
        # Regula falsi; every third step bisects, since it could keep one end for ever.
        rate = (target.size - sizes[low]) / max(sizes[high] - sizes[low], 1)
        t = low + (high - low) * (0.5 if trial % 3 == 2 else min(max(rate, 0.02), 0.98))
        data = compress(binomial_grain_ratios(t, count))
        sizes[t] = len(data)
        best = _choose_nearer(best, data, target)
        low, high = (t, high) if len(data) <= target.size else (low, t)
    assert best is not None
    return best


def pack_to_size(target: SizeTarget, pack: Callable[[int], bytes], levels: int, pixels: int) -> bytes:
    """Searches the largest nested codebook with which the bitstream is not larger than the target.

    Args:
      target: size not to exceed; as levels are few, the bitstream may be far smaller.
      pack: maps a level to a bitstream.
      levels: number of levels besides 0, the whole codebook.
      pixels: of the image, for messages.

    Returns:
      The bitstream.

    Raises:
      UserError: the bitstream is larger with the smallest codebook.
    """
    data = b''
    for level in range(levels + 1):
        data = pack(level)
        if len(data) <= target.most:
            return data
    raise UserError(
        f'with the fewest codewords there are, this image has {_format_size(len(data), pixels)}, more than the '
        f'target of {_format_size(target.size, pixels)}'
    )


def _choose_nearer(best: bytes | None, data: bytes, target: SizeTarget) -> bytes | None:
    if target.never_above and len(data) > target.size:
        return best
    return data if best is None or abs(len(data) - target.size) < abs(len(best) - target.size) else best


def _accept_only_size(target: SizeTarget, data: bytes, pixels: int) -> bytes:
    enough = target.never_above or len(data) >= target.size * (2 - _NEAR)
    if len(data) > target.most or not enough:
        raise UserError(
            f'this tokenizer has tokens of one grain, so the size of an image is given: '
            f'{_format_size(len(data), pixels)}, not {_format_size(target.size, pixels)}; weights of control_gic or '
            'dq_vae leave a choice, and so do nested codebooks'
        )
    return data


def _format_size(count: int, pixels: int) -> str:
    return f'{count} bytes ({8 * count / pixels:.4f} bits per pixel)'
