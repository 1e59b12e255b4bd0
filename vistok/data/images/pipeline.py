"""Input pipeline: endless shuffled training batches, and evaluation batches with each image exactly once.

Grain shuffles, draws the randomness of each sample, and reads ahead in threads.  Everything about a sample follows
from the seed and its place in the stream, so batches do not depend on threads, on how often training stopped, or on the
number of processes: the processes of a run share out the very samples that one process would see.
"""

import dataclasses
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grain
import numpy as np
from jaxtyping import Float, UInt8

from vistok.data.images.augment import NO_DISTORTIONS, Augmentation, Distortions, TooSmall, augment, centre_crop
from vistok.data.images.embedded import Digits, Photographs
from vistok.data.images.folder import ImageFolder
from vistok.data.images.mixing import NO_MIXING, Mixing
from vistok.data.images.source import BadImage, ImageRecord, ImageSource, Split
from vistok.errors import UserError

Batch = dict[str, np.ndarray]
"""'image': float32 [b, size, size, 3] in [-1, 1]; 'label': int32 [b]; evaluation adds 'mask': bool [b].

Mixtures of images add 'other_label': int32 [b], and 'share': float32 [b], that of 'label'.
"""

_EMBEDDED: dict[str, Callable[[Split], ImageSource]] = {'embedded:photographs': Photographs, 'embedded:digits': Digits}


def open_source(spec: str, split: Split, *, data_dir: str | None = None) -> ImageSource:
    """Opens one split of a dataset of images.

    Args:
      spec: 'embedded:photographs', 'embedded:digits', 'tfds:<name>', or the path of a folder or .zip file of images.
      split: 'train' or 'validation'.
      data_dir: folder of the TFDS datasets; None: `$TFDS_DATA_DIR`, or else `~/tensorflow_datasets`.

    Raises:
      UserError: there is no such set, or it has no images.
    """
    if split not in ('train', 'validation'):
        raise UserError(f"split must be 'train' or 'validation', got {split!r}")
    if not spec.strip():
        raise UserError('the source of images is empty; name a set, a folder or a .zip file')
    if spec.startswith('embedded:'):
        if spec not in _EMBEDDED:
            raise UserError(f'the embedded sets are {", ".join(_EMBEDDED)}; got {spec!r}')
        return _EMBEDDED[spec](split)
    if spec.startswith('tfds:'):
        from vistok.data.images.tfds_source import TfdsSource  # TFDS takes a second to import

        return TfdsSource(spec.removeprefix('tfds:'), split, data_dir=data_dir)
    return ImageFolder(spec, split)


class _SkippedImages:
    """Record of the images that could not be used, with reasons; each is logged once."""

    def __init__(self, source_name: str) -> None:
        self._source_name = source_name
        self._reasons: dict[str, str] = {}
        self._lock = threading.Lock()

    def add(self, bad: BadImage) -> None:
        with self._lock:
            if bad.name in self._reasons:
                return
            self._reasons[bad.name] = bad.reason
        logging.warning('%s: skipped %s: %s', self._source_name, bad.name, bad.reason)

    def reasons(self) -> dict[str, str]:
        with self._lock:
            return dict(self._reasons)


@dataclasses.dataclass(frozen=True)
class _TrainSample:
    """Grain transform from an index and a random generator to an augmented sample.

    An unusable image is replaced by the next usable one.
    """

    source: ImageSource
    size: int
    how: Augmentation
    flip: bool
    distortions: Distortions
    skipped: _SkippedImages

    def __call__(self, index: int, rng: np.random.Generator) -> Batch:
        reasons = []
        for offset in range(len(self.source)):
            try:
                record = self.source[(index + offset) % len(self.source)]
                view = self._view(record, rng)
            except BadImage as bad:
                self.skipped.add(bad)
                reasons.append(bad)
                continue
            return {'image': view, 'label': np.asarray(record.label, np.int32)}
        raise UserError(f'none of the {len(reasons)} images of {self.source.name} can be used; {reasons[0]}')

    def _view(self, record: ImageRecord, rng: np.random.Generator) -> UInt8[np.ndarray, 's s 3']:
        try:
            return augment(
                record.image, rng, size=self.size, how=self.how, flip=self.flip, distortions=self.distortions
            )
        except TooSmall as error:
            raise BadImage(record.name, str(error)) from None


def to_model_range(images: UInt8[np.ndarray, '*b h w c']) -> Float[np.ndarray, '*b h w c']:
    """Converts 8-bit images to float32 in [-1, 1]: 0 becomes -1, 255 becomes 1."""
    return images.astype(np.float32) / np.float32(127.5) - np.float32(1)


