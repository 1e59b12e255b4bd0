"""Tokens on disk: which views they are of, and that neither a kill nor a second process loses or doubles any."""

import numpy as np
import pytest
from tqdm import tqdm

from vistok import files
from vistok.data.images.augment import centre_crop
from vistok.data.tokens.batches import EvaluationTokenBatches, train_token_batches
from vistok.data.tokens.dataset import TokenRecord, TokenSource, has_tokens, token_folder, write_tokens
from vistok.data.tokens.parts import TokenParts
from vistok.data.tokens.views import cut_views, view_count
from vistok.errors import UserError

COUNTS = {'train': 7, 'validation': 3}
ABOUT = {'fingerprint': 'ab' * 32, 'views': 'ten_crop'}


def image(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def test_ten_views_are_the_corners_and_the_centre_of_an_enlarged_crop_and_their_mirrors():
    view = image(40, 50)
    views = cut_views(view, 20, 'ten_crop', (1.1,))
    enlarged = centre_crop(view, 22)
    for i, (top, left) in enumerate([(0, 0), (0, 2), (2, 0), (2, 2), (1, 1)]):
        np.testing.assert_array_equal(views[i], enlarged[top : top + 20, left : left + 20])
        np.testing.assert_array_equal(views[i + 5], views[i][:, ::-1])
    np.testing.assert_array_equal(cut_views(view, 20, 'five_crop', (1.1,)), views[:5])
    np.testing.assert_array_equal(cut_views(view, 20, 'centre')[0], centre_crop(view, 20))


def test_every_zoom_gives_a_set_of_views():
    assert view_count('ten_crop', (1.1, 1.05)) == len(cut_views(image(40, 50), 20, 'ten_crop', (1.1, 1.05))) == 20


@pytest.mark.parametrize('zooms', [(0.9,), ()])
def test_a_zoom_that_cuts_nothing_is_refused(zooms):
    with pytest.raises(ValueError, match='a zoom is at least 1, got'):
        view_count('ten_crop', zooms)


def record(split, i, grain):
    views = 2 if split == 'train' else 1
    ids = 10_000 * np.arange(views)[:, None, None, None] + np.full((views, 2, 2, 1), i, np.int32)
    return TokenRecord(ids.astype(np.int32), np.full((views, 2, 2), 2) if grain else None, i % 2, f'{split} {i}')


def extract(folder, *, grain=False, process=(0, 1), stop_after=None):
    """Does the missing parts, as far as `stop_after` of them; image 1 of each split cannot be used."""
    parts = TokenParts(folder / 'parts', ABOUT, COUNTS, 2)
    for done, part in enumerate(parts.missing(*process)):
        if done == stop_after:
            raise KeyboardInterrupt
        usable = [record(part.split, i, grain) for i in range(part.start, part.stop) if i != 1]
        skipped = {f'{part.split} {i}': 'damaged' for i in range(part.start, part.stop) if i == 1}
        parts.write(part, usable, skipped)
    return parts


def finish(folder, parts):
    with tqdm(disable=True) as bar:
        splits = {split: lambda split=split: parts.records(split) for split in COUNTS}
        write_tokens(folder, splits, about=ABOUT, class_names=['a', 'b'], largest_id=10_007, progress=bar)


@pytest.fixture(scope='module', params=[False, True], ids=['plain', 'with grains'])
def tokens(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp('tokens')
    finish(folder, extract(folder, grain=request.param))
    return folder


def test_tokens_come_back_as_they_were_written(tokens):
    source = TokenSource(tokens, 'train')
    assert source.about == ABOUT
    assert source.class_names == ('a', 'b')
    found = {source[i].name: source[i] for i in range(len(source))}
    assert sorted(found) == [f'train {i}' for i in (0, 2, 3, 4, 5, 6)]
    for i in (0, 6):
        expected = record('train', i, found['train 0'].grain is not None)
        np.testing.assert_array_equal(found[f'train {i}'].ids, expected.ids)
        assert found[f'train {i}'].label == expected.label
        np.testing.assert_array_equal(found[f'train {i}'].grain, expected.grain)
    assert len(TokenSource(tokens, 'validation')) == 2


@pytest.mark.parametrize('stops', [[0], [1], [3], [1, 1, 0, 2]])
def test_a_killed_extraction_goes_on_without_holes_or_duplicates(tmp_path, stops):
    for stop in stops:
        with pytest.raises(KeyboardInterrupt):
            extract(tmp_path / 'killed', stop_after=stop)
    resumed, whole = extract(tmp_path / 'killed'), extract(tmp_path / 'whole')
    assert not resumed.missing()
    for split in COUNTS:
        a, b = list(resumed.records(split)), list(whole.records(split))
        assert [r.name for r in a] == [r.name for r in b]
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x.ids, y.ids)
    assert resumed.read_skipped() == {'train 1': 'damaged', 'validation 1': 'damaged'}


def test_a_kill_while_a_part_is_written_leaves_no_part(tmp_path, monkeypatch):
    def killed(*arguments):
        raise KeyboardInterrupt

    parts = TokenParts(tmp_path, ABOUT, COUNTS, 2)
    before = parts.missing()
    with monkeypatch.context() as patch:
        patch.setattr(files.os, 'replace', killed)
        with pytest.raises(KeyboardInterrupt):
            parts.write(before[0], [record('train', 0, False)], {})
    assert parts.missing() == before


def test_processes_share_the_parts_out(tmp_path):
    mine = [TokenParts(tmp_path / 'p', ABOUT, COUNTS, 2).missing(i, 3) for i in range(3)]
    joined = sorted((part.split, part.start, part.stop) for parts in mine for part in parts)
    assert joined == [
        ('train', 0, 2), ('train', 2, 4), ('train', 4, 6), ('train', 6, 7), ('validation', 0, 2), ('validation', 2, 3),
    ]  # fmt: skip
    for i in range(3):
        parts = extract(tmp_path / 'p', process=(i, 3))
        assert bool(parts.missing()) == (i < 2)


def test_parts_of_other_settings_are_refused(tmp_path):
    TokenParts(tmp_path, ABOUT, COUNTS, 2)
    with pytest.raises(UserError, match=r'fingerprint is abab.* there, cdcd.* here'):
        TokenParts(tmp_path, ABOUT | {'fingerprint': 'cd' * 32}, COUNTS, 2)


def test_a_folder_is_known_by_its_prefix_or_by_what_lies_in_it(tokens, tmp_path):
    assert token_folder(f'tokens:{tmp_path}') == tmp_path
    assert token_folder(str(tokens)) == tokens
    assert token_folder('embedded:digits') is None
    assert not has_tokens(tmp_path)
    with pytest.raises(UserError, match=r'no extracted tokens in .*extract_tokens'):
        TokenSource(tmp_path, 'train')


def test_an_epoch_has_every_image_once_in_a_random_view(tokens):
    batches = train_token_batches(TokenSource(tokens, 'train'), batch_size=3, seed=1, threads=0)
    views = set()
    for _ in range(8):
        epoch = [next(batches) for _ in range(2)]
        ids = np.concatenate([batch['ids'] for batch in epoch])
        assert ids.dtype == np.int32
        assert sorted(ids[:, 0, 0, 0] % 10_000) == [0, 2, 3, 4, 5, 6]
        views |= set(ids[:, 0, 0, 0] // 10_000)
        assert all(batch['label'].dtype == np.int32 for batch in epoch)
    assert views == {0, 1}


def test_the_stream_goes_on_where_it_was_and_processes_share_it(tokens):
    source = TokenSource(tokens, 'train')
    whole = train_token_batches(source, batch_size=4, seed=3, threads=0)
    batches = [next(whole) for _ in range(4)]
    again = train_token_batches(source, batch_size=4, seed=3, threads=2)
    again.restore({**whole.state(), 'batches': 2})
    np.testing.assert_array_equal(next(again)['ids'], batches[2]['ids'])
    halves = [
        next(train_token_batches(source, batch_size=4, seed=3, threads=0, process_index=i, process_count=2))
        for i in range(2)
    ]
    np.testing.assert_array_equal(np.stack([h['ids'] for h in halves], 1).reshape(4, 2, 2, 1), batches[0]['ids'])


def test_evaluation_has_every_image_once_and_masks_the_padding(tokens):
    source = TokenSource(tokens, 'train')
    for processes in (1, 2):
        parts = [
            EvaluationTokenBatches(source, batch_size=4, process_index=i, process_count=processes, threads=0)
            for i in range(processes)
        ]
        assert [len(part) for part in parts] == [2] * processes
        seen = [batch['ids'][batch['mask']] for part in parts for batch in part]
        assert sorted(np.concatenate(seen)[:, 0, 0, 0]) == [0, 2, 3, 4, 5, 6]
