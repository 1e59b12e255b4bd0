"""Every layout of a folder or .zip gives the same images, classes and splits; what is no such layout is refused."""

import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from image_files import colour_image, encode, two_classes, write

from vistok.data.images.folder import ImageFolder
from vistok.data.images.source import BadImage
from vistok.errors import UserError

PNG = encode(colour_image(0))


def names(source: ImageFolder) -> list[str]:
    return [source.file_name(i) for i in range(len(source))]


def zipped(folder: Path, compression: int = zipfile.ZIP_DEFLATED) -> Path:
    path = folder.with_suffix('.zip')
    with zipfile.ZipFile(path, 'w', compression) as file:
        for image in sorted(folder.rglob('*'), reverse=True):  # not in the order of the names
            file.write(image, image.relative_to(folder).as_posix())
    return path


@pytest.fixture(params=['folder', 'zip', 'stored zip'])
def as_source(request):
    """Turns a folder into the path to open."""
    if request.param == 'folder':
        return lambda folder: folder
    return lambda folder: zipped(folder, zipfile.ZIP_STORED if 'stored' in request.param else zipfile.ZIP_DEFLATED)


def test_class_folders_become_sorted_labels(tmp_path, as_source):
    path = as_source(two_classes(tmp_path / 'pictures'))
    train = ImageFolder(path, 'train')
    assert train.class_names == ('cat', 'dog')
    for i in range(len(train)):
        record = train[i]
        number = int(record.name[-7:-4])
        assert record.label == number % 2
        assert record.name.startswith(('cat', 'dog')[record.label])
        np.testing.assert_array_equal(record.image, colour_image(number))


def test_held_out_images_are_disjoint_complete_and_sorted(tmp_path, as_source):
    path = as_source(two_classes(tmp_path / 'pictures', 60))
    train, validation = (names(ImageFolder(path, split)) for split in ('train', 'validation'))
    assert train == sorted(train)
    assert not set(train) & set(validation)
    assert len(train) + len(validation) == 60
    assert 1 <= len(validation) <= 10


def test_adding_images_moves_none_between_the_splits(tmp_path):
    before = names(ImageFolder(two_classes(tmp_path / 'a', 100), 'validation'))
    after = names(ImageFolder(two_classes(tmp_path / 'a', 140), 'validation'))
    assert len(before) > 1
    assert set(before) <= set(after)


@pytest.mark.parametrize('count', [2, 3, 5])
def test_few_images_still_give_two_splits(tmp_path, count):
    root = write(tmp_path, {f'{i}.png': PNG for i in range(count)})
    sizes = [len(ImageFolder(root, split)) for split in ('train', 'validation')]
    assert min(sizes) >= 1
    assert sum(sizes) == count


def test_images_without_class_folders_are_one_class(tmp_path, as_source):
    path = as_source(write(tmp_path / 'p', {'b.PNG': PNG, 'a.jpeg': encode(colour_image(1), 'JPEG')}))
    sources = [ImageFolder(path, split) for split in ('train', 'validation')]
    assert all(source.class_names == ('picture',) for source in sources)
    assert sorted(names(sources[0]) + names(sources[1])) == ['a.jpeg', 'b.PNG']
    assert sources[0][0].label == 0


@pytest.mark.parametrize('folder', ['validation', 'val', 'valid', 'test'])
@pytest.mark.parametrize('outer', ['', 'my_set/'])
def test_split_folders_are_the_splits_and_share_their_classes(tmp_path, as_source, folder, outer):
    files = {f'{outer}train/a/1.png': PNG, f'{outer}train/c/2.png': PNG, f'{outer}{folder}/b/3.png': PNG}
    path = as_source(write(tmp_path / 'p', files))
    train, validation = ImageFolder(path, 'train'), ImageFolder(path, 'validation')
    assert names(train) == [f'{outer}train/a/1.png', f'{outer}train/c/2.png']
    assert names(validation) == [f'{outer}{folder}/b/3.png']
    assert train.class_names == validation.class_names == ('a', 'b', 'c')
    assert [train[0].label, train[1].label, validation[0].label] == [0, 2, 1]


def test_validation_is_preferred_to_test(tmp_path):
    root = write(tmp_path, {'train/1.png': PNG, 'test/2.png': PNG, 'val/3.png': PNG})
    assert names(ImageFolder(root, 'validation')) == ['val/3.png']
    assert names(ImageFolder(root, 'train')) == ['train/1.png']


def test_training_folder_alone_is_held_out_from(tmp_path):
    root = write(tmp_path, {f'train/n{i % 2}/{i}.png': PNG for i in range(10)})
    train, validation = (ImageFolder(root, split) for split in ('train', 'validation'))
    assert len(train) + len(validation) == 10
    assert train.class_names == validation.class_names == ('n0', 'n1')


