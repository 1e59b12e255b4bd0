"""The embedded images are there without a network, divided by image, and look as documented."""

import socket
from pathlib import Path

import numpy as np
import pytest

from vistok.data.images import embedded
from vistok.data.images.augment import centre_crop
from vistok.data.images.embedded import Digits, Photographs
from vistok.errors import UserError


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError('the embedded images must not use the network')

    monkeypatch.setattr(socket.socket, 'connect', refuse)
    embedded._photograph.cache_clear()


def test_no_photograph_is_in_both_splits():
    train, validation = (Photographs(split) for split in ('train', 'validation'))
    names = [{source[i].name.split()[0] for i in range(len(source))} for source in (train, validation)]
    assert not names[0] & names[1]
    assert (len(names[0]), len(names[1])) == (12, 4)
    pixels = [{source[i].image.tobytes() for i in range(count)} for source, count in ((train, 12), (validation, 4))]
    assert not pixels[0] & pixels[1]


def test_training_epoch_lists_each_photograph_64_times():
    train = Photographs('train')
    assert len(train) == 12 * 64
    assert train.class_names == ('photograph',)
    assert [train[i].name for i in range(12)] == [train[i + 5 * 12].name for i in range(12)]
    for i in range(12):
        record = train[i]
        assert record.image.dtype == np.uint8
        assert min(record.image.shape[:2]) >= 256
        assert record.image.std() > 10
        assert record.label == 0


def test_validation_is_whole_images_first_and_then_distinct_native_crops():
    validation = Photographs('validation')
    records = [validation[i] for i in range(len(validation))]
    assert len(records) == 28
    assert [r.name for r in records[:4]] == ['astronaut.png', 'coffee.png', 'camera.png', 'coins.png']
    wholes = {r.name: r.image for r in records[:4]}
    for record in records[4:]:
        assert record.image.shape == (256, 256, 3)
        whole = wholes[record.name.split()[0]]
        column = (whole == record.image[0, 0]).all(-1)
        found = [
            np.array_equal(whole[y : y + 256, x : x + 256], record.image)
            for y, x in np.argwhere(column[: whole.shape[0] - 255, : whole.shape[1] - 255])
        ]
        assert any(found)
    views = {centre_crop(r.image, 64).tobytes() for r in records}
    assert len(views) == len(records)


def test_index_outside_of_the_set_is_an_index_error():
    for source in (Photographs('validation'), Digits('validation')):
        with pytest.raises(IndexError):
            source[len(source)]


def test_photograph_missing_from_the_package_is_named(monkeypatch):
    monkeypatch.setattr(Path, 'read_bytes', lambda self: (_ for _ in ()).throw(FileNotFoundError(2, 'no', str(self))))
    with pytest.raises(UserError, match=r'the installed skimage lacks the photograph .*astronaut\.png'):
        Photographs('validation')[0]


def test_digits_are_divided_by_sample_and_stratified():
    train, validation = Digits('train'), Digits('validation')
    names = [{source[i].name for i in range(len(source))} for source in (train, validation)]
    assert not names[0] & names[1]
    assert len(names[0] | names[1]) == len(train) + len(validation) == 1797
    kept, held_out = (np.bincount([s[i].label for i in range(len(s))]) for s in (train, validation))
    assert len(kept) == 10
    np.testing.assert_array_equal(held_out, (kept + held_out) // 5)


def test_digits_are_grey_images_of_their_class_with_full_range():
    train = Digits('train')
    assert train.class_names == tuple('0123456789')
    records = [train[i] for i in range(len(train))]
    images = np.stack([r.image for r in records])
    assert images.shape == (len(train), 32, 32, 3)
    assert (images[..., :1] == images).all()
    assert (images.min(), images.max()) == (0, 255)
    # Right labels: the nearest class mean recognises most digits.
    labels = np.array([r.label for r in records])
    flat = images[..., 0].reshape(len(images), -1).astype(float)
    means = np.stack([flat[labels == k].mean(0) for k in range(10)])
    guesses = np.argmin(((flat[:, None] - means) ** 2).sum(-1), axis=1)
    assert (guesses == labels).mean() > 0.85
