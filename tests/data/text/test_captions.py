"""Captions are found beside images, in lines of JSON, or as prompts."""

import json

import pytest
from PIL import Image

from vistok.data.text.captions import read_captions
from vistok.errors import UserError


@pytest.fixture
def images(tmp_path):
    for name in ('b/2.png', 'a/1.png', 'a/3.jpeg'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new('RGB', (4, 4)).save(tmp_path / name)
    return tmp_path


def test_each_line_of_a_file_beside_a_image_is_a_caption(images):
    (images / 'b' / '2.txt').write_text('a cat\n\n  Ein Bär \n', encoding='utf-8')
    (images / 'a' / '3.txt').write_text('a dog')
    assert read_captions(images) == {'a/1.png': ('',), 'a/3.jpeg': ('a dog',), 'b/2.png': ('a cat', 'Ein Bär')}


def test_lines_of_json_name_images(images):
    lines = [{'file_name': 'b/2.png', 'text': ['a cat', 'an animal']}, {'file_name': 'a/1.png', 'text': 'a dog'}]
    (images / 'captions.jsonl').write_text('\n'.join(map(json.dumps, lines)))
    found = {'a/1.png': ('a dog',), 'b/2.png': ('a cat', 'an animal')}
    assert read_captions(images / 'captions.jsonl') == found
    assert read_captions(images) == found | {'a/3.jpeg': ('',)}
    (images / 'captions.jsonl').write_text(json.dumps({'file_name': 'c.png', 'text': 'nothing'}))
    with pytest.raises(UserError, match=r'has captions of c\.png, and there is no such image'):
        read_captions(images)


def test_prompts_are_named_by_their_number(tmp_path):
    (tmp_path / 'p.txt').write_text('two\n\none\n')
    assert read_captions(tmp_path / 'p.txt') == {'000000': ('two',), '000001': ('one',)}


def test_what_holds_no_captions_is_answered_in_a_sentence(images):
    with pytest.raises(UserError, match=r'holds no captions: beside each image lies a \.txt file'):
        read_captions(images)
    with pytest.raises(UserError, match='neither a folder of images with captions, nor'):
        read_captions(images / 'nothing')
    for line in ('{"file_name": "1.png"}', '["1.png", "a cat"]', 'a cat', '{"file_name": "1.png", "text": [1]}'):
        (images / 'x.jsonl').write_text(line)
        with pytest.raises(UserError, match='entry 1 is not of the form'):
            read_captions(images / 'x.jsonl')
    (images / 'x.txt').write_bytes(b'\xff\xfe\x00')
    with pytest.raises(UserError, match='cannot be read as UTF-8'):
        read_captions(images / 'x.txt')
