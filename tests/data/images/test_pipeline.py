"""Batches depend on the seed and the step alone: not on threads, interruptions, or the number of processes."""

import json
import logging
import re

import numpy as np
import pytest
from image_files import colour_image, encode, two_classes, write

from vistok.data.images.augment import centre_crop
from vistok.data.images.embedded import Digits, Photographs
from vistok.data.images.folder import ImageFolder
from vistok.data.images.pipeline import evaluation_batches, open_source, to_model_range, train_batches
from vistok.data.images.source import BadImage, ImageRecord
from vistok.errors import UserError


class Numbered:
    """Constant images of value `index`, so that a batch shows which records it holds; some may be bad."""

    name = 'numbered'
    class_names = ('even', 'odd')

    def __init__(self, count: int, bad: tuple[int, ...] = (), small: tuple[int, ...] = ()) -> None:
        self._count, self._bad, self._small = count, bad, small

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> ImageRecord:
        if not 0 <= index < self._count:
            raise IndexError(index)
        if index in self._bad:
            raise BadImage(f'{index}.png', 'the file is empty')
        side = 4 if index in self._small else 8
        return ImageRecord(np.full((side, side, 3), index, np.uint8), index % 2, f'{index}.png')


def values(batch) -> list[int]:
    return [round((x + 1) * 127.5) for x in batch['image'][:, 0, 0, 0].tolist()]


def take(iterator, count):
    return [next(iterator) for _ in range(count)]


def assert_equal(a, b):
    assert len(a) == len(b)
    for one, other in zip(a, b, strict=True):
        assert one.keys() == other.keys()
        for key in one:
            np.testing.assert_array_equal(one[key], other[key])
            assert one[key].dtype == other[key].dtype


OPTIONS = {'image_size': 16, 'batch_size': 6, 'seed': 3, 'threads': 2}


@pytest.fixture
def images(tmp_path) -> ImageFolder:
    return ImageFolder(two_classes(tmp_path / 'pictures', 40), 'train')


@pytest.mark.parametrize('how', ['resize_crop', 'shorter_side_crop', 'random_crop', 'centre_crop'])
def test_batches_have_the_stated_form(images, how):
    batch = next(train_batches(images, augmentation=how, **OPTIONS))
    assert batch.keys() == {'image', 'label'}
    assert (batch['image'].shape, batch['image'].dtype) == ((6, 16, 16, 3), np.float32)
    assert (batch['label'].shape, batch['label'].dtype) == ((6,), np.int32)
    assert batch['image'].min() >= -1
    assert batch['image'].max() <= 1


def test_bytes_span_exactly_minus_one_to_one_and_come_back():
    every = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    floats = to_model_range(every)
    assert (floats.min(), floats.max(), floats.dtype) == (-1, 1, np.float32)
    np.testing.assert_array_equal(np.rint((floats + 1) * 127.5).astype(np.uint8), every)


