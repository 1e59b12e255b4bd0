"""Sizes of grain maps and ids: the quadtree against raw masks, tables against fixed lengths.

    python benchmarks/stream_sizes.py kodak --out results

Means over the images, in bytes, for several shares of the grains from coarse to fine.  The masks are those that the
official Control-GIC writes: one bit for each cell of every grain but the finest that occurs, also where a coarser
grain has decided already, and a byte that counts the bits that fill up the last one (of which there are 1 to 8).  Ids
are those at fixed length, with one table for each grain, and with the weights' tables of neighbours; the file is that
of the codec with the latter.  Writes stream_sizes.csv and stream_sizes.md.
"""

import argparse
import dataclasses
from pathlib import Path

import numpy as np
from PIL import Image
from table import write_table
from tqdm import tqdm

from vistok.compression.codec import Codec
from vistok.compression.format.description import describe
from vistok.compression.priors.prior import CodebookTables, StaticPrior
from vistok.experiments.codecs import open_codec
from vistok.experiments.image_files import IMAGES, read_image
from vistok.tokenizers.tokenizer import Tokens, TokenSpec

SHARES = ((1.0, 0.0, 0.0), (0.7, 0.2, 0.1), (0.3, 0.6, 0.1), (0.1, 0.8, 0.1), (0.1, 0.4, 0.5), (0.0, 0.0, 1.0))


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Bytes of one image, or means over some.

    Attributes:
      tokens: how many there are.
      masks: raw, as the official code writes them.
      quadtree: the stream of grains.
      fixed: ids at fixed length.
      static: with one table for each grain.
      neighbours: with tables of neighbours.
      file: all of it, with these.
      bpp: bits per pixel of the file.
    """

    tokens: float
    masks: float
    quadtree: float
    fixed: float
    static: float
    neighbours: float
    file: float
    bpp: float


def without_neighbours(prior: StaticPrior) -> StaticPrior:
    """Merges the counts of a prior into one table for each grain and sub-codebook."""
    grains = len(prior.grains)
    tables = [
        CodebookTables(np.ones_like(t.clusters), np.ones((grains, 2, 2, 1), np.int32), t.counts) for t in prior.tables
    ]
    return StaticPrior(tuple(tables), prior.grains)


def mask_bytes(tokens: Tokens, spec: TokenSpec) -> int:
    """Counts the bytes of raw masks; none where there is one grain."""
    grain = np.asarray(tokens.grain)[0]
    present = [side for side in sorted(spec.grains, reverse=True) if (grain == side).any()]
    return sum(grain.size // side**2 // 8 + 2 for side in present[:-1])


def measure(codec: Codec, image: np.ndarray, shares: tuple[float, ...]) -> Sizes:
    """Measures all sizes of one image, which is tokenized once."""
    assert isinstance(codec.prior, StaticPrior)
    tokens, spec = codec.encode(image, grain_ratios=shares), codec.tokenizer.spec
    grain, data, ids, maps = np.asarray(tokens.grain), b'', list[int](), 0
    for prior in (None, without_neighbours(codec.prior), codec.prior):
        data = dataclasses.replace(codec, prior=prior).pack(image, tokens)
        streams = describe(data).streams
        ids.append(sum(size for name, size in streams.items() if name.startswith('ids')))
        maps = sum(size for name, size in streams.items() if name.startswith('grains'))
    count = sum(int((grain == side).sum()) // side**2 for side in spec.grains)
    pixels = image.shape[0] * image.shape[1]
    return Sizes(count, mask_bytes(tokens, spec), maps, *ids, len(data), 8 * len(data) / pixels)


def read(path: Path, longest: int) -> np.ndarray:
    """Reads an image in three channels, shrunk if its longer side exceeds `longest`."""
    pixels = read_image(path.read_bytes(), path.name)[..., :3]
    image = Image.fromarray(pixels if pixels.shape[-1] == 3 else np.repeat(pixels[..., :1], 3, -1))
    if longest and max(image.size) > longest:
        image.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    return np.asarray(image)


def write(rows: dict[tuple[float, ...], Sizes], folder: Path) -> None:
    """Writes a CSV file and a Markdown table."""
    write_table(
        folder / 'stream_sizes',
        ['shares', *(field.name for field in dataclasses.fields(Sizes))],
        {
            ', '.join(f'{share:g}' for share in shares): [
                *(f'{n:.0f}' for n in dataclasses.astuple(sizes)[:-1]),
                f'{sizes.bpp:.3f}',
            ]
            for shares, sizes in rows.items()
        },
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('images', type=Path, help='folder of images')
    parser.add_argument('--weights', help="run folder or converted weights with grains; default: the package's")
    parser.add_argument('--window', type=int, help="side of the networks' squares in pixels; default: the codec's")
    parser.add_argument('--count', type=int, default=0, help='use only so many images')
    parser.add_argument('--longest', type=int, default=0, help='longest side that images are reduced to; 0: none')
    parser.add_argument('--out', type=Path, default=Path('results'), help='folder for what is written')
    args = parser.parse_args()
    codec = open_codec(args.weights, window=args.window)
    if len(codec.tokenizer.spec.grains) != len(SHARES[0]) or not isinstance(codec.prior, StaticPrior):
        parser.error('the weights need three grains, and tables of launch/fit_prior.py beside them')
    files = sorted(p for p in args.images.iterdir() if p.suffix.lower() in IMAGES)[: args.count or None]
    found: dict[tuple[float, ...], list[Sizes]] = {shares: [] for shares in SHARES}
    for path in tqdm(files, desc='pictures', disable=None):
        image = read(path, args.longest)
        for shares in SHARES:
            found[shares].append(measure(codec, image, shares))
    means = {
        shares: Sizes(*np.mean([dataclasses.astuple(sizes) for sizes in every], axis=0).tolist())
        for shares, every in found.items()
    }
    write(means, args.out)


if __name__ == '__main__':
    main()
