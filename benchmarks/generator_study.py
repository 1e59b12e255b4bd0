"""Comparison of all generators, trained on equally many images with networks of about one size.

    python benchmarks/generator_study.py --data runs/vqgan-digits/tokens
    python benchmarks/generator_study.py --data runs/vqgan-digits/tokens --grains runs/dq_vae-digits/tokens \\
        --factors runs/fqgan-digits/tokens --methods LlamaGen MaskGIT DQ-Transformer FAR
    python benchmarks/generator_study.py --data runs/vqgan-digits/tokens --as_configured --runs runs/as_configured
    python benchmarks/generator_study.py --data runs/tokens-imagenet256 --reference tfds:imagenet2012 --full \\
        --inception pt_inception-2015-12-05-6726825d.pth                   # on an accelerator

Methods of one id per position share tokenizer and tokens (`--data`, of launch/extract_tokens.py); DQ-Transformer needs
tokens with grains and FAR factorized ones, so that their numbers tell of another tokenizer too.  Every cell is a run of
`launch/train.py` in a folder of its own; what has ended is not done again, and an interrupted run goes on.  What is
measured, and how: generator_measures.py.  `--out` receives `generator_study.csv`, `.md`, `.png` and
`generator_samples.png` (matplotlib).
"""

import argparse
import csv
import dataclasses
import pathlib
import subprocess
import sys
from typing import Any

import numpy as np
from generator_measures import DIGITS, Row, load_evaluators, log, measure, real_rows

from vistok.experiments import run_folder
from vistok.visualization import class_sheet, save_png

ROOT = pathlib.Path(__file__).resolve().parents[1]


@dataclasses.dataclass(frozen=True)
class Method:
    """Generator with its settings in the study.

    Attributes:
      config: name of its config file.
      variants: its variants.
      settings: overrides that make it four blocks of width 96 (a U-Net as large as these), for equal budgets.
      tokens: which tokens: 'data', 'grains' or 'factors'.
    """

    config: str
    variants: tuple[str, ...] = ()
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    tokens: str = 'data'


_TWO_HALVES = {'width': 96, 'encoder_layers': 2, 'decoder_layers': 2}
METHODS = {
    'LlamaGen': Method('llamagen', settings={'width': 96}),
    'CTF': Method('ctf', settings={'width': 96, 'layers': 2, 'fine_width': 96}),
    'VQ-DDM': Method('vq_ddm', settings={'channels': 32}),
    'VQ-DDM, transformer': Method('vq_ddm', ('transformer',), {'channels': 96}),
    'VQ-DDM, masks': Method('vq_ddm', ('masks', 'transformer'), {'channels': 96}),
    'MaskGIT': Method('maskgit', settings=_TWO_HALVES),
    'MAGE': Method('mage', settings=_TWO_HALVES),
    'ADDP': Method('addp', settings=_TWO_HALVES),
    'DQ-Transformer': Method('dq_transformer', tokens='grains'),
    'FAR': Method('far', settings={'width': 96}, tokens='factors'),
}
PREDICTOR = {'ADDP': 'MAGE'}


