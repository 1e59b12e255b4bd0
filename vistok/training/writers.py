"""Metric writers: a JSON-lines file, TensorBoard and the console, behind one interface.

The methods are named as in `clu.metric_writers`, so that its writers fit where ours do (and the other way round).
"""

import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from tensorboardX import SummaryWriter
from tqdm import tqdm

from vistok.files import write_text

Scalars = Mapping[str, Any]  # floats, or arrays of one element
Images = Mapping[str, UInt8[np.ndarray, 'n h w c']]


class MetricWriter:
    """Interface of metric writers; a writer ignores the kinds of data whose methods it does not override.

    `step` counts finished training steps.
    """

    def write_scalars(self, step: int, scalars: Scalars) -> None:
        """Writes numbers by name; a name may have groups: 'loss/pixel'."""

    def write_images(self, step: int, images: Images) -> None:
        """Writes uint8 images, `[n, h, w, c]` for each name."""

    def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
        """Writes texts by name."""

    def write_hparams(self, hparams: Mapping[str, Any]) -> None:
        """Writes the settings of the run, once."""

    def flush(self) -> None:
        """Flushes everything written so far to the operating system."""

    def close(self) -> None:
        """Flushes and frees the files; the writer is not used afterwards."""


class NullWriter(MetricWriter):
    """Writer without output, for every process but the first."""


class MultiWriter(MetricWriter):
    """Writer that forwards every call to several writers."""

    def __init__(self, writers: Sequence[MetricWriter]) -> None:
        self._writers = tuple(writers)

    def write_scalars(self, step: int, scalars: Scalars) -> None:
        for writer in self._writers:
            writer.write_scalars(step, scalars)

    def write_images(self, step: int, images: Images) -> None:
        for writer in self._writers:
            writer.write_images(step, images)

    def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
        for writer in self._writers:
            writer.write_texts(step, texts)

    def write_hparams(self, hparams: Mapping[str, Any]) -> None:
        for writer in self._writers:
            writer.write_hparams(hparams)

    def flush(self) -> None:
        for writer in self._writers:
            writer.flush()

    def close(self) -> None:
        for writer in self._writers:
            writer.close()


class JsonlWriter(MetricWriter):
    """JSON-lines file of scalars, one object per call and line: `{"step": 100, "loss/pixel": 0.12}`.

    A step with several calls (training, evaluation) has several lines.  Numbers that JSON lacks are the strings 'NaN',
    'Infinity' and '-Infinity', which `float()` understands.
    """

    def __init__(self, path: str | os.PathLike[str], resume_step: int | None = None) -> None:
        """Opens or continues the file.

        Args:
          path: path of the file; its folder is created.
          resume_step: step of the checkpoint from which the run goes on: later lines, which the run is about to write
            again, are dropped, and so is a last line cut short when the earlier run was killed.  None starts afresh.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = [] if resume_step is None or not path.exists() else _lines_until(path, resume_step)
        write_text(path, ''.join(kept))
        self._file = path.open('a', encoding='utf-8')

    def write_scalars(self, step: int, scalars: Scalars) -> None:
        """Appends one line, which readers see at once."""
        line = {'step': int(step)} | {name: json_number(value) for name, value in scalars.items()}
        self._file.write(json.dumps(line, allow_nan=False) + '\n')
        self._file.flush()

    def flush(self) -> None:
        """Flushes the lines to disk, so that they survive a crash of the machine."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def _lines_until(path: Path, step: int) -> list[str]:
    kept = []
    for line in path.read_text(encoding='utf-8').splitlines(keepends=True):
        try:
            keep = json.loads(line)['step'] <= step
        except ValueError:
            keep = False
        if keep and line.endswith('\n'):
            kept.append(line)
    return kept


def json_number(value: Any) -> float | str:
    """Converts a number to JSON; those that JSON lacks become 'NaN', 'Infinity' and '-Infinity'."""
    number = float(value)
    if math.isnan(number):
        return 'NaN'
    return number if math.isfinite(number) else ('Infinity' if number > 0 else '-Infinity')


class TensorBoardWriter(MetricWriter):
    """Event files for TensorBoard, written without TensorFlow."""

    def __init__(self, folder: str | os.PathLike[str], resume_step: int | None = None) -> None:
        """Adds an event file to `folder`; after a resume, TensorBoard hides what lies behind `resume_step`."""
        purge_step = None if resume_step is None else resume_step + 1
        self._writer = SummaryWriter(str(folder), purge_step=purge_step)

    def write_scalars(self, step: int, scalars: Scalars) -> None:
        """Writes one curve point per name."""
        for name, value in scalars.items():
            self._writer.add_scalar(name, float(value), step)

    def write_images(self, step: int, images: Images) -> None:
        """Writes images by name; where a name has several, they are numbered."""
        for name, batch in images.items():
            for i, image in enumerate(batch):
                tag = name if len(batch) == 1 else f'{name}/{i}'
                self._writer.add_image(tag, image, step, dataformats='HWC')

    def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
        for name, text in texts.items():
            self._writer.add_text(name, text, step)

    def write_hparams(self, hparams: Mapping[str, Any]) -> None:
        """Writes the settings as a table."""
        rows = ''.join(f'| {name} | {value} |\n' for name, value in hparams.items())
        self._writer.add_text('hparams', f'| setting | value |\n|---|---|\n{rows}', 0)

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class ConsoleWriter(MetricWriter):
    """Console lines, one per call, numbers grouped by the first part of their name, above any progress bar."""

    def write_scalars(self, step: int, scalars: Scalars) -> None:
        """Prints `step 100 | lr 0.0001 | loss: pixel 0.12, perceptual 0.3`."""
        self._print(f'step {step} | {_format_scalars(scalars)}')

    def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
        """Prints each text after its name."""
        for name, text in texts.items():
            self._print(f'step {step} | {name}: {text}')

    def _print(self, line: str) -> None:
        tqdm.write(line)
        sys.stdout.flush()  # a log file shows it at once too


def _format_scalars(scalars: Scalars) -> str:
    groups: dict[str, list[str]] = {}
    for name, value in scalars.items():
        group, slash, leaf = name.partition('/')
        if not slash:
            group, leaf = '', name
        groups.setdefault(group, []).append(f'{leaf} {float(value):.4g}')
    plain = groups.pop('', [])
    return ' | '.join(plain + [f'{group}: {", ".join(entries)}' for group, entries in groups.items()])


def create_writer(
    run_folder: str | os.PathLike[str], *, resume_step: int | None = None, primary: bool = True
) -> MetricWriter:
    """Creates the writer of a run: `metrics.jsonl` and `tensorboard/` in its folder, and the console.

    Args:
      run_folder: made if it does not exist.
      resume_step: step of the checkpoint from which the run goes on; None for a new run.
      primary: True in the process that writes (process 0); the others get a writer without output.
    """
    if not primary:
        return NullWriter()
    folder = Path(run_folder)
    return MultiWriter(
        [
            JsonlWriter(folder / 'metrics.jsonl', resume_step),
            TensorBoardWriter(folder / 'tensorboard', resume_step),
            ConsoleWriter(),
        ]
    )
