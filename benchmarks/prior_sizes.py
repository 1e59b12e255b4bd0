"""Bits for each id of a tokenizer with one grain: fixed lengths, tables, and a generator as prior.

    python benchmarks/prior_sizes.py kodak --weights runs/simvq --prior runs/llamagen --out results

Every image is tokenized once, then written with each model of its ids, and read again with the generator; what comes
back has to be the ids.  Bits are those of the streams of ids over the number of ids; bytes are of whole files; seconds
are those of writing with the generator, which tries what it wrote, and of reading.  Writes prior_sizes.csv and
prior_sizes.md, the means over all images in the last line.
"""

import argparse
import dataclasses
import time
from pathlib import Path

import numpy as np
from table import write_table
from tqdm import tqdm

from vistok.compression.codec import Codec
from vistok.compression.format.description import describe
from vistok.experiments.codecs import open_codec
from vistok.experiments.image_files import IMAGES, read_image


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes of one image, or means over several.

    Attributes:
      ids: how many there are.
      fixed: bits for each at fixed length.
      tables: bits with the tables beside the weights.
      network: bits with the generator.
      bytes_fixed: of the file.
      bytes_tables: likewise.
      bytes_network: likewise.
      writing: seconds with the generator.
      reading: seconds with the generator.
    """

    ids: float
    fixed: float
    tables: float
    network: float
    bytes_fixed: float
    bytes_tables: float
    bytes_network: float
    writing: float
    reading: float


def measure(codec: Codec, image: np.ndarray) -> Sizes:
    """Measures all sizes of one image; raises ValueError if its ids do not come back from the generator's file."""
    tokens = codec.encode(image)
    count = tokens.ids.size
    plain = dataclasses.replace(codec, prior=None, network=None).pack(image, tokens)
    tables = dataclasses.replace(codec, network=None).pack(image, tokens)
    with_network = dataclasses.replace(codec, prior=None)
    start = time.perf_counter()
    network = with_network.pack(image, tokens)
    middle = time.perf_counter()
    again = with_network.unpack(network).tokens
    end = time.perf_counter()
    if not np.array_equal(again.ids, tokens.ids):
        raise ValueError('other ids came back than were written')
    bits = [8 * sum(n for name, n in describe(data).streams.items() if name.startswith('ids')) / count
            for data in (plain, tables, network)]  # fmt: skip
    return Sizes(count, *bits, len(plain), len(tables), len(network), middle - start, end - middle)


def write(rows: dict[str, Sizes], folder: Path) -> None:
    """Writes a CSV file and a Markdown table."""
    digits = (0, 3, 3, 3, 0, 0, 0, 1, 1)
    write_table(
        folder / 'prior_sizes',
        ['image', *(field.name for field in dataclasses.fields(Sizes))],
        {
            name: [f'{value:.{n}f}' for value, n in zip(dataclasses.astuple(sizes), digits, strict=True)]
            for name, sizes in rows.items()
        },
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('images', type=Path, help='folder of images')
    parser.add_argument('--weights', required=True, help='run folder of a tokenizer with one grain')
    parser.add_argument('--prior', required=True, help='run folder of a generator of its tokens')
    parser.add_argument('--count', type=int, default=0, help='use only so many images')
    parser.add_argument('--out', type=Path, default=Path('results'), help='folder for what is written')
    args = parser.parse_args()
    codec = open_codec(args.weights, args.prior)
    if codec.network is None or codec.prior is None:
        parser.error('--prior is a run folder of a generator; and --weights need tables of launch/fit_prior.py')
    files = sorted(p for p in args.images.iterdir() if p.suffix.lower() in IMAGES)[: args.count or None]
    if not files:
        parser.error(f'there are no images in {args.images}')
    found = {}
    for path in tqdm(files, desc='pictures', disable=None):
        found[path.stem] = measure(codec, read_image(path.read_bytes(), path.name)[..., :3])
    means = np.mean([dataclasses.astuple(sizes) for sizes in found.values()], axis=0)
    write({**found, 'mean': Sizes(*means.tolist())}, args.out)


if __name__ == '__main__':
    main()