def test_common_outer_folder_is_no_class_and_deep_files_belong_to_the_first_level(tmp_path, as_source):
    path = as_source(write(tmp_path / 'p', {'outer/x/deep/1.png': PNG, 'outer/y/2.png': PNG, 'outer/y/z/3.png': PNG}))
    assert ImageFolder(path, 'train').class_names == ('x', 'y')


def test_hidden_and_other_files_are_ignored(tmp_path, as_source):
    junk = ['readme.txt', '.hidden.png', 'a/._1.png', '__MACOSX/a/1.png', '.cache/2.png', 'a/labels.csv']
    path = as_source(write(tmp_path / 'p', {'a/1.png': PNG, 'b/2.png': PNG, **dict.fromkeys(junk, PNG)}))
    train, validation = (ImageFolder(path, split) for split in ('train', 'validation'))
    assert sorted(names(train) + names(validation)) == ['a/1.png', 'b/2.png']
    assert train.class_names == ('a', 'b')


def test_damaged_image_names_itself_and_the_others_are_read(tmp_path, as_source):
    files = {'train/1.png': PNG, 'train/2.png': b'', 'train/3.png': PNG[:60], 'val/4.png': PNG}
    source = ImageFolder(as_source(write(tmp_path / 'p', files)), 'train')
    assert source[0].image.shape == (24, 32, 3)
    for i, name in ((1, 'train/2.png'), (2, 'train/3.png')):
        with pytest.raises(BadImage) as caught:
            source[i]
        assert caught.value.name == name


def test_file_that_vanished_is_a_bad_image(tmp_path):
    source = ImageFolder(write(tmp_path, {'1.png': PNG, '2.png': PNG}), 'train')
    (tmp_path / names(source)[0]).unlink()
    with pytest.raises(BadImage, match='cannot be read'):
        source[0]


def test_damage_inside_a_zip_is_a_bad_image(tmp_path):
    path = zipped(write(tmp_path / 'p', {'train/1.png': PNG, 'val/2.png': PNG}), zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    data[data.index(b'IDAT') + 6] ^= 255
    path.write_bytes(data)
    # The names were written backwards, so the first bytes belong to the validation image.
    assert ImageFolder(path, 'train')[0].image.shape == (24, 32, 3)
    with pytest.raises(BadImage, match='CRC'):
        ImageFolder(path, 'validation')[0]


def test_oversized_file_is_refused_unread(tmp_path, as_source, monkeypatch):
    source = ImageFolder(as_source(write(tmp_path / 'p', {'1.png': PNG, '2.png': PNG})), 'train')
    monkeypatch.setattr('vistok.data.images.folder._MAX_BYTES', 10)
    with pytest.raises(BadImage, match='larger than 10 bytes'):
        source[0]


def test_threads_read_the_same_as_one(tmp_path, as_source):
    source = ImageFolder(as_source(two_classes(tmp_path / 'p', 40)), 'train')
    order = np.random.default_rng(0).integers(len(source), size=600)
    with ThreadPoolExecutor(8) as pool:
        for i, record in zip(order, pool.map(lambda i: source[int(i)], order), strict=True):
            np.testing.assert_array_equal(record.image, colour_image(int(record.name[-7:-4])))
            assert record.name == names(source)[i]


def refusal(path) -> str:
    with pytest.raises(UserError) as caught:
        ImageFolder(path, 'train')
    message = str(caught.value)
    assert '\n' not in message
    assert str(path) in message
    return message


def test_missing_path_is_named(tmp_path):
    assert 'does not exist' in refusal(tmp_path / 'nothing')
    assert '.jpg' in refusal(tmp_path / 'nothing.zip')


def test_empty_folder_and_empty_zip_are_named_with_the_extensions(tmp_path, as_source):
    message = refusal(as_source(write(tmp_path / 'p', {'notes.txt': b'x'})))
    assert 'holds no images' in message
    assert '.jpeg, .jpg, .png' in message


def test_other_file_and_broken_zip_are_refused(tmp_path):
    write(tmp_path, {'list.txt': b'a', 'broken.zip': b'PK\x03\x04 no zip'})
    assert 'neither a folder nor a .zip' in refusal(tmp_path / 'list.txt')
    assert 'cannot be opened as a .zip' in refusal(tmp_path / 'broken.zip')


def test_one_image_is_too_few(tmp_path):
    assert 'at least two are needed' in refusal(write(tmp_path, {'1.png': PNG}))


def test_image_beside_class_folders_is_refused_by_name(tmp_path):
    assert 'stray.png is in none of them' in refusal(
        write(tmp_path, {'a/1.png': PNG, 'b/2.png': PNG, 'stray.png': PNG})
    )
