"""Measures a tokenizer on pictures it has not seen.

    python launch/evaluate.py --run=runs/fqgan
    python launch/evaluate.py --run=runs/fqgan --source=/data/kodak --image_size=256 --lpips=/weights/lpips

`--run` also takes a file that launch/convert.py wrote; then name a --source.  Writes `evaluation.json` and
`evaluation.png` into --out (default: the run folder).
"""

import json
import pathlib
from typing import cast

from absl import flags

from tesserax.launch import cli

_RUN = flags.DEFINE_string('run', None, 'Run folder, checkpoint of a run, or converted weights.')
_WHICH = flags.DEFINE_string('checkpoint', 'latest', "'latest', 'best', or a step.")
_SOURCE = flags.DEFINE_string('source', None, "Pictures; default: the run's own validation pictures.")
_DATA_DIR = flags.DEFINE_string('data_dir', None, 'Where TFDS datasets lie.')
_SPLIT = flags.DEFINE_enum('split', 'validation', ['validation', 'train'], 'Which pictures of the source.')
_IMAGE_SIZE = flags.DEFINE_integer(
    'image_size', None, 'Side of the centre crops, in pixels; default: that of the run, or 256.'
)
_BATCH_SIZE = flags.DEFINE_integer('batch_size', 16, 'Pictures at a time.')
_LPIPS = flags.DEFINE_string('lpips', None, 'Official LPIPS weights (a folder, or one file with --lpips_sha256).')
_LPIPS_SHA256 = flags.DEFINE_string('lpips_sha256', None, 'Digest that a single LPIPS file should have.')
_PICTURES = flags.DEFINE_integer('pictures', 16, 'Pictures on the sheet; 0 leaves it out.')
_OUT = flags.DEFINE_string('out', None, 'Folder for the results; default: the run folder.')


def main() -> None:
    """Evaluates and prints a table."""
    import numpy as np
    from tqdm import tqdm

    from tesserax.common.data.pipeline import Split, evaluation_batches, open_source
    from tesserax.common.errors import UserError
    from tesserax.common.pictures import save_png
    from tesserax.common.pretrained.judge import load_judge
    from tesserax.common.training.writers import json_number
    from tesserax.launch import assemble, run_folder
    from tesserax.launch.load import load
    from tesserax.tokenizers.evaluation import evaluate_tokenizer
    from tesserax.tokenizers.tokenizer import Tokens
    from tesserax.tokenizers.trained import TrainedTokenizer

    if _RUN.value is None:
        raise UserError('name what to evaluate, for example --run=runs/fqgan')
    path = pathlib.Path(_RUN.value)
    model = load(path, _WHICH.value)
    if not isinstance(model, TrainedTokenizer):
        raise UserError(f'{path} holds no tokenizer but a {type(model.module).__name__}')
    folder = next((p for p in (path, *path.parents[:2]) if (p / 'config.json').is_file()), None)
    source, data_dir, size = _SOURCE.value, _DATA_DIR.value, _IMAGE_SIZE.value
    if folder is not None:
        config = run_folder.read_config(folder)
        data, own_size = config.data, assemble.evaluation_image_size(config)
        source, data_dir, size = source or data.source, data_dir or data.data_dir or None, size or own_size
    if source is None:
        raise UserError(f'{path} is no run folder: name pictures to evaluate on by --source')
    out = pathlib.Path(_OUT.value) if _OUT.value else folder
    if out is None:
        raise UserError('name a folder for the results by --out')

    def reconstruct(images: np.ndarray) -> tuple[np.ndarray, Tokens]:
        output = model(images)
        return np.asarray(output.reconstruction), output.tokens

    perceptual = load_judge('lpips', _LPIPS.value, sha256=_LPIPS_SHA256.value) if _LPIPS.value else None
    batches = evaluation_batches(
        open_source(source, cast(Split, _SPLIT.value), data_dir=data_dir),
        image_size=size or 256,
        batch_size=_BATCH_SIZE.value,
    )
    evaluation = evaluate_tokenizer(
        reconstruct,
        tqdm(batches, desc='evaluating', unit='batch'),
        model.spec,
        perceptual=perceptual,
        pictures=_PICTURES.value,
    )
    out.mkdir(parents=True, exist_ok=True)
    settings = {'weights': str(path), 'source': source, 'split': _SPLIT.value, 'image_size': size or 256}
    metrics = {name: json_number(value) for name, value in evaluation.metrics.items()}
    written = [out / 'evaluation.json']
    run_folder.write_text(written[0], json.dumps(settings | metrics, indent=2, allow_nan=False) + '\n')
    if len(evaluation.originals):
        written.append(out / 'evaluation.png')
        save_png(written[1], evaluation.sheet())
    for name, value in evaluation.metrics.items():
        print(f'{name:24} {value:.4f}' if value % 1 else f'{name:24} {value:.0f}')
    if batches.skipped:
        name, reason = next(iter(batches.skipped.items()))
        print(f'{len(batches.skipped)} pictures could not be read and do not count; the first: {name}: {reason}')
    print(f'wrote {" and ".join(map(str, written))}')


if __name__ == '__main__':
    cli.run(main)
