"""Comparison of codebook types at many sizes, on equal networks, data and budget.

    python benchmarks/codebook_study.py --data cifar10.zip
    python benchmarks/codebook_study.py --data cifar10.zip --codebooks plain simvq --sizes 1024 65536 --steps 200
    python benchmarks/codebook_study.py --data tfds:imagenet2012 --full          # on an accelerator

Every cell is a run of `launch/train.py` in a folder of its own, with the squared error and the codebook's own losses
only, those with the same weights where a kind has them (for VQGAN-LC: higher than its paper's); a cell that has ended
is not run again.  Usage and perplexity count all validation images, or more tokens on request; the part of the
codewords that N tokens would meet if all were equally likely, 1 - (1 - 1/K)^N, is given beside the usage.  Time is the
median over the lines of the log; memory is the largest that the whole process held.  `--out` receives
`codebook_study.csv`, `.md` and `.png` (matplotlib).
"""

import argparse
import csv
import dataclasses
import json
import math
import os
import pathlib
import statistics
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from tqdm import tqdm

import vistok
from vistok.data.images.pipeline import evaluation_batches, open_source
from vistok.training.codebook_usage import CodebookUsage

ROOT = pathlib.Path(__file__).parents[1]
SIZES = (1024, 16_384, 65_536, 262_144)
FSQ_LEVELS = {
    1024: (8, 5, 5, 5),
    16_384: (8, 8, 8, 6, 5),
    65_536: (8, 8, 8, 5, 5, 5),
    262_144: (8, 8, 8, 8, 8, 8),
}
"""Levels whose product is near the size (Mentzer et al. 2023, table 1; the last one by us)."""


@dataclasses.dataclass(frozen=True)
class Kind:
    """Type of codebook with its settings.

    Attributes:
      config: name of its config file.
      variants: its variants, before that of the data.
      settings: overrides of the config for a number of codewords and a width.
    """

    config: str
    variants: tuple[str, ...]
    settings: Callable[[int, int], dict[str, Any]]


def _sizes(size: int, dim: int, **more: Any) -> dict[str, Any]:
    return {'model.codebook_size': size, 'model.codebook_dim': dim, **more}


def _lc(size: int, dim: int) -> dict[str, Any]:
    return _sizes(size, dim) | {'model.codebook_weight': 1.0, 'model.commitment_weight': 0.25}


def _fvq(size: int, dim: int) -> dict[str, Any]:
    patch = {1024: 4, 16_384: 4, 65_536: 8, 262_144: 16}[size]  # 1,024 tokens for the bridge at most
    return _sizes(size, dim) | {'model.bridge_patch': patch}


KINDS = {
    'plain': Kind('vqgan', (), lambda k, d: _sizes(k, d) | {'model.normalize': False}),
    'unit norm': Kind('vqgan', (), _sizes),
    'EMA': Kind('vqgan', ('ema',), _sizes),
    'VQGAN-LC': Kind('vqgan_lc', (), _lc),
    'SimVQ': Kind('simvq', ('vqgan',), _sizes),
    'FVQ': Kind('fvq', (), _fvq),
    'FSQ': Kind('code_free', ('fsq',), lambda k, d: {'model.levels': FSQ_LEVELS[k]}),
    'LFQ': Kind('code_free', ('lfq',), lambda k, d: {'model.bits': int(math.log2(k))}),
}


@dataclasses.dataclass(frozen=True)
class Row:
    """Results of one cell of the study."""

    codebook: str
    size: int
    usage: float
    perplexity: float
    psnr: float
    seconds_per_step: float
    peak_gib: float
    tokens: int

    @property
    def reachable(self) -> float:
        """Expected usage of a codebook whose codewords are equally likely."""
        return 1 - (1 - 1 / self.size) ** self.tokens


