"""Lost ids made up by a masked-token generator: known ones stay, and images of any size are covered by its grid."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_image_tokenizer import ToyTokenizer

from vistok.compression.loss_concealment import MaskedRestorer, copy_nearest_known
from vistok.generators.masked.mage import MAGE

SPEC = ToyTokenizer().spec


class RowsAreOfOneKind(MAGE):
    """Expects the largest known id of the row of cells, and the surer the farther up."""

    def logits(self, variables, guess, labels, scale):
        ids = jnp.where(guess.hidden, 0, guess.ids).reshape(-1, *self.grid)
        most = jnp.broadcast_to(ids.max(axis=2, keepdims=True), ids.shape)
        sure = 5.0 - jnp.arange(self.grid[0])[None, :, None]
        peaks = jax.nn.one_hot(most, self.spec.codebook_sizes[0]) * sure[..., None]
        return peaks.reshape(len(ids), -1, self.spec.codebook_sizes[0])


GENERATOR = RowsAreOfOneKind(SPEC, (4, 4), 1, steps=3)


@pytest.mark.parametrize('shape', [(4, 4), (11, 9), (3, 2), (2, 13)])
def test_images_of_every_size_are_restored_by_windows_and_known_ids_stay(shape):
    rng = np.random.default_rng(0)
    truth = np.broadcast_to(1 + np.arange(shape[0])[:, None, None], (*shape, 1)).astype(np.int32)
    known = rng.random(shape) < 0.5
    known[:, ::2] = True  # something of each row in every window
    ids = np.where(known[..., None], truth, rng.integers(0, 64, truth.shape))
    made = MaskedRestorer(GENERATOR, {})(ids, known)
    np.testing.assert_array_equal(made, truth)


def test_nothing_is_looked_at_that_has_not_arrived_and_nothing_is_drawn():
    rng = np.random.default_rng(1)
    ids, known = rng.integers(0, 64, (9, 10, 1)), rng.random((9, 10)) < 0.6
    restore = MaskedRestorer(GENERATOR, {})
    made = restore(ids, known)
    other = np.where(known[..., None], ids, rng.integers(0, 64, ids.shape))
    np.testing.assert_array_equal(restore(other, known), made)
    np.testing.assert_array_equal(copy_nearest_known(other, known), copy_nearest_known(ids, known))
    np.testing.assert_array_equal(made[known], ids[known])


def test_the_surest_are_revealed_first_and_help_the_others():
    """With one step every guess is made at once; with as many as cells, each sees those before."""

    class Chain(RowsAreOfOneKind):
        """Expects one more than the cell before, and is surest next to what is known."""

        def logits(self, variables, guess, labels, scale):
            given = jnp.where(guess.hidden, -1, guess.ids)
            before = jnp.concatenate([jnp.full_like(given[:, :1], -1), given[:, :-1]], axis=1)
            sure = jnp.where(before >= 0, 9.0, 0.0)
            return jax.nn.one_hot(before + 1, 64) * sure[..., None]

    known = np.zeros((4, 4), bool)
    known[0, 0] = True
    ids = np.full((4, 4, 1), 7)
    walked = MaskedRestorer(Chain(SPEC, (4, 4), 1, schedule='linear'), {}, steps=16)(ids, known)
    assert walked[..., 0].ravel().tolist() == list(range(7, 23))
    at_once = MaskedRestorer(Chain(SPEC, (4, 4), 1), {}, steps=1)(ids, known)
    assert at_once[0, :3, 0].tolist() == [7, 8, 0]


def test_several_ids_of_a_cell_are_refused():
    with pytest.raises(ValueError, match='restores one id for each cell, here are 3'):
        MaskedRestorer(GENERATOR, {})(np.zeros((4, 4, 3), np.int32), np.ones((4, 4), bool))


def test_a_grid_of_which_all_is_known_asks_for_nothing():
    class Silent(MAGE):
        def complete(self, *args, **kwargs):
            raise AssertionError

    ids = np.arange(16).reshape(4, 4, 1)
    np.testing.assert_array_equal(MaskedRestorer(Silent(SPEC, (4, 4), 1), {})(ids, np.ones((4, 4), bool)), ids)
