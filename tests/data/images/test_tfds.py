"""A folder becomes a TFDS dataset that reads back the same, without TensorFlow; what is missing is named at once."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from image_files import colour_image, encode, two_classes, write

from vistok.data.images.builder import prepare_dataset
from vistok.data.images.folder import ImageFolder
from vistok.data.images.pipeline import open_source
from vistok.data.images.source import BadImage
from vistok.data.images.tfds_source import TfdsSource, default_data_dir
from vistok.errors import UserError


@pytest.fixture(scope='module')
def images(tmp_path_factory) -> Path:
    """Thirty images of two classes, one of them a BMP, and two files that cannot be decoded."""
    root = two_classes(tmp_path_factory.mktemp('pictures'), 30)
    return write(root, {'cat/0.bmp': encode(colour_image(99), 'BMP'), 'cat/bad.png': b'', 'dog/bad.jpg': b'none'})


@pytest.fixture(scope='module')
def prepared(images, tmp_path_factory):
    return prepare_dataset(images, 'my_pictures', tmp_path_factory.mktemp('datasets'))


def by_name(source) -> dict:
    records = {}
    for i in range(len(source)):
        try:
            record = source[i]
        except BadImage:
            continue
        records[record.name] = record
    return records


def test_prepared_dataset_reads_back_the_folder(images, prepared):
    for split in ('train', 'validation'):
        ours = by_name(ImageFolder(images, split))
        source = open_source('tfds:my_pictures', split, data_dir=str(prepared.path.parents[1]))
        theirs = by_name(source)
        assert source.class_names == ('cat', 'dog')
        assert len(source) == len(theirs) == prepared.counts[split]
        assert theirs.keys() == ours.keys()
        for name, record in ours.items():
            np.testing.assert_array_equal(theirs[name].image, record.image)
            assert theirs[name].label == record.label


def test_what_was_skipped_is_reported(prepared):
    assert prepared.skipped == {
        'cat/bad.png': 'the file is empty',
        'dog/bad.jpg': 'the file is not an image in a known format',
    }
    assert sum(prepared.counts.values()) == 31


def test_only_the_dataset_is_left_behind(prepared):
    data_dir = prepared.path.parents[1]
    assert [p.name for p in data_dir.iterdir()] == ['my_pictures']
    assert [p.name for p in prepared.path.parent.iterdir()] == ['1.0.0']


def test_jpeg_and_png_are_stored_as_they_are_and_the_rest_as_png(images, prepared):
    builder = tfds.builder_from_directory(prepared.path)
    for split in ('train', 'validation'):
        for record in builder.as_data_source(split=split, decoders={'image': tfds.decode.SkipDecoding()}):
            file = images / record['file_name'].decode()
            assert record['image'].startswith(b'\x89PNG')
            assert (record['image'] == file.read_bytes()) == (file.suffix == '.png')


def test_reading_needs_neither_tensorflow_nor_network(prepared):
    script = (
        'import socket, sys\n'
        'def refuse(*a, **k): raise AssertionError("network")\n'
        'socket.socket.connect = socket.getaddrinfo = refuse\n'
        'from vistok.data.images.pipeline import open_source, train_batches\n'
        'source = open_source("tfds:my_pictures", "train", data_dir=sys.argv[1])\n'
        'assert next(train_batches(source, image_size=16, batch_size=4, seed=0))["image"].shape == (4, 16, 16, 3)\n'
        'assert "tensorflow" not in sys.modules\n'
    )
    command = [sys.executable, '-W', 'error', '-c', script, str(prepared.path.parents[1])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_missing_dataset_is_answered_at_once_with_place_and_remedy(tmp_path):
    start = time.monotonic()
    with pytest.raises(UserError) as caught:
        TfdsSource('cifar10', 'train', data_dir=tmp_path)
    assert time.monotonic() - start < 2
    message = str(caught.value)
    assert f'not prepared in {tmp_path}' in message
    assert "file_format='array_record'" in message
    assert '\n' not in message


def test_data_dir_defaults_to_the_one_of_tfds(prepared, monkeypatch):
    monkeypatch.setenv('TFDS_DATA_DIR', str(prepared.path.parents[1]))
    assert len(open_source('tfds:my_pictures', 'train')) == prepared.counts['train']
    monkeypatch.delenv('TFDS_DATA_DIR')
    assert default_data_dir() == Path('~/tensorflow_datasets').expanduser()


def make_dataset(path: Path, splits: dict[str, int], features: dict, example, file_format='array_record') -> None:
    """Writes `data_dir/name[/config]/version` with `example(i)` as the i-th record of each split."""
    *_, name, version = path.parts

    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version(version)

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(count) for split, count in splits.items()}

        def _generate_examples(self, count):
            for i in range(count):
                yield i, example(i)

    Builder.name = name
    tfds.disable_progress_bar()
    Builder(data_dir=path.parents[1], file_format=file_format).download_and_prepare(download_dir=path.parents[1] / 'd')


IMAGE = {'picture': tfds.features.Image(shape=(None, None, 3))}


def image(i: int) -> dict:
    return {'picture': encode(colour_image(i))}


def test_without_validation_split_the_last_twentieth_of_train_is_held_out(tmp_path):
    make_dataset(tmp_path / 'plain' / '1.0.0', {'train': 40}, IMAGE, image)
    train, validation = (TfdsSource('plain', split, data_dir=tmp_path) for split in ('train', 'validation'))
    assert (len(train), len(validation)) == (38, 2)
    pixels = [{source[i].image.tobytes() for i in range(len(source))} for source in (train, validation)]
    assert len(pixels[0] | pixels[1]) == 40
    assert train.class_names == ('picture',)
    assert train[0].label == 0
    assert train[3].name == 'tfds:plain (train)[3]'


def test_test_split_serves_as_validation(tmp_path):
    make_dataset(tmp_path / 'tested' / '1.0.0', {'train': 4, 'test': 3}, IMAGE, image)
    assert [len(TfdsSource('tested', split, data_dir=tmp_path)) for split in ('train', 'validation')] == [4, 3]


def test_newest_version_is_taken_unless_one_is_named(tmp_path):
    for version, count in (('1.9.0', 1), ('1.10.0', 2)):
        make_dataset(tmp_path / 'twice' / version, {'train': count, 'test': 1}, IMAGE, image)
    assert len(TfdsSource('twice', 'train', data_dir=tmp_path)) == 2
    assert len(TfdsSource('twice:1.9.0', 'train', data_dir=tmp_path)) == 1
    with pytest.raises(UserError, match=r'twice:2\.0\.0 is not prepared'):
        TfdsSource('twice:2.0.0', 'train', data_dir=tmp_path)


def test_configuration_is_part_of_the_name_and_asked_for(tmp_path):
    for config in ('large', 'small'):
        make_dataset(tmp_path / 'sized' / config / '1.0.0', {'train': 2, 'test': 1}, IMAGE, image)
    assert len(TfdsSource('sized/small', 'train', data_dir=tmp_path)) == 2
    with pytest.raises(UserError, match='choose one: large, small'):
        TfdsSource('sized', 'train', data_dir=tmp_path)


def test_dataset_without_images_or_training_split_is_refused(tmp_path):
    make_dataset(tmp_path / 'texts' / '1.0.0', {'train': 2}, {'text': tfds.features.Text()}, lambda i: {'text': 'a'})
    with pytest.raises(UserError, match='texts has no image feature; its features are text'):
        TfdsSource('texts', 'train', data_dir=tmp_path)
    make_dataset(tmp_path / 'only_test' / '1.0.0', {'test': 2}, IMAGE, image)
    with pytest.raises(UserError, match="only_test has no split 'train'; its splits are test"):
        TfdsSource('only_test', 'train', data_dir=tmp_path)


def test_tfrecord_is_refused_with_the_remedy(tmp_path):
    make_dataset(tmp_path / 'old' / '1.0.0', {'train': 2, 'test': 1}, IMAGE, image)
    info = tmp_path / 'old' / '1.0.0' / 'dataset_info.json'
    info.write_text(json.dumps({**json.loads(info.read_text()), 'fileFormat': 'tfrecord'}))
    with pytest.raises(UserError, match=r"stored as tfrecord.*prepare it again with file_format='array_record'"):
        TfdsSource('old', 'train', data_dir=tmp_path)


@pytest.mark.parametrize('damage', ['no shard', 'no json', 'no features'])
def test_damaged_dataset_is_refused_in_one_sentence(tmp_path, damage):
    make_dataset(tmp_path / 'hurt' / '1.0.0', {'train': 2, 'test': 1}, IMAGE, image)
    folder = tmp_path / 'hurt' / '1.0.0'
    if damage == 'no shard':
        next(folder.glob('*train*')).unlink()
    elif damage == 'no json':
        (folder / 'dataset_info.json').write_text('{')
    else:
        (folder / 'features.json').unlink()
    with pytest.raises(UserError, match='hurt') as caught:
        TfdsSource('hurt', 'train', data_dir=tmp_path)
    assert '\n' not in str(caught.value)


def test_bad_image_in_a_dataset_is_a_bad_image(tmp_path):
    bad = {'picture': encode(colour_image(0))[:70]}
    make_dataset(tmp_path / 'cut' / '1.0.0', {'train': 1, 'test': 1}, IMAGE, lambda i: bad)
    with pytest.raises(BadImage, match=r'tfds:cut \(train\)\[0\]: the file cannot be decoded'):
        TfdsSource('cut', 'train', data_dir=tmp_path)[0]


@pytest.mark.parametrize('name', ['My', '1st', 'a-b', '', 'a/b'])
def test_dataset_names_are_checked(images, tmp_path, name):
    with pytest.raises(UserError, match='small letters, digits and underscores'):
        prepare_dataset(images, name, tmp_path)


def test_existing_dataset_is_not_touched(images, prepared):
    before = sorted((p.name, p.stat().st_mtime_ns) for p in prepared.path.iterdir())
    with pytest.raises(UserError, match='exists already'):
        prepare_dataset(images, 'my_pictures', prepared.path.parents[1])
    assert sorted((p.name, p.stat().st_mtime_ns) for p in prepared.path.iterdir()) == before


def test_place_that_cannot_be_written_is_named(images, tmp_path):
    (tmp_path / 'file').write_bytes(b'')
    with pytest.raises(UserError, match=f'cannot be written into {tmp_path}/file/below'):
        prepare_dataset(images, 'my_pictures', tmp_path / 'file' / 'below')


def test_failure_leaves_nothing_behind(images, tmp_path, monkeypatch):
    def fail(self, index):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(ImageFolder, 'read', fail)
    with pytest.raises(UserError, match='No space left on device'):
        prepare_dataset(images, 'my_pictures', tmp_path / 'datasets')
    assert list((tmp_path / 'datasets').rglob('*')) == []


def test_nothing_usable_is_one_sentence_and_leaves_nothing_behind(tmp_path):
    root = write(tmp_path / 'p', {'train/1.png': b'', 'val/2.png': b''})
    with pytest.raises(UserError) as caught:
        prepare_dataset(root, 'my_pictures', tmp_path / 'datasets')
    assert str(caught.value) == f'none of the 1 images of {root} (train) can be used'
    assert list((tmp_path / 'datasets').rglob('*')) == []