def train(name: str, size: int, folder: pathlib.Path, args: argparse.Namespace) -> None:
    """Trains one cell, unless it has finished before, and records its peak memory.

    Raises:
      CalledProcessError: the run failed; its output is in `log.txt`.
    """
    if (folder / 'cell.json').exists():
        return
    kind = KINDS[name]
    variants = ','.join((*kind.variants, 'imagenet256' if args.full else 'cifar10'))
    settings = {
        'data.source': args.data,
        'objective.discriminator': '',
        'objective.perceptual': '',
        'train.steps': args.steps,
        'train.checkpoint_every': args.steps,
        'evaluate.every': args.steps,
        'train.ema_decay': 0.98,
        'train.log_every': 50,
    }
    if args.batch_size:
        settings['train.batch_size'] = args.batch_size
    if name == 'VQGAN-LC':
        settings['table'] = args.table.format(size=size)
    settings |= kind.settings(size, args.dim)
    command = [
        sys.executable,
        str(ROOT / 'launch' / 'train.py'),
        f'--config={ROOT}/configs/{kind.config}.py:{variants}',
    ]
    command += [f'--workdir={folder}', *(f'--config.{key}={value}' for key, value in settings.items())]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / 'log.txt').open('w') as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
    if code := os.waitstatus_to_exitcode(status):
        raise subprocess.CalledProcessError(code, command)
    (folder / 'cell.json').write_text(json.dumps({'peak_gib': usage.ru_maxrss / 2**20}))  # kibibytes on Linux


def count_training_images(folder: pathlib.Path, source: str) -> None:
    """Counts the codewords of all training images of a finished cell and records them, unless that is done.

    The validation images alone may be too few to meet every codeword of a large codebook.
    """
    if (folder / 'usage.json').exists():
        return
    config = json.loads((folder / 'config.json').read_text())
    model = vistok.load(folder)
    batches = evaluation_batches(
        open_source(source, 'train'),
        image_size=config['data']['image_size'],
        batch_size=config['evaluate']['batch_size'],
    )
    usage = CodebookUsage(model.spec.codebook_sizes[0])
    for batch in tqdm(batches, desc='training images', unit='batch'):
        ids = np.asarray(model.encode(batch['image']).ids)[batch['mask']]
        usage.add(np.bincount(ids.ravel(), minlength=model.spec.codebook_sizes[0]))
    report = usage.report()
    found = {'usage': report.usage, 'perplexity': report.perplexity, 'tokens': int(usage.counts.sum())}
    (folder / 'usage.json').write_text(json.dumps(found))


def read(name: str, size: int, folder: pathlib.Path) -> Row:
    """Reads the row of a finished cell."""
    lines = [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]
    last = next(line for line in reversed(lines) if 'evaluation/psnr' in line)
    (usage,) = (value for key, value in last.items() if key.startswith('evaluation/usage/'))
    (perplexity,) = (value for key, value in last.items() if key.startswith('evaluation/perplexity/'))
    counted = {'usage': usage, 'perplexity': perplexity, 'tokens': int(last['evaluation/tokens'])}
    if (folder / 'usage.json').exists():
        counted = json.loads((folder / 'usage.json').read_text())
    return Row(
        codebook=name,
        size=math.prod(FSQ_LEVELS[size]) if name == 'FSQ' else size,
        psnr=last['evaluation/psnr'],
        seconds_per_step=statistics.median(
            line['speed/seconds_per_step'] for line in lines if 'speed/seconds_per_step' in line
        ),
        peak_gib=json.loads((folder / 'cell.json').read_text())['peak_gib'],
        **counted,
    )


