"""Bits and PSNR of a tokenizer with grains, for several shares, on a folder of images of any size.

    python benchmarks/grain_shares.py --run runs/control_gic --images kodak --tile 256

With --tile, images are cut into squares, each with the shares asked for: the attention of the networks grows with the
square of the area, and they were trained on small squares.
Bits are those of plain storage: log2(K) for each code, and for each cell that is not decided yet one bit that says
whether a grain takes it.  Entropy coding would need fewer.
"""

import argparse
import math
import pathlib
from collections.abc import Iterator

import numpy as np

import vistok
from vistok.data.images.decode import decode_image
from vistok.data.images.pipeline import to_model_range
from vistok.metrics.image_quality import psnr
from vistok.tokenizers.tokenizer import Tokens, TokenSpec, fit_to_grid

SHARES = (
    (1.0, 0.0, 0.0),
    (0.7, 0.2, 0.1),
    (0.4, 0.4, 0.2),
    (0.1, 0.8, 0.1),
    (0.1, 0.4, 0.5),
    (0.0, 0.2, 0.8),
    (0, 0, 1.0),
)


def bits(tokens: Tokens, spec: TokenSpec) -> float:
    """Counts the bits of one image's codes and grains in plain storage."""
    grain = np.asarray(tokens.grain)[0]
    codes = sum((grain == side).sum() / side**2 for side in spec.grains)
    masks = 0.0
    present = [side for side in sorted(spec.grains, reverse=True) if (grain == side).any()]
    for side in present[:-1]:  # what remains is of the last grain
        masks += (grain <= side).sum() / side**2
    return codes * math.log2(spec.codebook_sizes[0]) + masks


def squares(image: np.ndarray, side: int) -> Iterator[tuple[slice, slice]]:
    """Returns the squares that an image is cut into; without a side, one for the whole image."""
    height, width, _ = image.shape
    for top in range(0, height, side or height):
        for left in range(0, width, side or width):
            yield slice(top, top + (side or height)), slice(left, left + (side or width))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--run', required=True, help='run folder of configs/control_gic.py')
    parser.add_argument('--images', type=pathlib.Path, required=True, help='folder of images')
    parser.add_argument('--tile', type=int, default=0, help='side of the squares in pixels; 0: whole images')
    args = parser.parse_args()
    model = vistok.load(args.run)
    files = sorted(path for path in args.images.iterdir() if path.suffix.lower() in ('.png', '.jpg', '.jpeg'))
    print(f'| shares, coarse to fine | realised | largest miss, cells | bits per pixel | PSNR, dB |\n|{"---|" * 5}')
    for shares in SHARES:
        quality, rates, realised, misses = [], [], [], []
        for file in files:
            image = to_model_range(decode_image(file.read_bytes(), file.name))
            decoded, spent = np.zeros_like(image), 0.0
            for place in squares(image, args.tile):
                piece = image[place]
                tokens = model.encode(fit_to_grid(piece[None], model.spec), grain_ratios=shares)
                decoded[place] = np.asarray(model.decode(tokens))[0, : piece.shape[0], : piece.shape[1]]
                spent += bits(tokens, model.spec)
                grain = np.asarray(tokens.grain)
                found = [float((grain == side).mean()) for side in sorted(model.spec.grains, reverse=True)]
                realised.append(found)
                cells = grain.size / max(model.spec.grains) ** 2
                misses.append(max(abs(a - b) for a, b in zip(found, shares, strict=True)) * cells)
            quality.append(psnr(image[None], decoded[None])[0])
            rates.append(spent / image[..., 0].size)
        shown = ', '.join(f'{share:.3f}' for share in np.mean(realised, axis=0))
        wanted = ', '.join(map(str, shares))
        print(f'| {wanted} | {shown} | {max(misses):.2f} | {np.mean(rates):.3f} | {np.mean(quality):.2f} |', flush=True)


if __name__ == '__main__':
    main()
