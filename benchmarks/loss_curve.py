"""Loss curves of a run: `python benchmarks/loss_curve.py runs/fqgan docs/curve.png` (needs matplotlib)."""

import json
import pathlib
import sys

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt

PANELS = {
    'loss': ('loss/tokenizer', 'loss/discriminator'),
    'terms': ('terms/pixel', 'terms/perceptual', 'terms/adversarial'),
    'PSNR, dB': ('psnr', 'evaluation/psnr'),
    'codebook usage': ('usage/', 'evaluation/usage/'),
}


def main(run: pathlib.Path, image: pathlib.Path) -> None:
    """Plots one panel per quantity against steps."""
    lines = [json.loads(line) for line in (run / 'metrics.jsonl').read_text().splitlines()]
    figure, axes = plt.subplots(1, len(PANELS), figsize=(4 * len(PANELS), 3), constrained_layout=True)
    for axis, (title, wanted) in zip(axes, PANELS.items(), strict=True):
        names = sorted({name for line in lines for name in line if name.startswith(wanted)})
        names = [name for name in names if name in wanted or any(w.endswith('/') for w in wanted)]
        for name in names:
            points = [(line['step'], line[name]) for line in lines if name in line]
            axis.plot(*zip(*points, strict=True), marker='.', label=name)
        axis.set(title=title, xlabel='step')
        if 'usage' in title:
            axis.set_ylim(0, 1.05)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    figure.savefig(image, dpi=80)


if __name__ == '__main__':
    main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
