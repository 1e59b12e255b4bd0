"""Codebooks refitted to the vectors that a trained encoder makes (ReFiT)."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from vistok.data.images.pipeline import evaluation_batches, train_batches
from vistok.experiments.model_inputs import (
    Images,
    Model,
    PathLike,
    check_new_weights,
    choose_data,
    open_images,
    resolve_tokenizer,
)
from vistok.experiments.saved_models import save_model
from vistok.tokenizers.evaluation import evaluate_tokenizer
from vistok.tokenizers.refit import refit_codebook, sample_latents
from vistok.tokenizers.tokenizer import Tokens
from vistok.tokenizers.trained import TrainedTokenizer


@dataclasses.dataclass(frozen=True)
class RefitReport:
    """Tokenizer with a refitted codebook.

    Attributes:
      tokenizer: the new one.
      sizes: codewords before and after.
      before: metrics of the old tokenizer on validation images, as `evaluate_tokenizer` gives them.
      after: metrics of the new tokenizer on the same images.
      path: file that holds the new tokenizer; None if none was written.
    """

    tokenizer: TrainedTokenizer
    sizes: tuple[int, int]
    before: dict[str, float]
    after: dict[str, float]
    path: Path | None

    def __str__(self) -> str:
        lines = []
        for name, size, metrics in zip(('before', 'after'), self.sizes, (self.before, self.after), strict=True):
            used = ', '.join(
                f'{key} {value:.4g}' for key, value in metrics.items() if key.startswith(('usage', 'perp'))
            )
            lines.append(f'{name:6} {size} codewords: {used}, PSNR {metrics["psnr"]:.2f} dB')
        return '\n'.join([*lines, *([] if self.path is None else [f'wrote {self.path}'])])


def refit(
    model: Model,
    out: PathLike | None = None,
    *,
    size: int | None = None,
    vectors: int = 20_000,
    data: Images | None = None,
    data_dir: str | None = None,
    checkpoint: int | str = 'latest',
    image_size: int | None = None,
    batch_size: int = 64,
    seed: int = 0,
    progress: bool = False,
) -> RefitReport:
    """Replaces the codebook of a trained tokenizer by k-means centres of the vectors that its encoder makes.

    Hu et al., "Global Context with Discrete Diffusion in Vector Quantised Modelling for Image Generation" (2022): one
    vector of each of many random images is clustered.  The result is a tokenizer of the plain kind: a codebook that
    was frozen or projected is a table now.

    Args:
      model: tokenizer, or its path.
      out: `.safetensors` file for the new tokenizer; None: none is written.
      size: codewords; None: as many as there are.
      vectors: number of images, of each of which one vector is clustered.
      data: images; None: those of the run.
      data_dir: folder of TFDS datasets.
      checkpoint: of a run folder: 'latest', 'best', or a step.
      image_size: side of the crops in pixels; None: that of the run, or 256.
      batch_size: images that are encoded at a time.
      seed: of images, places and clusters.
      progress: shows a progress bar.

    Raises:
      UserError: there is no such tokenizer, it is of another kind, or there are fewer images than codewords.
    """
    path = None if out is None else check_new_weights(out)
    trained = resolve_tokenizer(model, checkpoint)
    chosen = choose_data(model, data, data_dir, image_size)
    shapes: dict[str, Any] = {'image_size': chosen.image_size, 'batch_size': batch_size}
    source = open_images(chosen.source, 'train', data_dir=chosen.data_dir)
    batches = train_batches(source, **shapes, seed=seed, augmentation='centre_crop')
    with tqdm(batches, desc='encoding', unit='batch', total=-(-vectors // batch_size), disable=not progress) as shown:
        found = sample_latents(trained, (batch['image'] for batch in shown), vectors, seed=seed)
    new = refit_codebook(trained, found, size, seed=seed)
    unseen = evaluation_batches(open_images(chosen.source, 'validation', data_dir=chosen.data_dir), **shapes)
    before, after = (
        evaluate_tokenizer(functools.partial(_reconstruct, each), unseen, each.spec, shown=0).metrics
        for each in (trained, new)
    )
    if path is not None:
        save_model(new, path)
    return RefitReport(new, (trained.spec.codebook_sizes[0], new.spec.codebook_sizes[0]), before, after, path)


def _reconstruct(model: TrainedTokenizer, images: np.ndarray) -> tuple[np.ndarray, Tokens]:
    output = model(images)
    return np.asarray(output.reconstruction), output.tokens
