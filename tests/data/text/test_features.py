"""Features of captions on disk are those of the encoder, whoever made which part and however often it was killed."""

import sys

import numpy as np
import pytest

from vistok.data.text import features
from vistok.data.text.features import TextFeatureSource, pad_features, write_text_features
from vistok.errors import UserError
from vistok.pretrained.text_encoder import StandInText, T5Encoder, clean_text, load_text_encoder

ENCODER = StandInText(tokens=5, width=3)
CAPTIONS = {
    'a.png': ('one', 'two words'),
    'b.png': ('',),
    'c/d.png': ('many more words than there is room for',),
    'e.png': ('three of them', 'last'),
}


def test_features_are_those_of_the_encoder_with_padding_in_front(tmp_path):
    assert write_text_features(tmp_path, CAPTIONS, ENCODER, part_size=4, batch_size=3)
    source = TextFeatureSource(tmp_path)
    assert (source.encoder, source.tokens, source.width) == ('stand_in', 5, 3)
    assert source.names == tuple(CAPTIONS)
    for name, texts in CAPTIONS.items():
        assert source.texts(name) == texts
        for which, vectors in enumerate(ENCODER.encode(texts)):
            found = source.features(name, which)
            count = len(vectors)
            assert found.features.dtype == np.float16
            np.testing.assert_array_equal(found.features[5 - count :], vectors.astype(np.float16))
            assert not found.features[: 5 - count].any()
            assert found.mask.tolist() == [False] * (5 - count) + [True] * count
    several = source.first_features(['e.png', 'a.png'])
    np.testing.assert_array_equal(several.features[1], source.features('a.png').features)
    assert several.mask.sum(1).tolist() == [4, 2]


def test_a_full_text_has_no_padding():
    full = pad_features(np.ones((5, 3), np.float16), 5)
    assert full.mask.all()
    assert full.features.all()


def test_killed_and_shared_work_ends_like_that_of_one(tmp_path, monkeypatch):
    def killed(path, data):
        if path.suffix == '.json' and path.stem.startswith('000000002'):
            raise KeyboardInterrupt
        write(path, data)

    write = features.write_file
    with monkeypatch.context() as patch:
        patch.setattr(features, 'write_file', killed)
        with pytest.raises(KeyboardInterrupt):
            write_text_features(tmp_path / 'a', CAPTIONS, ENCODER, part_size=2)
    with pytest.raises(UserError, match='000000002-000000004 is missing; the command that began them'):
        TextFeatureSource(tmp_path / 'a')
    assert not write_text_features(tmp_path / 'a', CAPTIONS, ENCODER, part_size=2, process_id=0, process_count=2)
    assert write_text_features(tmp_path / 'a', CAPTIONS, ENCODER, part_size=2, process_id=1, process_count=2)
    write_text_features(tmp_path / 'b', CAPTIONS, ENCODER, part_size=2)
    contents = [{path.name: path.read_bytes() for path in (tmp_path / x).iterdir()} for x in 'ab']
    assert contents[0] == contents[1]
    assert len(contents[0]) == 7


def test_features_of_other_captions_or_encoders_are_not_mixed(tmp_path):
    write_text_features(tmp_path, CAPTIONS, ENCODER)
    with pytest.raises(UserError, match='width is 3 there, 4 here'):
        write_text_features(tmp_path, CAPTIONS, StandInText(tokens=5, width=4))
    with pytest.raises(UserError, match='sha256'):
        write_text_features(tmp_path, {**CAPTIONS, 'b.png': ('x',)}, ENCODER)


def test_what_is_missing_or_damaged_is_said(tmp_path):
    with pytest.raises(UserError, match=r'no features of captions in .*launch/text_features\.py'):
        TextFeatureSource(tmp_path)
    write_text_features(tmp_path, CAPTIONS, ENCODER)
    with pytest.raises(UserError, match=r'the image z\.png has no caption in'):
        TextFeatureSource(tmp_path).features('z.png')
    np.save(tmp_path / '000000000-000000006.npy', np.zeros((2, 3), np.float16))
    with pytest.raises(UserError, match='is damaged'):
        TextFeatureSource(tmp_path).features('e.png', 1)
    (tmp_path / 'text_features.json').write_text('{"encoder": "x"}')
    with pytest.raises(UserError, match='cannot be read'):
        TextFeatureSource(tmp_path)


def test_a_text_is_cleaned():
    assert clean_text('A <b>Cat</b> &amp;  a Dog\n at https://cats.org/x?y and www.dogs.org') == 'a cat & a dog at and'


def test_the_stand_in_knows_words_and_where_a_text_ends():
    encoder = load_text_encoder('stand_in')
    a, b, nothing = encoder.encode(['A cat', 'dog cat', ''])
    assert a.shape == (3, encoder.width)
    np.testing.assert_array_equal(a[1:], b[1:])
    assert np.abs(a[0] - b[0]).max() > 0.1
    np.testing.assert_array_equal(nothing, a[2:])
    assert len(encoder.encode(['word ' * 500])[0]) == encoder.tokens


def test_without_its_libraries_flan_t5_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, 'transformers', None)
    monkeypatch.setitem(sys.modules, 'torch', None)
    with pytest.raises(UserError, match=r"not installed: pip install '\.\[text\]'"):
        T5Encoder()
