"""Measurements of generator_study.py on trained generators and real images.

Bits per token are means over the validation images: of the likelihood (=) or of an upper bound (<=).  MaskGIT and
MAGE get the bound of models that reveal tokens in any order (Hoogeboom et al. 2022, "Autoregressive Diffusion Models").
Samples are drawn as the config of each method says, as many of every class.  How many of them a classifier takes for
what was asked is told for digits (digits.py).  Their distance from the training images is FID where the weights of
Inception are given; else it is that of a stand-in network, and is not FID.
"""

import argparse
import dataclasses
import json
import math
import pathlib
import statistics
import time
from typing import Any

import digits
import jax
import jax.numpy as jnp
import numpy as np
from sklearn.svm import SVC

import vistok
from vistok.data.images.pipeline import to_model_range
from vistok.data.tokens.dataset import TokenSource, token_folder
from vistok.experiments import registry, run_folder
from vistok.generators.autoregressive.ctf import CTF
from vistok.generators.autoregressive.dq_transformer import DQTransformer
from vistok.generators.diffusion.vq_ddm import VQDDM
from vistok.generators.generator import Generator, SampleConfig
from vistok.generators.masked.mage import MAGE
from vistok.generators.masked.masking import MaskedGrid
from vistok.generators.trained import TrainedGenerator
from vistok.metrics.feature_extractor import FeatureExtractor, load_extractor
from vistok.metrics.feature_set import FeatureCollector, FeatureSet
from vistok.metrics.feature_statistics import open_reference
from vistok.metrics.protocols import find_protocol
from vistok.metrics.report import report_on
from vistok.visualization import to_uint8

BATCH = 100
DIGITS = 'embedded:digits'


@dataclasses.dataclass(frozen=True)
class Row:
    """Results of one cell of the study; None where a number does not exist.

    Attributes:
      method: its name.
      tokens: what an image consists of.
      parameters: trained ones.
      training_seconds: steps times the median of their time.
      bits: per token, on unseen images.
      bits_are: '=' of a likelihood, '<=' of a bound.
      accuracy: share of samples that are recognised as the class asked for.
      distance: of Fréchet, from the training images.
      distance_error: its standard error.
      precision: share of samples near a training image.
      recall: share of training images near a sample.
      copied: share of samples whose tokens are those of a training image.
      calls: of the network, for each image; with guidance each is one of two rows.
      speed: images per second, decoded, 100 at a time.
      samples: how many were drawn.
    """

    method: str
    tokens: str | None = None
    parameters: int | None = None
    training_seconds: float | None = None
    bits: float | None = None
    bits_are: str | None = None
    accuracy: float | None = None
    distance: float | None = None
    distance_error: float | None = None
    precision: float | None = None
    recall: float | None = None
    copied: float | None = None
    calls: float | None = None
    speed: float | None = None
    samples: int | None = None


def log(folder: pathlib.Path) -> list[dict[str, Any]]:
    """Reads the lines of a run's log."""
    return [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]


def network_calls(generator: Generator, config: SampleConfig, grain: np.ndarray | None) -> float:
    """Counts the network calls for one image; the mean for samples with grains."""
    cells = math.prod(generator.grid)
    match generator:
        case DQTransformer():
            assert grain is not None
            codes = (1 / np.square(grain, dtype=np.float64)).sum() / len(grain)
            return float(codes) + len(generator.spec.grains)  # an end for each grain
        case CTF():
            return cells + 1
        case VQDDM():
            return config.steps or generator.timesteps
        case _ if hasattr(generator, 'steps'):
            return config.steps or generator.steps
    return cells * len(generator.spec.codebook_sizes)


def any_order_bits(model: TrainedGenerator, source: TokenSource, seed: int = 0) -> float:
    """Computes an upper bound of -log2 p per token of a predictor of masked tokens, over first views of `source`.

    For n tokens in any order it is the mean, over the number of hidden tokens from 1 to n, of their mean cross-entropy;
    one random order is taken for each image.
    """
    generator: Any = model.generator
    records = [source[i] for i in range(len(source))]
    ids = np.stack([record.ids[0].reshape(-1) for record in records])
    labels = np.asarray([record.label for record in records])
    order = np.random.default_rng(seed).permuted(np.tile(np.arange(ids.shape[1]), (len(ids), 1)), axis=1)

    @jax.jit
    def hidden_nll(variables: Any, count: jax.Array, ids: jax.Array, labels: jax.Array, order: jax.Array) -> jax.Array:
        hidden = order < count
        logits = generator.logits(variables, MaskedGrid(ids, hidden), labels, None)
        nll = -jnp.take_along_axis(jax.nn.log_softmax(logits), ids[..., None], axis=-1)[..., 0]
        return jnp.where(hidden, nll, 0).sum(axis=-1) / count

    counts = range(1, ids.shape[1] + 1)
    each = [np.asarray(hidden_nll(model.variables, count, ids, labels, order), np.float64) for count in counts]
    return float(np.mean(each)) / math.log(2)