def command(name: str, folder: pathlib.Path, args: argparse.Namespace) -> list[str]:
    """Returns the command line of a cell."""
    method = METHODS[name]
    variants = ','.join((*(['imagenet256'] if args.full else []), *method.variants))
    settings = {'data.source': f'tokens:{getattr(args, method.tokens)}', 'train.log_every': 50}
    if not (args.full or args.as_configured):
        settings |= {
            'train.steps': args.steps,
            'train.batch_size': args.batch_size,
            'train.checkpoint_every': max(1, args.steps // 4),
            'evaluate.every': args.steps,
            'evaluate.per_class': 0,  # samples are drawn when all have ended
        }
        settings |= {f'model.{key}': value for key, value in method.settings.items()}
    if name in PREDICTOR:
        settings['predictor'] = cell(args.runs, PREDICTOR[name])
    return [
        sys.executable,
        str(ROOT / 'launch' / 'train.py'),
        f'--config={ROOT}/configs/{method.config}.py{":" * bool(variants)}{variants}',
        f'--workdir={folder}',
        *(f'--config.{key}={value}' for key, value in settings.items()),
    ]


def cell(runs: pathlib.Path, name: str) -> pathlib.Path:
    """Returns the run folder of a method."""
    return runs / name.replace(', ', '-').replace(' ', '_')


def has_ended(folder: pathlib.Path) -> bool:
    """Returns whether the last step of a run is saved and evaluated."""
    if not (folder / 'config.json').exists():
        return False
    steps = run_folder.read_config(folder).train.steps
    return (folder / 'checkpoints' / str(steps)).exists() and log(folder)[-1].get('evaluation/images') is not None


def train(name: str, args: argparse.Namespace) -> pathlib.Path:
    """Trains one cell, unless it has finished before, and returns its folder.

    Raises:
      CalledProcessError: the run failed; its output is in `log.txt`.
    """
    folder = cell(args.runs, name)
    if not has_ended(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / 'log.txt').open('a') as output:
            subprocess.run(command(name, folder, args), stdout=output, stderr=subprocess.STDOUT, check=True)
    return folder


def write(rows: list[Row], out: pathlib.Path, distance: str) -> None:
    """Writes the table (CSV and Markdown) and the plot."""
    out.mkdir(parents=True, exist_ok=True)
    names = [field.name for field in dataclasses.fields(Row)]
    with (out / 'generator_study.csv').open('w', newline='') as file:
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows([dataclasses.astuple(row) for row in rows])
    titles = ('tokens', 'parameters', 'training, s', 'bits per token', 'recognised', distance, 'precision, recall')
    titles += ('copied', 'calls', 'pictures/s')
    lines = [f'| method | {" | ".join(titles)} |', '|---' * 2 + '|---:' * (len(titles) - 1) + '|']
    lines += ['| ' + ' | '.join(_cells(row)) + ' |' for row in rows]
    (out / 'generator_study.md').write_text('\n'.join(lines) + '\n')
    plot([row for row in rows if row.speed], out / 'generator_study.png', distance)


def _cells(row: Row) -> list[str]:
    def format_value(value: float | None, form: str) -> str:
        return '' if value is None else format(value, form)

    bits = format_value(row.bits, '.2f')
    if row.bits_are == '<=':
        bits = f'≤ {bits}'
    error = f' ± {row.distance_error:.3f}' if row.distance_error is not None else ''
    return [
        row.method,
        row.tokens or '',
        '' if row.parameters is None else f'{row.parameters / 1e6:.2f} M',
        format_value(row.training_seconds, '.0f'),
        bits,
        format_value(row.accuracy, '.1%').replace('%', ' %'),
        format_value(row.distance, '.3f') + error,
        '' if row.precision is None else f'{row.precision:.2f}, {row.recall:.2f}',
        format_value(row.copied, '.1%').replace('%', ' %'),
        format_value(row.calls, '.0f'),
        format_value(row.speed, '.0f'),
    ]


def plot(rows: list[Row], path: pathlib.Path, distance: str) -> None:
    """Plots quality against the cost of an image, and bits per token."""
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt
    from matplotlib import ticker

    panels = [('calls', 'network calls per image'), ('speed', 'images per second'), ('bits', 'bits per token')]
    figure, axes = plt.subplots(1, 3, figsize=(14, 4.6), constrained_layout=True)
    for axis, (field, title) in zip(axes, panels, strict=True):
        for i, row in enumerate(rows):
            if getattr(row, field) is not None:
                marker = 'osD^vP*X<>'[i % 10]
                axis.plot(getattr(row, field), row.distance, marker, color=f'C{i % 10}', markersize=9, label=row.method)
        axis.set(xlabel=title, ylabel=distance, yscale='log')
        if field != 'bits':
            axis.set_xscale('log')
            axis.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
            axis.xaxis.set_major_formatter(ticker.FormatStrFormatter('%g'))
            axis.xaxis.set_minor_formatter(ticker.NullFormatter())
        axis.grid(alpha=0.3, which='both')
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc='outside right upper')
    figure.savefig(path, dpi=80)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', required=True, help='extracted tokens of one id per position')
    parser.add_argument('--grains', help='those of a DQ-VAE; without them, no DQ-Transformer')
    parser.add_argument('--factors', help='those of an FQGAN; without them, no FAR')
    parser.add_argument('--methods', nargs='+', choices=METHODS, default=list(METHODS))
    parser.add_argument('--steps', type=int, default=600)
    parser.add_argument('--batch_size', type=int, default=64)
    parser.add_argument('--per_class', type=int, default=50, help='samples of each class')
    parser.add_argument('--reference', default=DIGITS, help='real images, whose training part samples are held against')
    parser.add_argument('--inception', help='weights of pytorch-fid: FID instead of the stand-in')
    size = parser.add_mutually_exclusive_group()
    size.add_argument('--as_configured', action='store_true', help='sizes, steps and batches of the configs')
    size.add_argument('--full', action='store_true', help="the papers' recipes for ImageNet at 256x256")
    parser.add_argument('--runs', type=pathlib.Path, default=pathlib.Path('runs/generator_study'))
    parser.add_argument('--out', type=pathlib.Path, default=pathlib.Path('docs'))
    args = parser.parse_args()
    names = [name for name in METHODS if name in args.methods and getattr(args, METHODS[name].tokens)]
    for name in [*(PREDICTOR[name] for name in names if name in PREDICTOR), *names]:
        print(f'{name}: {cell(args.runs, name)}', flush=True)
        train(name, args)
    first = cell(args.runs, names[0])
    settings = run_folder.read_config(first)
    given = load_evaluators(args, settings.data.image_size)
    rows, shown = real_rows(first, given) if args.reference == DIGITS else ([], {})
    for name in names:
        rows.append(measure(name, cell(args.runs, name), given, args.per_class))
        print(rows[-1], flush=True)
        with np.load(cell(args.runs, name) / 'samples.npz') as stored:
            shown[name] = stored['pictures'][:10]
        write(rows, args.out, 'FID' if args.inception else 'stand-in distance')
    save_png(args.out / 'generator_samples.png', class_sheet(np.stack(list(shown.values())), list(shown)))


if __name__ == '__main__':
    main()
