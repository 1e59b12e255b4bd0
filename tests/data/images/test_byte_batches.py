"""Sets of images for metrics: every image once, in order, as it was stored."""

import json

import numpy as np
import pytest
from PIL import Image

from vistok.data.images.byte_batches import open_byte_batches
from vistok.errors import UserError


def pixels(count, side=4):
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def read(batches):
    found = list(batches)
    labels = [batch.labels for batch in found]
    return np.concatenate([b.images for b in found]), None if labels[0] is None else np.concatenate(labels)


@pytest.mark.parametrize('save', [np.savez, np.savez_compressed])
@pytest.mark.parametrize('label_name', ['labels', 'arr_1'])
def test_a_file_of_samples_is_read_in_pieces(tmp_path, save, label_name):
    images, labels = pixels(7), np.arange(7, dtype=np.int32)
    save(tmp_path / 's.npz', arr_0=images, **{label_name: labels}, settings=np.array(json.dumps({'seed': 3})))
    batches = open_byte_batches(str(tmp_path / 's.npz'), batch_size=3)
    assert (len(batches), batches.image_size, batches.settings) == (7, 4, {'seed': 3})
    for _ in range(2):  # it can be read again
        assert [len(batch.images) for batch in batches] == [3, 3, 1]
        found, found_labels = read(batches)
        np.testing.assert_array_equal(found, images)
        np.testing.assert_array_equal(found_labels, labels)


def test_a_folder_is_read_whole_with_its_classes(tmp_path):
    images = pixels(5, 8)
    for i, image in enumerate(images):
        folder = tmp_path / 'ab'[i % 2]
        folder.mkdir(exist_ok=True)
        Image.fromarray(image).save(folder / f'{i}.png')
    batches = open_byte_batches(str(tmp_path), batch_size=2)
    found, labels = read(batches)
    np.testing.assert_array_equal(found, images[[0, 2, 4, 1, 3]])
    assert labels.tolist() == [0, 0, 0, 1, 1]
    assert open_byte_batches(str(tmp_path), split='validation')._source.name != batches.name


def test_one_image_is_a_set_too_and_without_class_folders_there_are_no_labels(tmp_path):
    Image.fromarray(pixels(1, 6)[0]).save(tmp_path / 'only.png')
    found, labels = read(open_byte_batches(str(tmp_path)))
    np.testing.assert_array_equal(found, pixels(1, 6))
    assert labels is None


def test_images_of_a_source_are_cropped(tmp_path):
    batches = open_byte_batches('embedded:digits', split='validation', image_size=16, batch_size=100)
    found, labels = read(batches)
    assert found.shape == (len(batches), 16, 16, 3)
    assert set(labels) == set(range(10))


@pytest.mark.parametrize(
    ('arrays', 'complaint'),
    [
        ({'images': pixels(2)}, 'holds no images'),
        ({'arr_0': pixels(2).astype(np.float32)}, 'must be uint8'),
        ({'arr_0': pixels(2)[..., :1]}, 'must be uint8'),
        ({'arr_0': pixels(2)[:, :2]}, 'must be square, got 2x4'),
        ({'arr_0': pixels(2), 'labels': np.zeros(3)}, '2 images but 3 labels'),
        ({'arr_0': pixels(2)}, 'of 4 pixels a side, not of 8'),
    ],
)
def test_a_wrong_file_is_answered_in_a_sentence(tmp_path, arrays, complaint):
    np.savez(tmp_path / 's.npz', **arrays)
    with pytest.raises(UserError, match=complaint):
        open_byte_batches(str(tmp_path / 's.npz'), image_size=8 if 'not of 8' in complaint else None)


def test_damaged_and_missing_files_are_answered_in_a_sentence(tmp_path):
    (tmp_path / 'broken.npz').write_bytes(b'PK\x03\x04 nothing')
    for name in ('broken.npz', 'missing.npz'):
        with pytest.raises(UserError, match=name):
            open_byte_batches(str(tmp_path / name))
