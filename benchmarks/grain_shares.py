"""Bits and PSNR of a tokenizer with grains, for several shares, on a folder of pictures of any size.

    python benchmarks/grain_shares.py --run runs/control_gic --pictures kodak

Bits are those of plain storage: log2(K) for each code, and for each cell that is not decided yet one bit that says
whether a grain takes it.  Entropy coding would need fewer.
"""

import argparse
import math
import pathlib

import numpy as np

import tesserax
from tesserax.common.data.decode import decode_image
from tesserax.common.metrics.image_quality import psnr
from tesserax.tokenizers.tokenizer import Tokens, TokenSpec, fit_to_grid

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
    """Bits of one picture's codes and grains in plain storage."""
    grain = np.asarray(tokens.grain)[0]
    codes = sum((grain == side).sum() / side**2 for side in spec.grains)
    masks = 0.0
    present = [side for side in sorted(spec.grains, reverse=True) if (grain == side).any()]
    for side in present[:-1]:  # what remains is of the last grain
        masks += (grain <= side).sum() / side**2
    return codes * math.log2(spec.codebook_sizes[0]) + masks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--run', required=True, help='run folder of configs/control_gic.py')
    parser.add_argument('--pictures', type=pathlib.Path, required=True, help='folder of pictures')
    args = parser.parse_args()
    model = tesserax.load(args.run)
    files = sorted(path for path in args.pictures.iterdir() if path.suffix.lower() in ('.png', '.jpg', '.jpeg'))
    print(f'| shares, coarse to fine | realised | largest miss, cells | bits per pixel | PSNR, dB |\n|{"---|" * 5}')
    for shares in SHARES:
        quality, rates, realised, misses = [], [], [], []
        for file in files:
            image = decode_image(file.read_bytes(), file.name)[None].astype(np.float32) / 127.5 - 1
            _, height, width, _ = image.shape
            tokens = model.encode(fit_to_grid(image, model.spec), grain_ratios=shares)
            decoded = np.asarray(model.decode(tokens))[:, :height, :width]
            quality.append(psnr(image, decoded)[0])
            rates.append(bits(tokens, model.spec) / (height * width))
            grain = np.asarray(tokens.grain)
            found = [float((grain == side).mean()) for side in sorted(model.spec.grains, reverse=True)]
            realised.append(found)
            cells = grain.size / max(model.spec.grains) ** 2
            misses.append(max(abs(a - b) for a, b in zip(found, shares, strict=True)) * cells)
        shown = ', '.join(f'{share:.3f}' for share in np.mean(realised, axis=0))
        wanted = ', '.join(map(str, shares))
        print(f'| {wanted} | {shown} | {max(misses):.2f} | {np.mean(rates):.3f} | {np.mean(quality):.2f} |', flush=True)


if __name__ == '__main__':
    main()