def _finish(batch: Batch) -> Batch:
    return {**batch, 'image': to_model_range(batch['image'])}


@dataclasses.dataclass(frozen=True)
class _MixedPair:
    """Grain transform from the number of a pair of samples, and the pair, to their two mixtures."""

    mixing: Mixing
    seed: int

    def __call__(self, number: int, pair: Batch) -> Batch:
        rng = np.random.default_rng((self.seed, number * 2 // self.mixing.group))
        images, labels = to_model_range(pair['image']), pair['label']
        mixture = self.mixing.draw(rng, *images.shape[1:3])
        share = np.full(2, mixture.share, np.float32)
        return {'image': mixture.apply(images), 'label': labels, 'other_label': labels[::-1], 'share': share}


def _join_pairs(batch: Batch) -> Batch:
    """Turns a batch of pairs into one of samples."""
    return {name: x.reshape(-1, *x.shape[2:]) for name, x in batch.items()}


class TrainIterator(Iterator[Batch]):
    """Endless training batches of one process, reshuffled in every epoch; made by `train_batches`."""

    def __init__(
        self, batches: grain.IterDataset, identity: dict[str, int], skipped: Callable[[], dict[str, str]]
    ) -> None:
        self._iterator = iter(batches)
        self._identity = identity
        self._skipped = skipped
        self._batches = 0

    def __next__(self) -> Batch:
        batch = next(self._iterator)
        self._batches += 1
        return batch

    @property
    def skipped(self) -> dict[str, str]:
        """Names of the unusable images so far, with the reasons."""
        return self._skipped()

    def state(self) -> dict[str, int]:
        """Returns the position after the batches taken so far, as JSON values.

        The same for every process; valid for any number of processes and threads.
        """
        return {'batches': self._batches, **self._identity}

    def restore(self, state: dict[str, Any]) -> None:
        """Moves to a position, forwards or backwards, without reading the batches between.

        Args:
          state: result of `state()`, in this run or in a stopped one.

        Raises:
          UserError: the state belongs to another stream: other batch size, seed or number of images.
        """
        if set(state) != {'batches', *self._identity}:
            raise UserError(
                f'the stored place in the data has the entries {sorted(state)}, which this version cannot read'
            )
        for key, ours in self._identity.items():
            if state[key] != ours:
                raise UserError(
                    f'the stored place in the data is for {key.replace("_", " ")} {state[key]}, '
                    f'but this run has {ours}; use {state[key]} to continue exactly'
                )
        self._batches = int(state['batches'])
        self._iterator.set_state({'next_index': self._batches})


def train_batches(
    source: ImageSource,
    *,
    image_size: int,
    batch_size: int,
    seed: int,
    augmentation: Augmentation = 'resize_crop',
    flip: bool = True,
    distortions: Distortions = NO_DISTORTIONS,
    mixing: Mixing = NO_MIXING,
    process_index: int = 0,
    process_count: int = 1,
    threads: int = 4,
) -> TrainIterator:
    """Returns endless shuffled training batches.

    Args:
      source: dataset of images.
      image_size: side of the square crops in pixels.
      batch_size: global batch size, over all processes.
      seed: seed of shuffling and augmentation.
      augmentation: method of cropping; see `vistok.data.images.augment.augment`.
      flip: mirror every other image, at random; wrong for digits and text.
      distortions: further augmentations of single images; by default none.
      mixing: mixtures of successive images and of their labels; by default none.
      process_index: index of this process.
      process_count: number of processes that share each batch.
      threads: number of decoding threads, each a whole batch at a time and one batch ahead; 0: decode on demand.

    Returns:
      An iterator over the batches of this process: `batch_size / process_count` samples each.

    Raises:
      UserError: the batch size cannot be divided among the processes (for mixtures into pairs), or the seed is not in
        0 .. 2**32 - 1.
      UserError: while iterating: no image of the source can be used.
    """
    skipped = _SkippedImages(source.name)
    return shuffled_batches(
        len(source),
        _TrainSample(source, image_size, augmentation, flip, distortions, skipped),
        batch_size=batch_size,
        seed=seed,
        process_index=process_index,
        process_count=process_count,
        threads=threads,
        finish=_join_pairs if mixing else _finish,
        skipped=skipped.reasons,
        combine=_MixedPair(mixing, seed) if mixing else None,
    )


def shuffled_batches(
    count: int,
    sample: Callable[[int, np.random.Generator], Batch],
    *,
    batch_size: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
    threads: int = 4,
    finish: Callable[[Batch], Batch] = dict,
    skipped: Callable[[], dict[str, str]] = dict,
    combine: Callable[[int, Batch], Batch] | None = None,
) -> TrainIterator:
    """Returns endless shuffled batches of samples that a function makes; see `train_batches` for other arguments.

    Args:
      count: number of samples per epoch.
      sample: function from an index and a random generator to a sample.
      finish: function that is applied to each whole batch.
      skipped: function that returns the names of the unusable images so far, with the reasons.
      combine: function from the number of a pair of successive samples, and the pair as a batch, to what takes its
        place; `finish` is then given batches of pairs.

    Raises:
      UserError: as `train_batches`.
    """
    local = local_batch_size(batch_size, process_index, process_count)
    if not 0 <= seed < 2**32:
        raise UserError(f'seed must be in 0 .. 2**32 - 1, got {seed}')
    # Randomness is drawn before the stream is divided, so that it does not depend on the division.
    stream = grain.MapDataset.range(count).seed(seed).shuffle().repeat(None).random_map(sample)
    if combine is not None:
        if local % 2:
            raise UserError(f'mixtures need an even number of images in each process, got {local}')
        stream, local = stream.batch(2).map_with_index(combine), local // 2
    batches = stream[process_index::process_count].batch(local, drop_remainder=True).map(finish)
    identity = {'batch_size': batch_size, 'seed': seed, 'pictures': count}
    return TrainIterator(batches.to_iter_dataset(read_options(threads)), identity, skipped)


class EvaluationBatches:
    """Iterable over every image exactly once, in order, in batches of one shape; can be iterated again."""

    def __init__(
        self, source: ImageSource, *, image_size: int, local: int, process_index: int, process_count: int, threads: int
    ) -> None:
        self._source, self._size, self._local = source, image_size, local
        self._index, self._processes, self._threads = process_index, process_count, threads
        self._skipped = _SkippedImages(source.name)

    def __len__(self) -> int:
        """Returns the number of batches, which is equal in all processes."""
        return -(-len(self._source) // (self._local * self._processes))

    def __iter__(self) -> Iterator[Batch]:
        positions = grain.MapDataset.range(len(self) * self._local)
        batches = positions.map(self._sample).batch(self._local).map(_finish)
        return iter(batches.to_iter_dataset(read_options(self._threads)))

    @property
    def skipped(self) -> dict[str, str]:
        """Names of the images that could not be decoded so far, with the reasons."""
        return self._skipped.reasons()

    def _sample(self, position: int) -> Batch:
        # A process has consecutive rows of the global batch, so that joined batches keep the order of the source.
        batch, row = divmod(position, self._local)
        index = (batch * self._processes + self._index) * self._local + row
        image, label, real = np.zeros((self._size, self._size, 3), np.uint8), 0, False
        if index < len(self._source):
            try:
                record = self._source[index]
                image, label, real = centre_crop(record.image, self._size), record.label, True
            except BadImage as bad:
                self._skipped.add(bad)
        return {'image': image, 'label': np.asarray(label, np.int32), 'mask': np.asarray(real)}


def evaluation_batches(
    source: ImageSource,
    *,
    image_size: int,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
    threads: int = 4,
) -> EvaluationBatches:
    """Returns the whole source once: the centre crop (ADM's) of each image, in the order of the source.

    Where 'mask' is False (padding of the last batch, or an image that cannot be decoded) the image is black and must
    not count.

    Args:
      source: dataset of images.
      image_size: side of the square crops in pixels.
      batch_size: global batch size, over all processes.
      process_index: index of this process.
      process_count: number of processes that share each batch.
      threads: number of prefetching threads; 0: decode on demand.

    Raises:
      UserError: the batch size cannot be divided among the processes.
    """
    local = local_batch_size(batch_size, process_index, process_count)
    return EvaluationBatches(
        source,
        image_size=image_size,
        local=local,
        process_index=process_index,
        process_count=process_count,
        threads=threads,
    )


def local_batch_size(batch_size: int, process_index: int, process_count: int) -> int:
    """Computes one process's share of a batch; raises UserError if the processes cannot share it equally."""
    if batch_size <= 0 or batch_size % process_count:
        raise UserError(f'batch size must be a positive multiple of the {process_count} processes, got {batch_size}')
    if not 0 <= process_index < process_count:
        raise UserError(f'process index must be in 0..{process_count - 1}, got {process_index}')
    return batch_size // process_count


def read_options(threads: int) -> grain.ReadOptions:
    """Returns the prefetching options of grain: number of threads and of buffered records."""
    return grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)
