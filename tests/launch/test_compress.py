"""The commands around compressed images: files, folders, pipes, sizes; nothing is damaged by what goes wrong."""

import dataclasses
import io
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from toy_image_tokenizer import ToyTokenizer

from vistok.compression.codec import Codec
from vistok.compression.format.bitstream import MAGIC
from vistok.compression.format.description import describe
from vistok.compression.format.header import BitstreamError
from vistok.compression.priors.fitting import fit_prior
from vistok.errors import UserError
from vistok.experiments import codecs as opening
from vistok.experiments import image_files
from vistok.experiments.batch_compression import compress_files, decompress_files
from vistok.experiments.image_files import image_bytes, read_image, write_new

ROOT = Path(__file__).parents[2]
CODEC = Codec(ToyTokenizer(4, (1, 2, 4)), b'weights!', window=64, halo=16)
PLAIN = Codec(ToyTokenizer(), b'weights!', window=64, halo=16)


def image(height=40, width=60, channels=3, dtype=np.uint8):
    rng = np.random.default_rng(height * width)
    coarse = rng.integers(0, np.iinfo(dtype).max, (-(-height // 10), -(-width // 10), channels))
    return np.kron(coarse, np.ones((10, 10, 1)))[:height, :width].astype(dtype)


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / 'photo.png'
    path.write_bytes(image_bytes(image(), '.png'))
    return path


def compress(source, out=None, codec=CODEC, force=False, **options):
    return compress_files(source, out, codec=codec, force=force, **options)


def decompress(source, out=None, codec=CODEC, force=False):
    return decompress_files(source, out, codec=codec, force=force)


def test_a_file_is_compressed_beside_itself_and_comes_back(photo, tmp_path, capsys):
    assert compress(photo) == 0
    data = photo.with_suffix('.bin').read_bytes()
    assert f'{photo} -> {tmp_path / "photo.bin"}: 60x40x3, {len(data)} bytes' in capsys.readouterr().out
    assert decompress(tmp_path / 'photo.bin', str(tmp_path / 'again.webp')) == 0
    assert read_image((tmp_path / 'again.webp').read_bytes(), 'again').shape == (40, 60, 3)
    with pytest.raises(UserError, match='exists already: name another file, or'):
        decompress(tmp_path / 'photo.bin')
    with pytest.raises(UserError, match='exists already'):
        compress(photo)
    assert compress(photo, force=True) == 0
    assert photo.with_suffix('.bin').read_bytes() == data


def test_a_folder_keeps_its_shape_and_bad_files_do_not_stop_the_others(photo, tmp_path, capsys):
    source = tmp_path / 'pictures'
    (source / 'inner').mkdir(parents=True)
    for name in ('a.png', 'inner/b.jpg'):
        (source / name).write_bytes(image_bytes(image(), Path(name).suffix))
    (source / 'broken.png').write_bytes(photo.read_bytes()[:100])
    (source / 'notes.txt').write_text('no image')
    assert compress(source, str(tmp_path / 'out')) == 1
    assert 'broken.png is no image that can be read' in capsys.readouterr().err
    written = sorted(path.relative_to(tmp_path / 'out').as_posix() for path in (tmp_path / 'out').rglob('*.*'))
    assert written == ['a.bin', 'inner/b.bin']
    assert decompress(tmp_path / 'out') == 0
    assert (tmp_path / 'out/inner/b.png').is_file()
    (source / 'a.jpg').write_bytes(b'')
    with pytest.raises(UserError, match='would both become'):
        compress(source, str(tmp_path / 'other'))


def test_standard_input_goes_to_standard_output(photo, monkeypatch):
    class Binary(io.StringIO):
        def __init__(self, data=b''):
            super().__init__()
            self.buffer = io.BytesIO(data)

    passed = photo.read_bytes()
    for step in (compress, decompress):
        out = Binary()
        monkeypatch.setattr(sys, 'stdin', Binary(passed))
        monkeypatch.setattr(sys, 'stdout', out)
        assert step('-') == 0
        passed = out.buffer.getvalue()
        assert out.getvalue() == ''
    assert Image.open(io.BytesIO(passed)).size == (60, 40)
    for source in (photo, '-'):
        monkeypatch.setattr(sys, 'stdin', Binary(photo.read_bytes()))
        monkeypatch.setattr(sys, 'stdout', out := Binary())
        assert compress(source, '-') == 0
        assert out.buffer.getvalue()[:4] == MAGIC
        assert out.getvalue() == ''
    assert not photo.with_suffix('.bin').exists()
    with pytest.raises(UserError, match='is a folder, which standard output cannot hold'):
        compress(photo.parent, '-')


def test_sizes_are_kept(photo, tmp_path, capsys):
    big = tmp_path / 'big.png'
    big.write_bytes(image_bytes(image(256, 256), '.png'))
    target = big.with_suffix('.bin')
    compress(big, bpp=0.2, codec=dataclasses.replace(CODEC, window=256))
    assert 8 * target.stat().st_size / 65536 == pytest.approx(0.2, rel=0.02)
    compress(big, max_bytes=1200, force=True)
    assert 1000 < target.stat().st_size <= 1200
    with pytest.raises(ValueError, match='with coarse tokens only'):
        compress(big, max_bytes=50, force=True)
    assert 1000 < target.stat().st_size <= 1200
    with pytest.raises(UserError, match='only one of --bpp, --max_bytes and --grain_ratios'):
        compress(big, bpp=1.0, max_bytes=3, force=True)
    with pytest.raises(ValueError, match='one grain, so the size of an image is given'):
        compress(big, codec=PLAIN, bpp=5.0, force=True)
    compress(photo, grain_ratios=(1.0, 0.0, 0.0))
    assert describe(photo.with_suffix('.bin').read_bytes()).grain.min() == 4


def test_other_weights_are_named(photo):
    compress(photo)
    other = dataclasses.replace(CODEC, weights_fingerprint=b'weights?')
    with pytest.raises(BitstreamError, match='was written with weights 7765696768747321, got 776569676874733f'):
        decompress(photo.with_suffix('.bin'), str(photo.with_name('x.png')), codec=other)
    assert not photo.with_name('x.png').exists()


def test_a_full_disk_leaves_nothing_behind(photo, tmp_path, monkeypatch):
    monkeypatch.setattr(os, 'fsync', lambda descriptor: (_ for _ in ()).throw(OSError(28, 'No space left on device')))
    with pytest.raises(OSError, match='No space left'):
        compress(photo)
    assert [path.name for path in tmp_path.iterdir()] == ['photo.png']
    photo.with_suffix('.bin').write_bytes(b'old')
    with pytest.raises(OSError, match='No space left'):
        write_new(photo.with_suffix('.bin'), b'new', force=True)
    assert photo.with_suffix('.bin').read_bytes() == b'old'


def test_a_killed_process_leaves_the_old_file_or_none(tmp_path):
    path = tmp_path / 'photo.bin'
    script = (
        'import os, signal, sys; from pathlib import Path; from vistok.experiments.image_files import write_new\n'
        'os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)\n'
        f'write_new(Path({str(path)!r}), b"new" * 100_000, force=True)'
    )
    for old in (None, b'old'):
        if old is not None:
            path.write_bytes(old)
        ended = subprocess.run([sys.executable, '-c', script], cwd=ROOT, capture_output=True, timeout=120)
        assert ended.returncode == -signal.SIGKILL
        assert path.exists() == (old is not None)
        assert old is None or path.read_bytes() == old


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(UserError, match='there is no file or folder'):
        compress(tmp_path / 'absent.png')
    with pytest.raises(UserError, match='holds nothing to read'):
        compress(tmp_path)


@pytest.mark.parametrize('channels', [1, 2, 3, 4])
def test_images_keep_their_channels(channels):
    original = image(20, 30, channels)
    np.testing.assert_array_equal(read_image(image_bytes(original, '.png'), 'x'), original)


def test_sixteen_bit_grey_keeps_its_bits_and_colour_is_rounded():
    grey, colour = image(20, 30, 1, np.uint16), image(20, 30, 3, np.uint16)
    np.testing.assert_array_equal(read_image(image_bytes(grey, '.png'), 'x'), grey)
    rounded = read_image(image_bytes(colour, '.png'), 'x')
    np.testing.assert_array_equal(rounded, np.round(colour / 257))


def test_images_stand_upright():
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(image(20, 30)).save(file, 'PNG', exif=exif)
    assert read_image(file.getvalue(), 'x').shape == (30, 20, 3)


def test_images_that_cannot_be_read_or_written_are_named(monkeypatch):
    with pytest.raises(UserError, match='x is no image that can be read'):
        read_image(b'no image', 'x')
    floats = io.BytesIO()
    Image.fromarray(np.zeros((4, 4), np.float32)).save(floats, 'TIFF')
    with pytest.raises(UserError, match='floating-point values'):
        read_image(floats.getvalue(), 'x')
    monkeypatch.setattr(image_files, 'MAX_PIXELS', 100)
    with pytest.raises(UserError, match='30x20 is above the limit of 100 pixels'):
        read_image(image_bytes(image(20, 30), '.png'), 'x')
    for channels, kind in ((4, '.jpg'), (3, '.bin')):
        with pytest.raises(UserError, match=f'an image of {channels} channels cannot be written as'):
            image_bytes(image(4, 4, channels), kind)


def test_a_description_accounts_for_every_byte(photo):
    compress(photo, grain_ratios=(0.25, 0.25, 0.5))
    data = photo.with_suffix('.bin').read_bytes()
    found = describe(data)
    assert sum(found.streams.values()) == found.size == len(data)
    lines = dict(found.lines())
    assert lines['picture'] == '60x40, RGB, 8 bits'
    assert lines['codebooks'] == '64'
    assert lines['grain 4'].endswith('% of the area')
    shades = found.grain_image()
    assert shades.shape == (*found.header.grid, 1)
    assert set(np.unique(shades)) == {0, 128, 255}
    with pytest.raises(ValueError, match='no map of grains'):
        describe(PLAIN.compress(image())).grain_image()
    with pytest.raises(BitstreamError):
        describe(data[:-1])


def test_the_command_answers_in_one_line(photo):
    script = [sys.executable, 'launch/compress.py', str(photo), '--model=absent']
    answer = subprocess.run(script, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert answer.returncode == 1
    assert re.fullmatch(r'error: .*absent.*\n', answer.stderr)


class Model(ToyTokenizer):
    """With parameters."""

    variables = {'params': {'x': np.arange(3.0)}}


def test_the_prior_beside_the_weights_is_used(photo, tmp_path, monkeypatch):
    model = Model()
    monkeypatch.setattr(opening, 'open_tokenizer', lambda _: model)
    run = tmp_path / 'run'
    assert opening.default_prior(str(run)) == run / 'prior.safetensors'
    assert opening.default_prior(str(run / 'checkpoints/400')) == run / 'prior.safetensors'
    (tmp_path / 'model.safetensors').touch()
    assert opening.default_prior(str(tmp_path / 'model.safetensors')) == tmp_path / 'model.prior.safetensors'

    without = opening.open_codec(str(run))
    assert without.prior is None
    tokens = [without.encode(image(80, 90 + i)) for i in range(3)]
    prior = fit_prior(tokens, [np.arange(64, dtype=np.float32)[:, None]], model.spec, clusters=(1,))
    run.mkdir()
    prior.save(run / 'prior.safetensors')
    found = opening.open_codec(str(run), window=128)
    assert found.prior.fingerprint == prior.fingerprint
    assert found.weights_fingerprint == without.weights_fingerprint
    assert found.window == 128
    assert opening.open_codec(str(run), '').prior is None
    with pytest.raises(UserError, match='there is no file'):
        opening.open_codec(str(run), str(tmp_path / 'absent.safetensors'))
