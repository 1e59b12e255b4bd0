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
      source: images, as `open_source` takes them.
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
    outputs = [pathlib.Path(path) for path in out]
    if not outputs:
        raise UserError('name what to write, for example --out=completed.png')
    if min(count, completions, repeats) < 1 or margin < 0:
        raise UserError('--count, --completions and --repeats are at least 1, and --margin 0')
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
    for path in outputs:
        if path.suffix == '.png':
            save_png(path, class_sheet(sheet, [str(i) for i in range(done)]))
            continue
        for row, i in itertools.product(range(done), range(completions)):
            save_png(path / f'{row:06d}-{i}.png', sheet[row, 2 + i])
    written = ' and '.join(map(str, outputs))
    return f'wrote {written}: {done} images with {completions} completions each'


def default_source(path: pathlib.Path) -> tuple[str, str | None]:
    """Returns the images that a generator's run learned from, and where TFDS datasets lie.

    Raises:
      UserError: `path` is neither a run folder nor one of its checkpoints.
    """
    folder = next((p for p in (path, *path.parents[:2]) if (p / 'config.json').is_file()), None)
    if folder is None:
        raise UserError(f'{path} is no run folder: name images by --source')
    data = run_folder.read_config(folder).data
    tokens = token_folder(data.source)
    source = data.source if tokens is None else TokenSource(tokens, 'train').about['source']
    return source, data.data_dir or None
