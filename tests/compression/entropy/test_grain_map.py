"""Maps of grains: every possible one comes back, and simple ones cost next to nothing."""

import numpy as np
import pytest

from vistok.compression.entropy.entropy_coder import SymbolDecoder, SymbolEncoder
from vistok.compression.entropy.grain_map import code_grains, flags_to_grain_map, grain_map_to_flags


def random_map(rng, shape, grains):
    grain = np.ones(shape, np.int32)
    for side in sorted(grains, reverse=True)[:-1]:
        cells = rng.random((shape[0] // side, shape[1] // side)) < 0.4
        grain = np.where((np.kron(cells, np.ones((side, side))) > 0) & (grain == 1), side, grain)
    return grain.astype(np.int32)


@pytest.mark.parametrize('grains', [(1,), (1, 2), (1, 2, 4), (1, 3, 12)])
def test_maps_come_back(grains):
    rng = np.random.default_rng(0)
    block = max(grains)
    for shape in ((block, block), (3 * block, 5 * block)):
        for grain in (random_map(rng, shape, grains), *(np.full(shape, side, np.int32) for side in grains)):
            encoder, given = SymbolEncoder(), grain.copy()
            code_grains(encoder, given, grains)
            assert (given == grain).all()
            found = np.ones(shape, np.int32)
            decoder = SymbolDecoder(encoder.finish())
            code_grains(decoder, found, grains)
            decoder.finish()
            assert (found == grain).all()
            flags = np.concatenate([np.zeros(0, bool), *grain_map_to_flags(grain, grains)])
            plain, used = flags_to_grain_map(np.append(flags, True), shape, grains)
            assert (plain == grain).all()
            assert used == len(flags)


def test_a_map_of_one_grain_costs_next_to_nothing():
    encoder = SymbolEncoder()
    code_grains(encoder, np.full((64, 64), 4, np.int32), (1, 2, 4))
    assert len(encoder.finish()) <= 8


def test_blocks_that_are_never_mixed_are_learned():
    """In DQ-VAE a coarsest cell is all medium or all fine: three of its four flags follow from the first."""
    rng = np.random.default_rng(0)
    cells = rng.integers(0, 2, (24, 24))
    grain = np.kron(np.where(cells, 2, 1), np.ones((4, 4))).astype(np.int32)
    encoder = SymbolEncoder()
    code_grains(encoder, grain, (1, 2, 4))
    assert 8 * len(encoder.finish()) < 1.25 * cells.size


def test_too_few_flags_are_noticed():
    with pytest.raises(IndexError):
        flags_to_grain_map(np.zeros(3, bool), (8, 8), (1, 4))
