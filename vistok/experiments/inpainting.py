"""Inpainting of a source's images into a sheet or single files."""

import itertools
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from vistok.data.images.pipeline import evaluation_batches, open_source
from vistok.data.images.source import Split
from vistok.data.tokens.dataset import TokenSource, token_folder
from vistok.errors import UserError
from vistok.experiments import run_folder
from vistok.experiments.outputs import split_outputs
from vistok.generators.inpainting import inpaint_images, mask_region, read_mask
from vistok.generators.trained import TrainedGenerator
from vistok.visualization import class_sheet, save_png, to_uint8

_BATCH = 16


def inpaint_files(
    model: TrainedGenerator,
    out: Sequence[str | pathlib.Path],
    source: str,
    *,
    split: Split = 'validation',
    data_dir: str | None = None,
    count: int = 8,
    mask: str | None = None,
    region: str = 'right',
    completions: int = 4,
    labelled: bool = False,
    seed: int = 0,
    progress: bool = False,
    repeats: int = 1,
    margin: int = 0,
    paste: bool = False,
    **options: Any,
) -> str:
    """Fills hidden parts of the first images of a source, several times each, and writes them.

    Args:
      model: a VQ-DDM with its tokenizer.
      out: what to write: `*.png` is a sheet with a row for each image (as it is, as the model sees it, its
        completions), anything else a folder of one PNG file for each completion.
      source: images, as `open_source` takes them, or a run folder for the images that its generator learned from.
      split: which of them.
      data_dir: where TFDS datasets lie.
      count: number of images.
      mask: image that is white where pixels are hidden.
      region: without a mask, the part that is hidden: left, right, upper, lower, centre or border.
      completions: of each image.
      labelled: tells the model the class of each image.
      seed: seed of the random number generator.
      progress: shows a progress bar.
      repeats: number of times that each step is taken.
      margin: cells around the hidden ones that are made anew as well.
      paste: copies the pixels that are not hidden back into the completions.
      **options: fields of `SampleConfig` that replace the model's defaults.

    Returns:
      One line that says what was written.

    Raises:
      UserError: a number that is too small, a class the model does not have, or a source or mask that cannot be read.
    """
    outputs = split_outputs([str(path) for path in out], npz=False)
    if min(count, completions, repeats) < 1 or margin < 0:
        raise UserError('--images, --completions and --repeats are at least 1, and --margin 0')
    run = find_run(pathlib.Path(source))
    if run is not None:
        source, data_dir = find_run_images(run, data_dir)
    generator = model.generator
    if not labelled:  # without a condition there is nothing to be guided to
        options.setdefault('guidance_scale', 1.0)
    config = model.change_sample_config(**options)
    side = generator.grid[0] * generator.spec.downsample_factor
    hidden = read_mask(mask, side) if mask else mask_region(region, side)
    images = open_source(source, split, data_dir=data_dir)
    batches = evaluation_batches(images, image_size=side, batch_size=min(count, _BATCH))
    rows: list[Any] = []
    done = 0
    with tqdm(total=count, desc='inpainting', unit='image', disable=not progress) as bar:
        for batch in batches:
            real = batch['mask'].nonzero()[0][: count - done]
            pixels, labels = batch['image'], batch['label']
            if labelled and labels.max() >= generator.num_classes:
                raise UserError(f'{source} has a class {labels.max()}, the model {generator.num_classes} classes')
            cond = labels if labelled else np.full_like(labels, generator.num_classes)
            numbers = done * completions + np.arange(len(pixels)) * completions
            settings: dict[str, Any] = {'seed': seed, 'repeats': repeats, 'margin': margin, 'paste': paste}
            filled = [
                inpaint_images(
                    generator, model.variables, model.tokenizer, pixels, hidden, cond, numbers + i, config, **settings
                )
                for i in range(completions)
            ]
            seen = np.where(hidden[..., None], 0.0, pixels)
            rows.append(np.stack([pixels, seen, *filled], axis=1)[real])
            done += len(real)
            bar.update(len(real))
            if done == count:
                break
    sheet = to_uint8(np.concatenate(rows))
    if outputs.sheet is not None:
        save_png(outputs.sheet, class_sheet(sheet, [str(i) for i in range(done)]))
    if outputs.folder is not None:
        for row, i in itertools.product(range(done), range(completions)):
            save_png(outputs.folder / f'{row:06d}-{i}.png', sheet[row, 2 + i])
    written = ' and '.join(str(path) for path in (outputs.sheet, outputs.folder) if path is not None)
    return f'wrote {written}: {done} images with {completions} completions each'


def find_run(path: pathlib.Path) -> pathlib.Path | None:
    """Returns the run folder that a path names, itself or by one of its checkpoints; None for other paths."""
    folder = path.parents[1] if path.parent.name == 'checkpoints' and path.name.isdigit() else path
    return folder if (folder / 'config.json').is_file() else None


def find_run_images(run: pathlib.Path, data_dir: str | None) -> tuple[str, str | None]:
    """Returns the images that a generator's run learned from, and where TFDS datasets lie."""
    data = run_folder.read_config(run).data
    tokens = token_folder(data.source)
    source = data.source if tokens is None else TokenSource(tokens, 'train').about['source']
    return source, data_dir or data.data_dir or None
