"""Usage and perplexity are exact over batches, masks and replicas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vistok.collectives import name_replica_axis
from vistok.training.codebook_usage import CodebookUsage, codeword_counts


def test_counts_equal_numpy_for_any_grid():
    ids = np.random.default_rng(0).integers(0, 37, (3, 5, 7))
    counts = jax.jit(codeword_counts, static_argnums=1)(jnp.asarray(ids, jnp.int32), 37)
    assert counts.dtype == jnp.int32
    np.testing.assert_array_equal(counts, np.bincount(ids.ravel(), minlength=37))


def test_masked_positions_do_not_count():
    ids = jnp.array([[0, 1, 1], [2, 2, 2]])
    mask = jnp.array([[True, True, False], [False, True, True]])
    np.testing.assert_array_equal(codeword_counts(ids, 4, mask), [1, 1, 2, 0])


def test_replicas_report_the_global_counts():
    ids = np.random.default_rng(1).integers(0, 11, (4, 50)).astype(np.int32)

    def count(part):
        with name_replica_axis('data'):
            return codeword_counts(part, 11)

    counts = np.asarray(jax.pmap(count, axis_name='data', devices=jax.devices()[:4])(ids))
    for replica in counts:
        np.testing.assert_array_equal(replica, np.bincount(ids.ravel(), minlength=11))


def test_usage_is_exact_over_batches():
    usage = CodebookUsage(8)
    for ids in ([0, 0, 1], [3, 0, 1], [7, 7, 7]):
        usage.add(codeword_counts(jnp.array(ids), 8))
    report = usage.report()
    p = np.array([3, 2, 1, 3]) / 9
    assert report.usage == 0.5
    assert report.num_tokens == 9
    assert report.perplexity == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-14)
    assert report.entropy_bits == pytest.approx(-(p * np.log2(p)).sum(), rel=1e-14)


def test_perplexity_spans_one_to_the_codebook_size():
    one, all_ = CodebookUsage(5), CodebookUsage(5)
    one.add(np.array([0, 9, 0, 0, 0]))
    all_.add(np.full(5, 4))
    assert one.report().perplexity == 1
    assert one.report().usage == 0.2
    assert all_.report().perplexity == pytest.approx(5, rel=1e-14)


def test_counts_do_not_overflow_32_bits():
    usage = CodebookUsage(2)
    for _ in range(3):
        usage.add(np.array([2**31 - 1, 1], np.int32))
    assert usage.counts.tolist() == [3 * (2**31 - 1), 3]
    assert usage.report().usage == 1


def test_impossible_inputs_are_refused():
    with pytest.raises(ValueError, match='at least one codeword, got size 0'):
        CodebookUsage(0)
    with pytest.raises(ValueError, match='expected 3 counts'):
        CodebookUsage(3).add(np.zeros(4, np.int64))
    with pytest.raises(ValueError, match='no tokens'):
        CodebookUsage(3).report()
