"""Batches of stored tokens, with the shuffling, seeds and resumable positions of `images/pipeline.py`."""

import dataclasses
from collections.abc import Iterator

import grain
import numpy as np

from vistok.data.images.pipeline import Batch, TrainIterator, local_batch_size, read_options, shuffled_batches
from vistok.data.text.features import TextFeatureSource
from vistok.data.tokens.dataset import TokenRecord, TokenSource


def _view(record: TokenRecord, view: int, text: TextFeatureSource | None, which: int) -> Batch:
    batch = {'ids': record.ids[view], 'label': np.asarray(record.label, np.int32)}
    if record.grain is not None:
        batch['grain'] = record.grain[view]
    if text is not None:
        caption = text.features(record.name, which)
        batch |= {'text': caption.features, 'text_mask': caption.mask}
    return batch


@dataclasses.dataclass(frozen=True)
class _RandomView:
    source: TokenSource
    text: TextFeatureSource | None

    def __call__(self, index: int, rng: np.random.Generator) -> Batch:
        record = self.source[index]
        view = int(rng.integers(len(record.ids)))
        which = 0 if self.text is None else int(rng.integers(len(self.text.texts(record.name))))
        return _view(record, view, self.text, which)


def train_token_batches(
    source: TokenSource,
    *,
    batch_size: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
    threads: int = 4,
    text: TextFeatureSource | None = None,
) -> TrainIterator:
    """Returns endless shuffled batches: 'ids' int32 `[b, h, w, k]`, 'label' int32 `[b]`, 'grain' if there are grains.

    Every image comes once in an epoch, in one of its views, at random, with one of its captions where there is
    `text`: 'text' float16 `[b, n, c]` and 'text_mask' `[b, n]`.  Other arguments and errors as `train_batches`.
    """
    return shuffled_batches(
        len(source),
        _RandomView(source, text),
        batch_size=batch_size,
        seed=seed,
        process_index=process_index,
        process_count=process_count,
        threads=threads,
    )


class EvaluationTokenBatches:
    """Iterable over the first view of every image exactly once, in order; can be iterated again.

    Args:
      source: token dataset.
      batch_size: global batch size, over all processes.
      process_index: index of this process.
      process_count: number of processes that share each batch.
      threads: number of prefetching threads; 0: read on demand.
      text: features of captions; each image comes with its first caption.

    Attributes:
      skipped: empty, as all stored tokens are usable.

    Raises:
      UserError: the batch size cannot be divided among the processes.
    """

    def __init__(
        self,
        source: TokenSource,
        *,
        batch_size: int,
        process_index: int = 0,
        process_count: int = 1,
        threads: int = 4,
        text: TextFeatureSource | None = None,
    ) -> None:
        self._source, self._threads, self._text = source, threads, text
        self._local = local_batch_size(batch_size, process_index, process_count)
        self._index, self._processes = process_index, process_count
        self.skipped: dict[str, str] = {}

    def __len__(self) -> int:
        """Returns the number of batches, which is equal in all processes."""
        return -(-len(self._source) // (self._local * self._processes))

    def __iter__(self) -> Iterator[Batch]:
        """Yields batches as those of training, with 'mask': False on padding."""
        positions = grain.MapDataset.range(len(self) * self._local)
        return iter(positions.map(self._sample).batch(self._local).to_iter_dataset(read_options(self._threads)))

    def _sample(self, position: int) -> Batch:
        batch, row = divmod(position, self._local)
        index = (batch * self._processes + self._index) * self._local + row
        real = index < len(self._source)
        return {**_view(self._source[index if real else 0], 0, self._text, 0), 'mask': np.asarray(real)}
