"""Bytes and quality of compressed images, ours beside JPEG, WebP, AVIF and JPEG XL.

    python benchmarks/rate_distortion.py kodak --out results
    python benchmarks/rate_distortion.py kodak --weights runs/control_gic runs/fqgan --out results

Rates are those of whole files, over the pixels of the original.  PSNR, MS-SSIM (Wang et al. 2003) and the perceptual
distance are means over the images; the distance is that of the stand-in network unless --lpips names official
weights.  Speed is without reading and writing files, after a first image that compiles; memory is the process's
largest so far.  Writes rates.csv, rates.md, rates.png (needs matplotlib) and sheet.png, the first image at
similar rates.  JPEG XL is there if a plugin of Pillow is (pip install pillow-jxl-plugin).
"""

import argparse
import csv
import dataclasses
import importlib
import io
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, features
from scipy.ndimage import gaussian_filter
from tqdm import tqdm

from vistok.compression.codec import Codec
from vistok.compression.rate_control import binomial_grain_ratios
from vistok.data.images.pipeline import to_model_range
from vistok.experiments.codecs import open_codec
from vistok.experiments.image_files import IMAGES, read_image
from vistok.pretrained.frozen_network import FrozenNetwork, load_frozen_network
from vistok.visualization import save_png

QUALITIES = {'JPEG': (1, 5, 10, 20, 40), 'WEBP': (0, 5, 20, 50), 'AVIF': (1, 5, 10, 20, 40), 'JXL': (1, 5, 10, 30)}
HALF_SIZE = {'AVIF': (1, 10, 30)}  # written at half the width and height, and enlarged again
PLACES = (0.0, 0.15, 0.3, 0.45, 0.6, 0.8, 1.0)  # on the curve of shares
_SMALLEST = 176  # side of an image, in pixels, that MS-SSIM is defined for
_SCALES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


