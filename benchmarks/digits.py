"""Recognition rate and novelty of generated digits, by a classifier of real digits.

    python benchmarks/digits.py --run runs/llamagen

A support vector machine is trained on the real training digits at 8x8 pixels.  Reported: how often it is right on real
digits that it has not seen, on their reconstructions by the tokenizer (the best that a generator can do), and on
generated ones; and the share of generated token grids that occur in the training tokens, letter by letter.
"""

import argparse
import json
import pathlib

import numpy as np
from PIL import Image
from sklearn.svm import SVC

import vistok
from vistok.data.images.pipeline import open_source, to_model_range
from vistok.data.images.source import Split
from vistok.data.tokens.dataset import TokenSource, token_folder
from vistok.experiments import registry, run_folder
from vistok.generators.generator import SampleConfig
from vistok.visualization import to_uint8

BATCH = 100


def features(images: np.ndarray) -> np.ndarray:
    """Converts uint8 RGB images to flat grey 8x8 versions in [0, 1]."""
    small = [Image.fromarray(image).convert('L').resize((8, 8), Image.Resampling.BOX) for image in images]
    return np.stack([np.asarray(image, np.float32).ravel() / 255 for image in small])


def real(split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Loads images, uint8 `[n, 32, 32, 3]`, and labels of a split."""
    source = open_source('embedded:digits', split)
    records = [source[i] for i in range(len(source))]
    return np.stack([record.image for record in records]), np.asarray([record.label for record in records])


def in_batches(function: object, count: int) -> np.ndarray:
    """Collects the results of `function(indices)` for all of `count`, in batches of one shape."""
    assert callable(function)
    rows = [function(np.minimum(np.arange(start, start + BATCH), count - 1)) for start in range(0, count, BATCH)]
    return np.concatenate([np.asarray(row) for row in rows])[:count]


def measure(run: pathlib.Path, per_class: int, seed: int, config: SampleConfig) -> dict[str, float]:
    """Measures the shares of recognised, correct and copied samples."""
    model = vistok.load(run)
    images, labels = real('train')
    machine = SVC(C=10, gamma=0.1).fit(features(images), labels)
    unseen, unseen_labels = real('validation')
    rebuilt = in_batches(lambda i: model.tokenizer(to_model_range(unseen[i])).reconstruction, len(unseen))
    asked = np.tile(np.arange(10), per_class)
    ids = in_batches(lambda i: model.sample_tokens(asked[i], seed, config, i).ids, len(asked))
    drawn = in_batches(lambda i: model.tokenizer.decode(vistok.Tokens(ids[i])), len(asked))
    guesses = machine.predict(features(to_uint8(drawn)))
    found = {
        'real': float(np.mean(machine.predict(features(unseen)) == unseen_labels)),
        'reconstructed': float(np.mean(machine.predict(features(to_uint8(rebuilt))) == unseen_labels)),
        'generated': float(np.mean(guesses == asked)),
        'distinct': len(np.unique(ids.reshape(len(ids), -1), axis=0)) / len(ids),
    }
    found |= {f'generated/{digit}': float(np.mean(guesses[asked == digit] == digit)) for digit in range(10)}
    folder = token_folder(run_folder.read_config(run).data.source)
    if folder is not None:
        source = TokenSource(folder, 'train')
        known = {view.tobytes() for i in range(len(source)) for view in source[i].ids.astype(np.int32)}
        found['copied'] = float(np.mean([grid.astype(np.int32).tobytes() in known for grid in ids]))
    return found


def main() -> None:
    """Measures a run and prints its shares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--run', type=pathlib.Path, required=True)
    parser.add_argument('--per_class', type=int, default=50)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--guidance_scale', type=float)
    parser.add_argument('--temperature', type=float)
    args = parser.parse_args()
    changes = {key: getattr(args, key) for key in ('guidance_scale', 'temperature') if getattr(args, key) is not None}
    config = registry.build_sample_config(run_folder.read_config(args.run).sample, **changes)
    print(json.dumps(measure(args.run, args.per_class, args.seed, config), indent=2))


if __name__ == '__main__':
    main()
