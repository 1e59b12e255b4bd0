"""Peak memory and time of the codec on one large image, with a real tokenizer.

    python benchmarks/codec_memory.py --width 4000 --height 3000
    python benchmarks/codec_memory.py --weights runs/control_gic --window 256

Compresses a mosaic of a photograph that comes with scikit-image, and decompresses the file, each in a process of its
own.  Reported are its largest resident memory, how much of that it had before the first window (program, libraries,
weights, the image), and seconds, in which programs are compiled.
"""

import argparse
import dataclasses
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import skimage.data

from vistok.experiments.codecs import open_codec

STEPS = ('compress', 'decompress')


@dataclasses.dataclass(frozen=True)
class MemoryUse:
    """Memory and time of one process.

    Attributes:
      step: what it did.
      size: of the file, in bytes.
      before_mib: largest resident memory before the first window.
      peak_mib: at the end.
      seconds: without starting and reading weights.
    """

    step: str
    size: int
    before_mib: float
    peak_mib: float
    seconds: float


def mosaic(height: int, width: int) -> np.ndarray:
    """Tiles a photograph and its reflections to a uint8 image `[height, width, 3]`."""
    tile = skimage.data.astronaut()
    margins = [(0, max(0, size - side)) for size, side in zip((height, width), tile.shape, strict=False)]
    return np.pad(tile, [*margins, (0, 0)], mode='symmetric')[:height, :width]


def measure(step: str, file: Path, args: argparse.Namespace) -> MemoryUse:
    """Measures one step in this process."""
    codec = open_codec(args.weights, window=args.window)
    image = mosaic(args.height, args.width) if step == 'compress' else None
    before, start = peak_mib(), time.perf_counter()
    if image is not None:
        file.write_bytes(codec.compress(image))
    elif codec.decompress(file.read_bytes()).shape != (args.height, args.width, 3):
        raise ValueError(f'{file} is no file of {args.width}x{args.height} pixels')
    return MemoryUse(step, file.stat().st_size, before, peak_mib(), time.perf_counter() - start)


def peak_mib() -> float:
    """Returns the largest resident memory of this process so far in MiB (Linux, which counts it in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--weights', help="run folder or converted weights; default: the package's")
    parser.add_argument('--width', type=int, default=4000)
    parser.add_argument('--height', type=int, default=3000)
    parser.add_argument('--window', type=int, help="side of the networks' squares in pixels; default: the codec's")
    parser.add_argument('--step', choices=STEPS, help='only this, in this process, with --file')
    parser.add_argument('--file', type=Path, help='bitstream that is written or read; default: a temporary one')
    args = parser.parse_args()
    if args.step:
        print(json.dumps(dataclasses.asdict(measure(args.step, args.file, args))))
        return
    print('| step | file, bytes | MiB before | MiB, peak | seconds |\n|---|---:|---:|---:|---:|')
    with tempfile.TemporaryDirectory() as folder:
        for step in STEPS:
            given = ['--step', step, '--file', str(args.file or Path(folder, 'mosaic.bin'))]
            command = [sys.executable, *sys.argv, *given]
            answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            found = MemoryUse(**json.loads(answer.splitlines()[-1]))
            numbers = (f'{found.before_mib:,.0f}', f'{found.peak_mib:,.0f}', f'{found.seconds:,.0f}')
            print(f'| {found.step} | {found.size:,} | {" | ".join(numbers)} |', flush=True)


if __name__ == '__main__':
    main()
