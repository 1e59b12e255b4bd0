"""The benchmark of lost packets: both ways to restore see the same losses, and losses grow with their share."""

import importlib.util
import types
from pathlib import Path

import numpy as np
from toy_image_tokenizer import ToyTokenizer

from vistok.compression.codec import Codec
from vistok.compression.format.bitstream import BitstreamReader
from vistok.compression.format.packets import PacketShape
from vistok.compression.format.token_file import read_partial_tokens
from vistok.compression.loss_concealment import copy_nearest_known

SCRIPT = Path(__file__).resolve().parents[2] / 'benchmarks' / 'packet_loss.py'
CODEC = Codec(ToyTokenizer(), b'weights!', window=64, halo=16, packets=PacketShape(4, 4))


def script():
    spec = importlib.util.spec_from_file_location('packet_loss', SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def images(count):
    rng = np.random.default_rng(0)
    return np.kron(rng.integers(0, 256, (count, 4, 4, 3)), np.ones((1, 8, 8, 1))).astype(np.uint8)


def test_what_is_lost_at_a_small_share_is_lost_at_a_larger_one():
    data, chances = CODEC.compress(images(1)[0]), np.random.default_rng(1).random(4096)
    with_losses = script().with_losses
    assert with_losses(data, chances, 0.0) == data
    before = np.ones((4, 4), bool)
    for share in (0.2, 0.4, 0.8, 1.0):
        known = read_partial_tokens(BitstreamReader(with_losses(data, chances, share)), None).known
        assert not (known & ~before).any()
        assert known.sum() == max(1, (chances[:16] >= share).sum())
        before = known


def test_rows_compare_the_same_losses_and_images_are_shown():
    network = types.SimpleNamespace(
        variables=None, module=types.SimpleNamespace(apply=lambda _, a, b: np.abs(a - b).mean((1, 2, 3)))
    )
    restorers = {'nearest': copy_nearest_known, 'zeros': lambda ids, known: np.where(known[..., None], ids, 0)}
    rows, shown = script().measure(CODEC, images(6), restorers, network, 0)
    assert [row.restored_by for row in rows] == ['nearest', 'zeros'] * 5
    for one, other in zip(rows[::2], rows[1::2], strict=True):
        assert (one.packets_lost, one.tokens_lost) == (other.packets_lost, other.tokens_lost)
    assert rows[0].psnr == rows[1].psnr > rows[-1].psnr
    assert rows[0].tokens_lost == 0.0
    assert list(shown) == ['original', 'nothing lost', '40% lost', 'nearest', 'zeros']
    assert {image.shape for image in shown.values()} == {(6, 32, 32, 3)}