def write(rows: list[Row], out: pathlib.Path) -> None:
    """Writes the table (CSV and Markdown) and the plot."""
    out.mkdir(parents=True, exist_ok=True)
    names = [field.name for field in dataclasses.fields(Row)]
    with (out / 'codebook_study.csv').open('w', newline='') as file:
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows([dataclasses.astuple(row) for row in rows])
    lines = [
        '| codebook | K | tokens counted | usage | reachable | perplexity | PSNR, dB | s/step | peak GiB |',
        '|---|---:|---:|---:|---:|---:|---:|---:|---:|',
    ]
    lines += [
        f'| {r.codebook} | {r.size:,} | {r.tokens:,} | {100 * r.usage:.2f} % | {100 * r.reachable:.1f} % '
        f'| {r.perplexity:,.0f} | {r.psnr:.2f} | {r.seconds_per_step:.2f} | {r.peak_gib:.1f} |'
        for r in rows
    ]
    (out / 'codebook_study.md').write_text('\n'.join(lines) + '\n')
    plot(rows, out / 'codebook_study.png')


def plot(rows: list[Row], path: pathlib.Path) -> None:
    """Plots one panel per quantity against the number of codewords."""
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    panels = {
        'usage': 'usage',
        'perplexity': 'perplexity',
        'psnr': 'PSNR, dB',
        'seconds_per_step': 'seconds per step',
        'peak_gib': 'peak memory, GiB',
    }
    sizes = sorted({row.size for row in rows})
    figure, axes = plt.subplots(2, 3, figsize=(13, 7.5), constrained_layout=True)
    for axis, (field, title) in zip(axes.flat, panels.items(), strict=False):
        for i, name in enumerate(dict.fromkeys(row.codebook for row in rows)):
            points = sorted((row.size, getattr(row, field)) for row in rows if row.codebook == name)
            axis.plot(*zip(*points, strict=True), marker='osD^vP*X'[i % 8], markersize=5, label=name)
        axis.set(title=title, xlabel='codewords', xscale='log')
        axis.set_xticks(sizes, [f'{size:,}' if size in SIZES else '' for size in sizes], rotation=20)
        axis.minorticks_off()
        if field == 'perplexity':
            axis.set_yscale('log')
        axis.margins(y=0.08)  # the highest points are not cut
        axis.grid(alpha=0.3)
    bound = sorted({row.size: row.reachable for row in rows}.items())
    axes.flat[0].plot(*zip(*bound, strict=True), linestyle=':', color='black', label='reachable')
    handles, labels = axes.flat[0].get_legend_handles_labels()
    axes.flat[-1].axis('off')
    axes.flat[-1].legend(handles, labels, loc='center', fontsize=11)
    figure.savefig(path, dpi=80)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', required=True, help='a folder, a zip file, or tfds:NAME')
    parser.add_argument('--codebooks', nargs='+', choices=KINDS, default=list(KINDS))
    parser.add_argument('--sizes', nargs='+', type=int, choices=SIZES, default=list(SIZES))
    parser.add_argument('--dim', type=int, default=8, help='width of the codewords')
    parser.add_argument('--table', default='', help="VQGAN-LC's table, {size} standing for the rows; default: Gaussian")
    parser.add_argument('--steps', type=int, default=1500)
    parser.add_argument('--batch_size', type=int, default=8, help="0: the config's")
    parser.add_argument('--count_training_images', action='store_true', help='for usage, instead of validation')
    parser.add_argument('--full', action='store_true', help='VQ-16 size at 256x256 instead of 32x32')
    parser.add_argument('--runs', type=pathlib.Path, default=pathlib.Path('runs/codebook_study'))
    parser.add_argument('--out', type=pathlib.Path, default=pathlib.Path('docs'))
    args = parser.parse_args()
    rows = []
    for size in args.sizes:
        for name in args.codebooks:
            folder = args.runs / f'{name.replace(" ", "_")}_{size}'
            print(f'{name}, {size} codewords: {folder}', flush=True)
            train(name, size, folder, args)
            if args.count_training_images:
                count_training_images(folder, args.data)
            rows.append(read(name, size, folder))
            print(rows[-1], flush=True)
            write(sorted(rows, key=lambda row: list(KINDS).index(row.codebook)), args.out)


if __name__ == '__main__':
    main()
