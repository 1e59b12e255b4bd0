"""Gives a trained tokenizer a new codebook: the centres of the vectors that its encoder makes (VQ-DDM's ReFiT).

    python launch/refit.py --run=runs/vqgan --size=1024 --output=refitted.safetensors

Hu et al., "Global Context with Discrete Diffusion in Vector Quantised Modelling for Image Generation" (2022): one
vector of each of many random images, clustered by k-means, takes the place of the codebook, whose size may change.
The result is a tokenizer of the plain kind; what was frozen or projected is a table now.  Prints how much of either
codebook unseen images use and how well they are reconstructed.
"""

import functools
import pathlib
from typing import Any

from absl import flags

from vistok import cli

_RUN = flags.DEFINE_string('run', None, 'Run folder of a tokenizer, or converted weights; then name a --source.')
_WHICH = flags.DEFINE_string('checkpoint', 'latest', "'latest', 'best', or a step.")
_SIZE = flags.DEFINE_integer('size', None, 'Codewords; default: as many as there are.')
_VECTORS = flags.DEFINE_integer('vectors', 20_000, 'Images that one vector of each is clustered of.')
_SOURCE = flags.DEFINE_string('source', None, "Images; default: the run's own.")
_DATA_DIR = flags.DEFINE_string('data_dir', None, 'Where TFDS datasets lie.')
_IMAGE_SIZE = flags.DEFINE_integer('image_size', None, 'Side of the crops in pixels; default: that of the run, or 256.')
_BATCH_SIZE = flags.DEFINE_integer('batch_size', 64, 'Images at a time.')
_SEED = flags.DEFINE_integer('seed', 0, 'Of images, places and clusters.')
_OUTPUT = flags.DEFINE_string('output', None, 'File to write, .safetensors.')


def main() -> None:
    """Refits, compares and writes."""
    import numpy as np
    from tqdm import tqdm

    from vistok.data.images.pipeline import evaluation_batches, open_source, train_batches
    from vistok.errors import UserError
    from vistok.experiments import run_folder
    from vistok.experiments.loading import load_tokenizer
    from vistok.experiments.saved_models import save_model
    from vistok.tokenizers.evaluation import evaluate_tokenizer
    from vistok.tokenizers.refit import refit_codebook, sample_latents
    from vistok.tokenizers.tokenizer import Tokens
    from vistok.tokenizers.trained import TrainedTokenizer

    output = pathlib.Path(_OUTPUT.value or '')
    if _RUN.value is None or output.suffix != '.safetensors' or not output.parent.is_dir():
        raise UserError('name a tokenizer and a file to write, for example --run=runs/vqgan --output=new.safetensors')
    path = pathlib.Path(_RUN.value)
    trained = load_tokenizer(path, _WHICH.value)
    source, data_dir, side = _SOURCE.value, _DATA_DIR.value, _IMAGE_SIZE.value
    folder = next((p for p in (path, *path.parents[:2]) if (p / 'config.json').is_file()), None)
    if folder is not None:
        data = run_folder.read_config(folder).data
        source, data_dir, side = source or data.source, data_dir or data.data_dir or None, side or data.image_size
    if source is None:
        raise UserError(f'{path} is no run folder: name images by --source')
    shapes: dict[str, Any] = {'image_size': side or 256, 'batch_size': _BATCH_SIZE.value}

    batches = train_batches(
        open_source(source, 'train', data_dir=data_dir), **shapes, seed=_SEED.value, augmentation='centre_crop'
    )
    shown = tqdm(batches, desc='encoding', unit='batch', total=-(-_VECTORS.value // _BATCH_SIZE.value))
    vectors = sample_latents(trained, (batch['image'] for batch in shown), _VECTORS.value, seed=_SEED.value)
    shown.close()
    new = refit_codebook(trained, vectors, _SIZE.value, seed=_SEED.value)
    unseen = evaluation_batches(open_source(source, 'validation', data_dir=data_dir), **shapes)

    def reconstruct(model: TrainedTokenizer, images: np.ndarray) -> tuple[np.ndarray, Tokens]:
        output = model(images)
        return np.asarray(output.reconstruction), output.tokens

    for name, model in (('before', trained), ('after', new)):
        metrics = evaluate_tokenizer(functools.partial(reconstruct, model), unseen, model.spec, shown=0).metrics
        used = ', '.join(f'{key} {value:.4g}' for key, value in metrics.items() if key.startswith(('usage', 'perp')))
        print(f'{name:6} {model.spec.codebook_sizes[0]} codewords: {used}, PSNR {metrics["psnr"]:.2f} dB')
    save_model(output, new)
    print(f'wrote {output}')


if __name__ == '__main__':
    cli.run(main)
