"""Masks: exact counts, nesting, and what a step of revealing may change."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vistok.generators.masked.masking import (
    MaskedGrid,
    count_masked,
    counts_falling,
    counts_rounded_up,
    draw_nested_masks,
    fully_masked,
    hide,
    reveal,
    sample_normal_shares,
    share_grid,
)


def test_every_step_of_falling_counts_reveals_a_token_and_the_last_reveals_all():
    for cells in range(1, 40):
        for steps in range(1, cells + 1):
            for schedule in ('cosine', 'linear'):
                counts = (cells, *counts_falling(cells, steps, schedule))
                assert len(counts) == steps + 1
                assert counts[-1] == 0
                assert (np.diff(counts) < 0).all()


def test_falling_counts_of_maskgit_are_those_of_its_formula():
    counts = counts_falling(256, 8, 'cosine')
    assert counts == (*(math.floor(256 * math.cos(math.pi * k / 16)) for k in range(1, 8)), 0)


def test_counts_rounded_up_begin_with_nothing_revealed_and_leave_one_token():
    counts = counts_rounded_up(256, 20, 'cosine')
    assert counts[0] == 256
    assert counts[-1] == 1
    assert (np.diff(counts) <= 0).all()


def test_impossible_schedules_are_refused_with_the_offending_value():
    with pytest.raises(ValueError, match='steps is 0'):
        counts_rounded_up(16, 0, 'cosine')
    with pytest.raises(ValueError, match='17 steps cannot each reveal one of 16'):
        counts_falling(16, 17, 'cosine')
    with pytest.raises(ValueError, match="unknown schedule 'square'; known: cosine, linear"):
        counts_falling(16, 4, 'square')


def test_exactly_so_many_are_hidden_whatever_ties_there_are():
    noise = jnp.asarray(np.random.default_rng(0).integers(0, 3, (17, 16)), jnp.float32)
    counts = jnp.arange(17)
    np.testing.assert_array_equal(hide(noise, counts).sum(axis=1), counts)


def test_counts_of_shares_are_rounded_up_and_at_least_one():
    shares = jnp.array([0.0, 0.01, 0.5, 0.51, 1.0])
    np.testing.assert_array_equal(count_masked(shares, 16), [1, 1, 8, 9, 16])


def test_random_masks_are_nested_and_have_shares_of_the_grid():
    masks = draw_nested_masks(jax.random.key(0), share_grid(), 64, 256)
    assert not (masks.now & ~masks.before).any()
    allowed = np.ceil(256 * share_grid().shares)
    for mask in (masks.now, masks.before):
        assert set(np.asarray(mask.sum(axis=1))) <= set(allowed)
    assert len(set(np.asarray(masks.now.sum(axis=1)))) > 10  # rows have shares of their own
    assert (masks.before.sum(axis=1) > masks.now.sum(axis=1)).mean() > 0.8


def test_shares_of_a_truncated_normal_stay_in_their_range():
    shares = sample_normal_shares(jax.random.key(0), 1000)
    assert shares.min() >= 0.5
    assert shares.max() <= 1
    assert 0.66 < shares.mean() < 0.74


def test_known_tokens_never_change_and_so_many_stay_hidden_as_asked():
    rng = np.random.default_rng(0)
    guess = fully_masked(4, 16)
    for count in (16, 9, 9, 4, 1, 0):
        drawn = jnp.asarray(rng.integers(0, 8, (4, 16)), jnp.int32)
        logits = jnp.asarray(np.round(rng.standard_normal((4, 16, 8))), jnp.float32)  # rounded: many ties
        after = reveal(guess, logits, drawn, jnp.zeros((4, 16)), count)
        known = ~np.asarray(guess.hidden)
        np.testing.assert_array_equal(np.asarray(after.ids)[known], np.asarray(guess.ids)[known])
        np.testing.assert_array_equal(np.asarray(after.ids)[~known], np.asarray(drawn)[~known])
        assert not np.asarray(after.hidden)[known].any()
        np.testing.assert_array_equal(after.hidden.sum(axis=1), count)
        guess = after


def test_known_tokens_stay_known_even_if_more_should_be_hidden_than_are():
    guess = MaskedGrid(jnp.arange(4)[None], jnp.array([[True, False, False, True]]))
    after = reveal(guess, jnp.zeros((1, 4, 4)), jnp.zeros((1, 4), jnp.int32), jnp.zeros((1, 4)), 3)
    np.testing.assert_array_equal(after.hidden, guess.hidden)
    np.testing.assert_array_equal(after.ids, [[0, 1, 2, 0]])


def test_the_least_confident_stay_hidden():
    logits = jnp.log(jnp.array([[[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]]]))
    after = reveal(fully_masked(1, 3), logits, jnp.zeros((1, 3), jnp.int32), jnp.zeros((1, 3)), 2)
    np.testing.assert_array_equal(after.hidden, [[False, True, True]])
    noise = jnp.array([[-9.0, 0.0, 9.0]])  # noise decides where it is larger than the differences
    after = reveal(fully_masked(1, 3), logits, jnp.zeros((1, 3), jnp.int32), noise, 2)
    np.testing.assert_array_equal(after.hidden, [[True, True, False]])
