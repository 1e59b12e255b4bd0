"""The commands around smaller codebooks and lost packets."""

import dataclasses
import importlib

import jax
import numpy as np
import pytest
from run_command import run_command
from toy_image_tokenizer import ToyTokenizer

from vistok.compression.codec import Codec
from vistok.compression.format.header import BitstreamError
from vistok.compression.format.packets import PacketShape
from vistok.compression.loss_concealment import copy_nearest_known
from vistok.compression.nested.fitting import fit_nested
from vistok.compression.transcode import transcode, transcode_to_level
from vistok.errors import UserError
from vistok.experiments import codecs as opening
from vistok.experiments.batch_compression import compress_files, decompress_files
from vistok.experiments.image_files import image_bytes, read_image
from vistok.experiments.saved_models import save_model
from vistok.tokenizers.trained import TrainedTokenizer
from vistok.tokenizers.vqgan import VQGAN
from vistok.weights.fingerprints import fingerprint_weights


class Model(ToyTokenizer):
    """With parameters."""

    variables = {'params': {'x': np.arange(3.0)}}


@pytest.fixture
def photo(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / 'photo.png'
    coarse = rng.integers(0, 255, (5, 7, 3))
    path.write_bytes(image_bytes(np.kron(coarse, np.ones((9, 9, 1))).astype(np.uint8), '.png'))
    return path


def test_lost_packets_end_in_a_image_and_a_warning_if_that_is_asked_for(photo, capsys):
    codec = Codec(ToyTokenizer(), b'weights!', window=64, halo=16, packets=PacketShape(2, 2))
    compress_files(photo, codec=codec)
    file = photo.with_suffix('.bin')
    file.write_bytes(file.read_bytes()[:-1])
    again = photo.with_name('again.png')
    with pytest.raises(BitstreamError, match='packets 3 of 4 are missing; with --partial, lost ids are restored'):
        decompress_files(file, again, codec=codec)
    assert not again.exists()
    assert decompress_files(file, again, codec=codec, partial=True) == 0
    assert f'warning: {file}: 12 of 48 tokens (25.0%) were lost' in capsys.readouterr().err
    assert read_image(again.read_bytes(), 'x').shape == (45, 63, 3)
    whole = dataclasses.replace(codec, packets=None)
    compress_files(photo, codec=whole, force=True)
    assert decompress_files(file, again, codec=whole, partial=True, restore=copy_nearest_known, force=True) == 0
    assert not capsys.readouterr().err


def test_a_size_is_met_with_fewer_codewords_as_transcoding_meets_it(photo):
    words, usage = [np.arange(64, dtype=np.float32)[:, None]], [np.ones(64, int)]
    nested = fit_nested(words, usage, (16, 4), b'weights!')
    codec = Codec(ToyTokenizer(), b'weights!', window=64, halo=16, nested=nested)
    target = photo.with_suffix('.bin')
    compress_files(photo, codec=codec)
    whole = target.read_bytes()
    sizes = [len(transcode_to_level(whole, nested, level)) for level in range(3)]
    for most in (sizes[0], sizes[0] - 1, sizes[1], sizes[2]):
        compress_files(photo, codec=codec, max_bytes=most, force=True)
        assert target.read_bytes() == transcode(whole, nested, max_bytes=most)
    compress_files(photo, codec=codec, bpp=8 * sizes[2] / (45 * 63), force=True)
    assert len(target.read_bytes()) == sizes[2]
    with pytest.raises(ValueError, match='with the fewest codewords there are, this image has'):
        compress_files(photo, codec=codec, max_bytes=sizes[2] - 1, force=True)
    with pytest.raises(ValueError, match='one grain, so the size of an image is given'):  # --codewords was said
        compress_files(photo, codec=codec.at_level(1), max_bytes=sizes[2], force=True)


def test_nested_codebooks_beside_the_weights_are_used_if_they_are_theirs(tmp_path, monkeypatch):
    model = Model()
    monkeypatch.setattr(opening, 'open_tokenizer', lambda _: model)
    run = tmp_path / 'run'
    run.mkdir()
    path = opening.default_nested(str(run / 'checkpoints/400'))
    assert path == run / 'nested.safetensors'
    assert opening.open_codec(str(run)).nested is None
    words, usage = [np.arange(64, dtype=np.float32)[:, None]], [np.ones(64, int)]
    fit_nested(words, usage, (8, 2), fingerprint_weights(model.variables)).save(path)
    found = opening.open_codec(str(run))
    assert found.nested.sizes(1) == (8,)
    assert opening.open_codec(str(run), nested='').nested is None
    fit_nested(words, usage, (8, 2), b'weights?').save(path)
    assert opening.open_codec(str(run)).nested is None  # the run has been trained further
    with pytest.raises(UserError, match='holds nested codebooks of weights 776569676874733f, got'):
        opening.open_codec(str(run), nested=str(path))


def test_the_commands_work_together(photo, tmp_path, capsys):
    module = VQGAN(channels=8, channel_multipliers=(1, 2), res_blocks=1, codebook_size=64, codebook_dim=4)
    variables = dict(jax.jit(module.init)(jax.random.key(0), np.zeros((1, 16, 16, 3), np.float32)))
    weights = tmp_path / 'model.safetensors'
    save_model(TrainedTokenizer(module, variables), weights)

    def run(name, *arguments):
        assert run_command(name, *arguments, f'--model={weights}') == 0
        return capsys.readouterr()

    source = tmp_path / 'pictures'
    source.mkdir()
    for i in range(3):
        source.joinpath(f'{i}.png').write_bytes(photo.read_bytes())
    said = run('nest_codebook', '--sizes=16,4', f'--source={source}', '--images=2').out
    assert 'code: 64 codewords' in said
    large, small, direct = (tmp_path / name for name in ('large.bin', 'small.bin', 'direct.bin'))
    run('compress', photo, large, '--packets=4')
    run('compress', photo, direct, '--packets=4', '--codewords=4')
    run('transcode', large, small, '--codewords=4')
    assert small.read_bytes() == direct.read_bytes()
    small.write_bytes(small.read_bytes()[:-1])
    warned = run('decompress', small, tmp_path / 'again.png', '--partial').err
    assert f'warning: {small}: 176 of 736 tokens (23.9%) were lost' in warned  # one of four, on a grid of 23x32
    assert read_image((tmp_path / 'again.png').read_bytes(), 'x').shape == (45, 63, 3)
    assert run_command('describe', small) == 0
    assert 'level' in capsys.readouterr().out


@pytest.mark.parametrize('name', ['decompress', 'describe', 'transcode'])
def test_every_command_that_reads_a_bitstream_has_limits(name, photo, capsys):
    compress_files(photo, codec=Codec(ToyTokenizer(), b'weights!'))
    file = photo.with_suffix('.bin')
    module = importlib.import_module(f'vistok.launch.{name}')
    assert {'max_pixels', 'max_memory', 'max_seconds'} <= set(module.FLAGS.texts)
    if name == 'describe':
        for flag, answer in [
            ('pixels=100', 'above the limit of 100; --max_pixels=2835 allows it'),
            ('seconds=nan', 'a limit of seconds is above 0, got nan'),
        ]:
            assert run_command(name, file, f'--max_{flag}') == 1
            assert answer in capsys.readouterr().err
        assert run_command(name, file, '--max_pixels=2835', '--max_memory=1') == 0