@dataclasses.dataclass(frozen=True)
class Method:
    """Compression method at one setting: image -> bytes -> image."""

    name: str
    setting: str
    compress: Callable[[np.ndarray], bytes]
    decompress: Callable[[bytes], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Point:
    """Means of rate and quality over all images."""

    method: str
    setting: str
    bpp: float
    psnr: float
    ms_ssim: float
    perceptual: float
    encode_mps: float
    decode_mps: float
    memory_mib: float


def classic_methods() -> Iterator[Method]:
    try:
        importlib.import_module('pillow_jxl')
    except ImportError:
        print('JPEG XL is left out: there is no plugin')
    Image.init()  # registers the plugins
    for parts, table in ((1, QUALITIES), (2, HALF_SIZE)):
        for kind, qualities in table.items():
            known = kind in Image.SAVE or (kind == 'AVIF' and features.check('avif'))
            for quality in qualities if known else ():
                yield _classic(kind, quality, parts)


def _classic(kind: str, quality: int, parts: int) -> Method:
    """Returns the codec of a Pillow format; with `parts` of 2, codes at half the size, and images have even sides."""

    def compress(original: np.ndarray) -> bytes:
        image, file = Image.fromarray(original), io.BytesIO()
        small = image.resize((image.width // parts, image.height // parts), Image.Resampling.LANCZOS)
        small.save(file, kind, quality=quality)
        return file.getvalue()

    def decompress(data: bytes) -> np.ndarray:
        image = Image.open(io.BytesIO(data)).convert('RGB')
        return np.asarray(image.resize((image.width * parts, image.height * parts), Image.Resampling.LANCZOS))

    return Method(kind if parts == 1 else f'{kind} 1/{parts}', f'q{quality}', compress, decompress)


def our_methods(weights: str | None, window: int | None) -> Iterator[Method]:
    codec: Codec = open_codec(weights, window=window)
    grains = len(codec.tokenizer.spec.grains)
    for place in PLACES if grains > 1 else (None,):
        shares = None if place is None else binomial_grain_ratios(place, grains)

        def compress(image: np.ndarray, shares: tuple[float, ...] | None = shares) -> bytes:
            return codec.compress(image, grain_ratios=shares)

        yield Method(
            Path(weights).name if weights else 'vistok',
            'fixed' if place is None else f't={place}',
            compress,
            codec.decompress,
        )


def measure(method: Method, images: list[np.ndarray], network: FrozenNetwork) -> tuple[Point, np.ndarray, int]:
    """Measures a method; returns means, the first decoded image, and its number of bytes."""
    method.decompress(method.compress(images[0]))  # compiles
    rows, first, size, seconds, pixels = [], None, 0, [0.0, 0.0], 0
    for image in images:
        start = time.perf_counter()
        data = method.compress(image)
        middle = time.perf_counter()
        decoded = method.decompress(data)
        seconds = [seconds[0] + middle - start, seconds[1] + time.perf_counter() - middle]
        pixels += image.shape[0] * image.shape[1]
        if first is None:
            first, size = decoded, len(data)
        rows.append([8 * len(data) / (image.shape[0] * image.shape[1]), *_quality(image, decoded, network)])
    assert first is not None
    bpp, psnr, ms_ssim, perceptual = np.mean(rows, axis=0).tolist()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    speeds = [pixels / 1e6 / max(s, 1e-9) for s in seconds]
    return Point(method.name, method.setting, bpp, psnr, ms_ssim, perceptual, *speeds, memory), first, size


def ms_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Computes multi-scale structural similarity of 8-bit images `[h, w, c]`.

    Raises:
      ValueError: a side below 176 pixels, of which the coarsest of the five scales has no window of 11.
    """
    if min(a.shape[:2]) < _SMALLEST:
        raise ValueError(f'MS-SSIM needs sides of at least {_SMALLEST} pixels, got {a.shape[1]}x{a.shape[0]}')
    a, b = a.astype(np.float64), b.astype(np.float64)
    value = np.ones(a.shape[-1])
    for number, weight in enumerate(_SCALES):
        blur = lambda x: gaussian_filter(x, (1.5, 1.5, 0), truncate=3.5)[5:-5, 5:-5]  # noqa: E731
        mean_a, mean_b = blur(a), blur(b)
        var_a, var_b, both = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2, blur(a * b) - mean_a * mean_b
        structure = (2 * both + 58.5225) / (var_a + var_b + 58.5225)
        if number == len(_SCALES) - 1:
            structure = structure * (2 * mean_a * mean_b + 6.5025) / (mean_a**2 + mean_b**2 + 6.5025)
        value *= np.maximum(structure.mean((0, 1)), 0) ** weight
        a, b = (
            x[: x.shape[0] // 2 * 2, : x.shape[1] // 2 * 2].reshape(x.shape[0] // 2, 2, -1, 2, x.shape[2]).mean((1, 3))
            for x in (a, b)
        )
    return float(value.mean())


def _quality(image: np.ndarray, decoded: np.ndarray, network: FrozenNetwork) -> tuple[float, float, float]:
    image = image[: decoded.shape[0], : decoded.shape[1]]  # of half the size: an odd row and column less
    error = np.mean((image.astype(np.float64) - decoded) ** 2)
    images = [to_model_range(x[None]) for x in (image, decoded)]
    distance = np.asarray(network.module.apply(network.variables, *images)).mean()
    return 10 * np.log10(255**2 / max(error, 1e-9)), ms_ssim(image, decoded), float(distance)


def _sheet(original: np.ndarray, found: list[tuple[Point, np.ndarray, int]], rate: float) -> np.ndarray:
    """Draws the original and, for every method, the decoded image whose rate is nearest to `rate`."""
    nearest: dict[str, tuple[Point, np.ndarray, int]] = {}
    for entry in found:
        best = nearest.setdefault(entry[0].method, entry)
        if abs(np.log(entry[0].bpp / rate)) < abs(np.log(best[0].bpp / rate)):
            nearest[entry[0].method] = entry
    height, width = original.shape[:2]
    pixels = height * width
    tiles = [('original', original)]
    tiles += [(f'{p.method} {p.setting}: {8 * size / pixels:.3f} bpp', image) for p, image, size in nearest.values()]
    columns = 3
    sheet = Image.new('RGB', (columns * width, -(-len(tiles) // columns) * (height + 16)), 'white')
    for i, (caption, image) in enumerate(tiles):
        x, y = i % columns * width, i // columns * (height + 16)
        sheet.paste(Image.fromarray(image), (x, y + 16))
        ImageDraw.Draw(sheet).text((x + 4, y + 2), caption, fill='black')
    return np.asarray(sheet)


def _plot(points: list[Point], path: Path) -> None:
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt
    from matplotlib import ticker

    figure, axes = plt.subplots(1, 3, figsize=(15, 4.5), constrained_layout=True)
    for axis, name in zip(axes, ('psnr', 'ms_ssim', 'perceptual'), strict=True):
        for method in dict.fromkeys(p.method for p in points):
            own = sorted((p.bpp, getattr(p, name)) for p in points if p.method == method)
            axis.plot(*zip(*own, strict=True), marker='.', label=method)
        axis.set(xlabel='bits per pixel, whole files', ylabel=name, xscale='log')
        axis.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter(ticker.FormatStrFormatter('%g'))
        axis.xaxis.set_minor_formatter(ticker.NullFormatter())
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    figure.savefig(path, dpi=90)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('images', type=Path, help='folder of images')
    parser.add_argument('--weights', nargs='*', help="run folders or converted weights; default: the package's")
    parser.add_argument('--out', type=Path, default=Path('results'), help='folder for what is written')
    parser.add_argument('--count', type=int, default=0, help='use only so many images')
    parser.add_argument('--window', type=int, help='side of the squares that the networks see, in pixels')
    parser.add_argument('--rate', type=float, default=0.2, help='bits per pixel on the sheet')
    parser.add_argument('--lpips', help='official LPIPS weights')
    args = parser.parse_args()
    names = sorted(p for p in args.images.iterdir() if p.suffix.lower() in IMAGES)[: args.count or None]
    images = [read_image(p.read_bytes(), p.name)[..., :3] for p in names]
    images = [np.repeat(p[..., :1], 3, -1) if p.shape[-1] < 3 else p for p in images]
    small = [path.name for path, image in zip(names, images, strict=True) if min(image.shape[:2]) < _SMALLEST]
    if small:
        parser.error(f'MS-SSIM needs sides of at least {_SMALLEST} pixels; smaller: {", ".join(small)}')
    network = load_frozen_network('lpips', args.lpips) if args.lpips else load_frozen_network('stand_in_perceptual')
    methods = [
        *classic_methods(),
        *(method for weights in args.weights or [None] for method in our_methods(weights, args.window)),
    ]
    found = [measure(method, images, network) for method in tqdm(methods, desc='methods')]
    write(found, images[0], args.out, args.rate)


def write(found: list[tuple[Point, np.ndarray, int]], original: np.ndarray, folder: Path, rate: float) -> None:
    """Writes a CSV file, a table, a plot and a sheet."""
    folder.mkdir(parents=True, exist_ok=True)
    points = [point for point, _, _ in found]
    columns = [field.name for field in dataclasses.fields(Point)]
    with open(folder / 'rates.csv', 'w', newline='') as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(dataclasses.astuple(point) for point in points)
    lines = [f'| {" | ".join(columns)} |', '|' + '---|' * len(columns)]
    for point in points:
        values = (f'{v:.4g}' if isinstance(v, float) else v for v in dataclasses.astuple(point))
        lines.append(f'| {" | ".join(values)} |')
    (folder / 'rates.md').write_text('\n'.join(lines) + '\n')
    print('\n'.join(lines))
    save_png(folder / 'sheet.png', _sheet(original, found, rate))
    _plot(points, folder / 'rates.png')


if __name__ == '__main__':
    main()