def draw(folder: pathlib.Path, model: TrainedGenerator, config: SampleConfig, per_class: int) -> dict[str, np.ndarray]:
    """Draws samples of a run, classes in turn: 'pictures' (uint8), 'labels', 'ids', 'grain' and the 'seconds' it
    took.
    """
    file = folder / 'samples.npz'
    if file.exists():
        with np.load(file) as stored:
            if len(stored['labels']) == per_class * model.generator.num_classes:
                return dict(stored)
    labels = np.tile(np.arange(model.generator.num_classes), per_class)
    found: dict[str, list[np.ndarray]] = {'pictures': [], 'ids': [], 'grain': []}
    clock = 0.0
    for start in range(-BATCH, len(labels), BATCH):  # the first compiles, and does not count
        rows = np.clip(np.arange(start, start + BATCH), 0, len(labels) - 1)
        begin = time.perf_counter()
        tokens = model.sample_tokens(labels[rows], 0, config, rows)
        images = to_uint8(np.asarray(model.tokenizer.decode(tokens)))
        if start < 0:
            continue
        clock += time.perf_counter() - begin
        batch = {'pictures': images, 'ids': tokens.ids}
        if tokens.grain is not None:
            batch['grain'] = tokens.grain
        for key, values in batch.items():
            found[key].append(np.asarray(values))
    drawn = {key: np.concatenate(values)[: len(labels)] for key, values in found.items() if values}
    drawn |= {'labels': labels, 'seconds': np.float64(clock * len(labels) / (-(-len(labels) // BATCH) * BATCH))}
    np.savez_compressed(file, **drawn)
    return drawn


def share_copied(ids: np.ndarray, source: TokenSource) -> float:
    """Computes the share of token grids that equal those of a view of a training image."""
    known = {view.astype(np.int32).tobytes() for i in range(len(source)) for view in source[i].ids}
    return float(np.mean([grid.astype(np.int32).tobytes() in known for grid in ids]))


@dataclasses.dataclass(frozen=True)
class Evaluators:
    """Evaluators of generated images; the classifier is None where there is none.

    Attributes:
      extractor: of features.
      reference: features of the real training images.
      classifier: of digits.
    """

    extractor: FeatureExtractor
    reference: FeatureSet
    classifier: SVC | None

    def measures(self, name: str, images: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
        """Computes the fields of a row."""
        collector = FeatureCollector(self.extractor, name, BATCH)
        for start in range(0, len(images), BATCH):
            collector.add(images[start : start + BATCH])
        metrics = report_on(collector.finish(), self.reference).metrics
        distance, prefix = ('gfid', '') if self.extractor.protocol.is_fid else ('stand_in_frechet', 'stand_in_')
        found: dict[str, Any] = {
            'distance': metrics[distance],
            'distance_error': metrics.get(f'{distance}_error'),
            'precision': metrics[f'{prefix}precision'],
            'recall': metrics[f'{prefix}recall'],
            'samples': len(images),
        }
        if self.classifier is not None:
            found['accuracy'] = float(np.mean(self.classifier.predict(digits.features(images)) == labels))
        return found


def load_evaluators(args: argparse.Namespace, image_size: int) -> Evaluators:
    """Loads the evaluators that the arguments name."""
    extractor = load_extractor(find_protocol('adm' if args.inception else 'stand_in'), args.inception)
    reference = open_reference(args.reference, extractor, split='train', image_size=image_size)
    classifier = None
    if args.reference == DIGITS:
        images, labels = digits.real('train')
        classifier = SVC(C=10, gamma=0.1).fit(digits.features(images), labels)
    return Evaluators(extractor, reference, classifier)


def measure(name: str, folder: pathlib.Path, given: Evaluators, per_class: int) -> Row:
    """Measures a finished cell and returns its row."""
    model: Any = vistok.load(folder)
    settings = run_folder.read_config(folder)
    config = registry.build_sample_config(settings.sample)
    drawn = draw(folder, model, config, per_class)
    lines = log(folder)
    step = statistics.median(line['speed/seconds_per_step'] for line in lines if 'speed/seconds_per_step' in line)
    tokens = token_folder(settings.data.source)
    assert tokens is not None
    bits, bits_are = lines[-1].get('evaluation/bits_per_token'), '<=' if isinstance(model.generator, VQDDM) else '='
    if isinstance(model.generator, MAGE):
        bits, bits_are = any_order_bits(model, TokenSource(tokens, 'validation')), '<='
    spec, factors = model.generator.spec, (len(model.generator.spec.codebook_sizes),)
    grid = '×'.join(map(str, model.generator.grid + (factors if factors != (1,) else ())))
    return Row(
        name,
        tokens=f'{grid} of {spec.codebook_sizes[0]}',
        parameters=sum(x.size for x in jax.tree.leaves(model.variables['params'])),
        training_seconds=step * settings.train.steps,
        bits=bits,
        bits_are=bits_are if bits is not None else None,
        copied=share_copied(drawn['ids'], TokenSource(tokens, 'train')),
        calls=network_calls(model.generator, config, drawn.get('grain')),
        speed=len(drawn['labels']) / float(drawn['seconds']),
        **given.measures(name, drawn['pictures'], drawn['labels']),
    )


def real_rows(folder: pathlib.Path, given: Evaluators) -> tuple[list[Row], dict[str, np.ndarray]]:
    """Measures unseen digits and their reconstructions, an upper bound; returns an image of each class with them."""
    model: Any = vistok.load(folder)
    unseen, labels = digits.real('validation')
    rebuilt = digits.in_batches(lambda i: model.tokenizer(to_model_range(unseen[i])).reconstruction, len(unseen))
    images = {'unseen digits': unseen, 'rebuilt': to_uint8(rebuilt)}
    rows = [Row(name, **given.measures(name, each, labels)) for name, each in images.items()]
    first = np.asarray([np.flatnonzero(labels == label)[0] for label in range(10)])
    return rows, {name: each[first] for name, each in images.items()}
