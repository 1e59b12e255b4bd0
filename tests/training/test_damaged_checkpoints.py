"""A damaged checkpoint is refused in one sentence, alike when a run goes on and when a model is loaded."""

import json
import pathlib
import random
import re
import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from vistok.errors import UserError
from vistok.training.checkpoint import Checkpoints
from vistok.training.digests import compute_digests, find_difference
from vistok.training.state import TrainState

# Orbax reads arrays side by side, and gives up the others when one fails.
pytestmark = pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')

META = {'data': {'position': 3}}


def make_state():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(40, 30)).astype(np.float32))
    return TrainState(
        jnp.int32(2), {'model': {'kernel': x}}, {'model': ({'mu': 2 * x},)}, {'model': {'mean': x[0]}}, {'kernel': -x}
    )


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """Folder of two checkpoints, of the steps 1 and 2."""
    folder = tmp_path_factory.mktemp('checkpoints') / 'checkpoints'
    with Checkpoints(folder, best='psnr') as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, make_state(), META, {'psnr': float(step)})
            checkpoints.wait()
    return folder


@pytest.fixture
def folder(whole, tmp_path):
    return pathlib.Path(shutil.copytree(whole, tmp_path / 'checkpoints'))


def read_both_ways(folder, step=2):
    """Yields the error of resuming, then that of loading; None where there is none and all values are right."""
    for read in ('restore', 'restore_arrays'):
        try:
            with Checkpoints(folder, best='psnr', read_only=True) as checkpoints:
                if read == 'restore':
                    state, _ = checkpoints.restore(step, make_state())
                else:
                    state = checkpoints.restore_arrays(step)
            assert find_difference(state, compute_digests(make_state())) is None
            yield None
        except UserError as error:
            yield str(error)


def array_files(step):
    """Lists the files that hold the values of arrays."""
    return sorted(path for path in step.glob('state/**/d/*') if path.is_file())


def flip_bit(path, bit):
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def assert_names_a_way_on(sentence, folder):
    assert sentence is not None
    one, two = (re.escape(str(folder / step)) for step in '12')
    assert re.search(rf'^checkpoint {two} is damaged \(.+\): the one before it is {one}; remove {two} to', sentence)
    assert not re.search(r'NoneType|Traceback|\n', sentence)


def test_a_whole_checkpoint_is_read(folder):
    assert list(read_both_ways(folder)) == [None, None]
    with Checkpoints(folder, read_only=True) as checkpoints:
        assert checkpoints.restore(2, make_state())[1] == META


def test_flipped_bits_in_the_files_of_arrays_never_give_other_values(folder):
    random.seed(1)
    files = array_files(folder / '2')
    for path in random.choices(files, weights=[path.stat().st_size for path in files], k=6):
        bit = random.randrange(8 * path.stat().st_size)
        flip_bit(path, bit)
        for sentence in read_both_ways(folder):
            if sentence is not None:  # a bit that is not used may have been hit
                assert_names_a_way_on(sentence, folder)
        flip_bit(path, bit)
    assert list(read_both_ways(folder)) == [None, None]


def test_other_values_under_the_old_digests_are_refused(folder):
    path = folder / '2' / 'meta' / 'metadata'
    meta = json.loads(path.read_text())
    meta['digests']['ema/kernel'] = '00000000'
    path.write_text(json.dumps(meta))
    for sentence in read_both_ways(folder):
        assert 'ema/kernel is not what was saved' in sentence
        assert_names_a_way_on(sentence, folder)


@pytest.mark.parametrize('damage', ['cut', 'removed'])
@pytest.mark.parametrize(
    'name', ['state/_METADATA', 'state/manifest.ocdbt', 'meta/metadata', 'array', 'metrics/metrics']
)
def test_a_missing_or_cut_file_is_named_with_the_way_on(folder, name, damage):
    path = max(array_files(folder / '2'), key=lambda p: p.stat().st_size) if name == 'array' else folder / '2' / name
    path.unlink() if damage == 'removed' else path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    if (name, damage) == ('metrics/metrics', 'removed'):  # an evaluation was not due
        assert list(read_both_ways(folder)) == [None, None]
        return
    for sentence in read_both_ways(folder):
        assert_names_a_way_on(sentence, folder)
    shutil.rmtree(folder / '2')
    assert list(read_both_ways(folder, step=1)) == [None, None]


def test_the_only_checkpoint_says_that_there_is_none_before_it(folder):
    shutil.rmtree(folder / '1')
    (folder / '2' / 'meta' / 'metadata').write_text('5')
    for sentence in read_both_ways(folder):
        assert sentence.endswith(f'there is none before it; remove {folder / "2"} to begin again')


def test_a_checkpoint_of_an_earlier_version_has_no_digests_and_is_read(folder):
    (folder / '2' / 'meta' / 'metadata').write_text(json.dumps(META))
    assert list(read_both_ways(folder)) == [None, None]


def test_another_optimizer_is_another_model_and_no_damage(folder):
    adam = make_state()
    other = adam.replace(opt_state={'model': ({'mu': adam.opt_state['model'][0]['mu'], 'nu': jnp.zeros(3)},)})
    with Checkpoints(folder, read_only=True) as checkpoints, pytest.raises(UserError) as error:
        checkpoints.restore(2, other)
    assert re.search(r'cannot be read into this model: opt_state/.*nu is not there in it', str(error.value))


def test_what_cannot_be_written_is_one_sentence_and_keeps_what_was_saved(folder, monkeypatch):
    def fail(*arguments, **options):
        raise ValueError('RESOURCE_EXHAUSTED: No space left on device\nand more')

    with Checkpoints(folder) as checkpoints:
        monkeypatch.setattr(checkpoints._manager, 'save', fail)
        with pytest.raises(
            UserError, match=r'cannot be written \(.*No space left on device\); the newest .* is of step 2'
        ):
            checkpoints.save(3, make_state(), META)
    assert list(read_both_ways(folder)) == [None, None]


def test_digests_depend_on_bits_and_names_only():
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    digests = compute_digests({'a': x, 'b': np.float32(0)})
    assert find_difference({'a': jnp.asarray(np.asfortranarray(x)), 'b': jnp.float32(0)}, digests) is None
    assert find_difference({'a': x, 'b': np.float32(-0.0)}, digests) == 'b'
    assert find_difference({'a': x}, digests) == 'b'