def test_every_epoch_holds_each_record_once_in_another_order():
    iterator = train_batches(Numbered(24), image_size=8, batch_size=4, seed=0, threads=0)
    epochs = [[v for batch in take(iterator, 6) for v in values(batch)] for _ in range(3)]
    assert all(sorted(epoch) == list(range(24)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert epochs[0] != list(range(24))


def test_labels_stay_with_their_images():
    for batch in take(train_batches(Numbered(24), image_size=8, batch_size=4, seed=0), 12):
        assert [v % 2 for v in values(batch)] == batch['label'].tolist()


def test_augmentation_is_drawn_anew_in_every_epoch(images):
    iterator = train_batches(images, image_size=16, batch_size=len(images), seed=0, threads=0, flip=False)
    first, second = ({image.tobytes() for image in batch['image']} for batch in take(iterator, 2))
    assert len(first & second) < len(first) / 4


def test_seed_decides_and_threads_do_not(images):
    reference = take(train_batches(images, **OPTIONS), 12)
    for threads in (0, 1, 3, 5):
        assert_equal(take(train_batches(images, **{**OPTIONS, 'threads': threads}), 12), reference)
    other = next(train_batches(images, **{**OPTIONS, 'seed': 4}))
    assert not np.array_equal(other['image'], reference[0]['image'])


@pytest.mark.parametrize('stop', [0, 1, 5, 6, 7, 13])
def test_resumption_anywhere_equals_never_having_stopped(images, stop):
    reference = take(train_batches(images, **OPTIONS), 18)  # 6 batches and a bit are an epoch
    stopped = train_batches(images, **OPTIONS)
    take(stopped, stop)
    stored = json.loads(json.dumps(stopped.state()))
    resumed = train_batches(images, **{**OPTIONS, 'threads': 3})
    next(resumed)
    resumed.restore(stored)
    assert resumed.state() == stored
    assert_equal(take(resumed, 18 - stop), reference[stop:])


def test_state_is_of_the_batches_taken_not_of_those_read_ahead(images):
    iterator = train_batches(images, **{**OPTIONS, 'threads': 4})
    for count in range(1, 5):
        next(iterator)
        assert iterator.state() == {'batches': count, 'batch_size': 6, 'seed': 3, 'pictures': len(images)}


def test_restoring_goes_backwards_too(images):
    iterator = train_batches(images, **OPTIONS)
    start = iterator.state()
    first = take(iterator, 5)
    iterator.restore(start)
    assert_equal(take(iterator, 5), first)


@pytest.mark.parametrize('processes', [2, 3, 6])
def test_processes_together_see_exactly_the_samples_of_one(images, processes):
    one = train_batches(images, **OPTIONS)
    several = [train_batches(images, process_index=p, process_count=processes, **OPTIONS) for p in range(processes)]
    for _ in range(14):
        whole, parts = next(one), [next(iterator) for iterator in several]
        for p, part in enumerate(parts):
            assert len(part['image']) == 6 // processes
            np.testing.assert_array_equal(part['image'], whole['image'][p::processes])
            np.testing.assert_array_equal(part['label'], whole['label'][p::processes])


def test_another_number_of_processes_continues_with_the_same_samples(images):
    reference = take(train_batches(images, **OPTIONS), 9)
    stopped = [train_batches(images, process_index=p, process_count=2, **OPTIONS) for p in range(2)]
    for iterator in stopped:
        take(iterator, 4)
    assert stopped[0].state() == stopped[1].state()
    for p in range(3):
        resumed = train_batches(images, process_index=p, process_count=3, **OPTIONS)
        resumed.restore(stopped[0].state())
        for batch, whole in zip(take(resumed, 5), reference[4:], strict=True):
            np.testing.assert_array_equal(batch['image'], whole['image'][p::3])


@pytest.mark.parametrize(
    ('change', 'sentence'),
    [
        ({'batch_size': 12}, 'is for batch size 6, but this run has 12; use 6 to continue exactly'),
        ({'seed': 9}, 'is for seed 3, but this run has 9'),
    ],
)
def test_state_of_another_stream_is_refused(images, change, sentence):
    state = train_batches(images, **OPTIONS).state()
    with pytest.raises(UserError, match=sentence):
        train_batches(images, **{**OPTIONS, **change}).restore(state)


def test_state_of_another_source_or_form_is_refused():
    iterator = train_batches(Numbered(20), image_size=8, batch_size=2, seed=0)
    with pytest.raises(UserError, match='is for pictures 21, but this run has 20'):
        iterator.restore({**iterator.state(), 'pictures': 21})
    with pytest.raises(UserError, match=r"entries \['next_index'\]"):
        iterator.restore({'next_index': 4})


def test_bad_image_is_replaced_by_the_next_usable_one_and_reported_once(caplog):
    good = train_batches(Numbered(12), image_size=8, batch_size=4, seed=0)
    with caplog.at_level(logging.WARNING):
        some_bad = train_batches(Numbered(12, bad=(5, 6, 11)), image_size=8, batch_size=4, seed=0)
        for _ in range(9):
            expected = [{5: 7, 6: 7, 11: 0}.get(v, v) for v in values(next(good))]
            batch = next(some_bad)
            assert values(batch) == expected
            assert batch['label'].tolist() == [v % 2 for v in expected]
    assert some_bad.skipped == dict.fromkeys(('5.png', '6.png', '11.png'), 'the file is empty')
    assert len(caplog.records) == 3
    assert 'numbered: skipped 5.png: the file is empty' in caplog.text
    assert good.skipped == {}


def test_image_smaller_than_a_native_crop_is_skipped_with_both_sizes():
    iterator = train_batches(
        Numbered(6, small=(2,)), image_size=8, batch_size=6, seed=0, augmentation='random_crop', flip=False
    )
    assert sorted(values(next(iterator))) == [0, 1, 3, 3, 4, 5]
    assert iterator.skipped == {'2.png': 'the image has 4x4 pixels, less than the crop of 8x8'}


@pytest.mark.parametrize('threads', [0, 2])
def test_nothing_usable_ends_with_one_sentence(threads):
    iterator = train_batches(Numbered(3, bad=(0, 1, 2)), image_size=8, batch_size=2, seed=0, threads=threads)
    with pytest.raises(UserError) as caught:
        next(iterator)
    assert re.fullmatch(r'none of the 3 images of numbered can be used; \d\.png: the file is empty', str(caught.value))


@pytest.mark.parametrize('make', [train_batches, evaluation_batches])
def test_impossible_divisions_are_refused(make):
    options = {'image_size': 8} | ({'seed': 0} if make is train_batches else {})
    with pytest.raises(ValueError, match='multiple of the 4 processes, got 6'):
        make(Numbered(8), batch_size=6, process_count=4, **options)
    with pytest.raises(ValueError, match='got 0'):
        make(Numbered(8), batch_size=0, **options)
    with pytest.raises(ValueError, match=r'process index must be in 0\.\.1, got 2'):
        make(Numbered(8), batch_size=2, process_index=2, process_count=2, **options)


@pytest.mark.parametrize('seed', [-1, 2**32])
def test_seed_outside_of_32_bits_is_refused(seed):
    with pytest.raises(ValueError, match=f'got {seed}'):
        train_batches(Numbered(8), image_size=8, batch_size=2, seed=seed)


@pytest.mark.parametrize(('count', 'batches'), [(1, 1), (8, 2), (9, 3), (11, 3)])
@pytest.mark.parametrize('processes', [1, 2, 4])
def test_evaluation_shows_each_image_once_in_order_and_pads_the_end(count, batches, processes):
    parts = [
        list(evaluation_batches(Numbered(count), image_size=8, batch_size=4, process_index=p, process_count=processes))
        for p in range(processes)
    ]
    assert [len(part) for part in parts] == [batches] * processes
    joined = [{k: np.concatenate([part[i][k] for part in parts]) for k in parts[0][i]} for i in range(batches)]
    masks = np.concatenate([batch['mask'] for batch in joined])
    assert masks.dtype == bool
    assert masks.tolist() == [True] * count + [False] * (4 * batches - count)
    assert [v for batch in joined for v in values(batch)][:count] == list(range(count))
    for batch in joined:
        assert batch['image'].shape == (4, 8, 8, 3)
        assert batch['image'].dtype == np.float32
        assert batch['label'].dtype == np.int32


def test_evaluation_can_be_repeated_and_its_length_is_known(images):
    batches = evaluation_batches(images, image_size=16, batch_size=8)
    first = list(batches)
    assert len(first) == len(batches)
    assert_equal(list(batches), first)


def test_evaluation_uses_the_centre_crop(images):
    batch = next(iter(evaluation_batches(images, image_size=16, batch_size=4)))
    for i in range(4):
        np.testing.assert_array_equal(batch['image'][i], to_model_range(centre_crop(images[i].image, 16)))
        assert batch['label'][i] == images[i].label


def test_bad_image_in_evaluation_does_not_count_and_is_not_replaced(caplog):
    batches = evaluation_batches(Numbered(6, bad=(1, 4)), image_size=8, batch_size=4)
    masks = [batch['mask'].tolist() for batch in batches]
    assert masks == [[True, False, True, True], [False, True, False, False]]
    assert batches.skipped == dict.fromkeys(('1.png', '4.png'), 'the file is empty')


def test_specs_open_their_sources(tmp_path):
    assert isinstance(open_source('embedded:photographs', 'train'), Photographs)
    assert isinstance(open_source('embedded:digits', 'validation'), Digits)
    assert isinstance(open_source(str(two_classes(tmp_path / 'p')), 'train'), ImageFolder)


def test_unknown_specs_are_answered_with_what_is_known(tmp_path):
    for empty in ('', ' '):  # of an unset variable; as a path it is the folder here
        with pytest.raises(UserError, match='source of images is empty'):
            open_source(empty, 'train')
    with pytest.raises(UserError, match="embedded:photographs, embedded:digits; got 'embedded:cats'"):
        open_source('embedded:cats', 'train')
    with pytest.raises(UserError, match=r'does not exist; expected a folder or a \.zip'):
        open_source(str(tmp_path / 'none'), 'train')
    with pytest.raises(UserError, match='is not prepared in'):
        open_source('tfds:none', 'train', data_dir=str(tmp_path))


def test_damaged_files_in_a_folder_do_not_stop_training(tmp_path):
    root = two_classes(tmp_path / 'p', 20)
    write(root, {'cat/empty.png': b'', 'dog/cut.png': encode(colour_image(0))[:80]})
    iterator = train_batches(ImageFolder(root, 'train'), image_size=16, batch_size=10, seed=0)
    take(iterator, 4)
    assert set(iterator.skipped) == {'cat/empty.png', 'dog/cut.png'}
