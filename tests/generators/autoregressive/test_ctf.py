"""CTF, tiny, and the partition it rests on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_packs import random_variables

from vistok.generators.autoregressive.codeword_clusters import CodeClusters, equal_shares
from vistok.generators.autoregressive.ctf import CTF
from vistok.generators.generator import SampleConfig
from vistok.tokenizers.tokenizer import Tokens, TokenSpec

CLUSTER_OF = np.asarray([0, 1, 2, 3, 4, 2, 2, 1, 4, 4, 4], np.int32)
KEY = jax.random.key(5)
SECOND = SampleConfig(temperature=1.5, top_k=3, guidance_scale=1.7)


def tiny(**changes):
    sizes = {'layers': 1, 'heads': 2, 'width': 16, 'fine_layers': 1, 'fine_heads': 2, 'fine_width': 8}
    return CTF(TokenSpec((11,), 16), (2, 3), 3, clusters=5, **sizes, dropout=0.0, **changes)


def variables_of(generator):
    made = random_variables({'params': jax.eval_shape(generator.init, KEY)['params']})
    return made | {'frozen': {'cluster_of': jnp.asarray(CLUSTER_OF)}}


@pytest.fixture(scope='module')
def drawn():
    """Clusters of four grids, and codewords for the same under three numberings of the rows."""
    generator = tiny()
    coarse = jax.random.randint(KEY, (4, 2, 3, 1), 0, 5)
    refine = jax.jit(lambda v, coarse, cond, ids: generator.refine(v, Tokens(coarse), cond, KEY, ids, SECOND).ids)
    cond, ids = jnp.asarray([0, 1, 2, 0]), jnp.arange(4)
    back = jnp.asarray([2, 0, 3, 1])
    variables = variables_of(generator)
    return (
        coarse,
        refine(variables, coarse, cond, ids),
        refine(variables, coarse[back], cond[back], ids[back])[back.argsort()],
    )


def test_codewords_are_members_of_their_clusters(drawn):
    coarse, ids, _ = drawn
    np.testing.assert_array_equal(CLUSTER_OF[np.asarray(ids)], coarse)


def test_a_sample_does_not_depend_on_its_place_in_the_batch(drawn):
    np.testing.assert_array_equal(drawn[1], drawn[2])


def test_both_stages_together_give_a_grid_of_codewords():
    generator = tiny()
    config = SampleConfig(temperature=1.1, second=SECOND)
    cond, ids = jnp.asarray([0, 2]), jnp.arange(2)
    tokens = jax.jit(lambda v: generator.sample(v, cond, KEY, ids, config))(variables_of(generator))
    assert tokens.ids.shape == (2, 2, 3, 1)
    assert 0 <= tokens.ids.min() <= tokens.ids.max() < 11
    assert len(np.unique(tokens.ids)) > 1


def test_fresh_weights_guess_uniformly_among_clusters_and_among_members():
    generator = tiny()
    variables = jax.jit(generator.init)(KEY)
    assert (np.bincount(variables['frozen']['cluster_of']) > 0).all()
    variables = variables | {'frozen': {'cluster_of': jnp.asarray(CLUSTER_OF)}}
    tokens = Tokens(jnp.arange(12, dtype=jnp.int32).reshape(2, 2, 3, 1) % 11)
    loss = jax.jit(lambda v: generator.loss(v, tokens, jnp.asarray([0, 1]), KEY, train=True))(variables)
    np.testing.assert_allclose(loss.metrics['coarse'], np.log(5), rtol=1e-6)
    members = np.bincount(CLUSTER_OF)[CLUSTER_OF[np.asarray(tokens.ids)]]
    np.testing.assert_allclose(loss.metrics['fine'], np.log(members).mean(), rtol=1e-6)


def test_the_second_loss_is_over_members_only_and_sees_all_clusters():
    generator = tiny()
    variables = variables_of(generator)
    ids = np.arange(6).reshape(1, 6) * 2 % 11
    coarse = CLUSTER_OF[ids]
    logits_of = jax.jit(lambda c: generator.fine.apply({'params': variables['params']['fine']}, c, jnp.asarray([1])))
    logits = np.asarray(logits_of(coarse))
    masked = np.where(coarse[..., None] == CLUSTER_OF, logits, -np.inf)
    nll = -np.take_along_axis(np.asarray(jax.nn.log_softmax(masked)), ids[..., None], -1)
    tokens = Tokens(jnp.asarray(ids, jnp.int32).reshape(1, 2, 3, 1))
    result = jax.jit(lambda v: generator.loss(v, tokens, jnp.asarray([1]), KEY, train=False))(variables)
    np.testing.assert_allclose(result.metrics['fine'], nll.mean(), rtol=1e-5)
    np.testing.assert_allclose(result.loss, result.metrics['fine'] + result.metrics['coarse'], rtol=1e-6)
    changed = np.array(coarse)
    changed[0, -1] = (changed[0, -1] + 1) % 5
    assert np.abs(np.asarray(logits_of(changed))[0, 0] - logits[0, 0]).max() > 1e-3


def test_tokens_of_several_codebooks_are_refused():
    with pytest.raises(ValueError, match='one codebook'):
        CTF(TokenSpec((8, 8), 16, ('vis', 'sem')), (2, 2), 3, clusters=4)
    with pytest.raises(ValueError, match='cannot make 12 clusters'):
        CTF(TokenSpec((8,), 16), (2, 2), 3, clusters=12)


def test_guidance_of_the_second_stage_needs_a_null_class():
    generator, coarse = tiny(condition_dropout=0.0), Tokens(jnp.zeros((1, 2, 3, 1), jnp.int32))
    with pytest.raises(ValueError, match='condition_dropout'):
        generator.refine(variables_of(generator), coarse, jnp.asarray([0]), KEY, jnp.arange(1), SECOND)


@pytest.mark.parametrize(('count', 'clusters'), [(11, 4), (12, 4), (5, 5), (40, 7)])
def test_equal_shares_differ_by_one_at_most(count, clusters):
    distances = np.random.default_rng(count).random((count, clusters))
    sizes = np.bincount(equal_shares(distances), minlength=clusters)
    assert sizes.max() - sizes.min() <= 1


def test_equal_shares_leave_everyone_at_the_nearest_cluster_that_has_room_for_all_who_want_it():
    distances = np.abs(np.asarray([0.0, 0.1, 0.2, 5.0, 5.1, 5.2])[:, None] - np.asarray([5.0, 0.0]))
    np.testing.assert_array_equal(equal_shares(distances), [1, 1, 1, 0, 0, 0])
    crowded = np.abs(np.asarray([0.0, 0.1, 0.2, 0.3])[:, None] - np.asarray([5.0, 0.0]))
    np.testing.assert_array_equal(equal_shares(crowded), [1, 1, 0, 0])


def test_an_empty_cluster_is_refused():
    with pytest.raises(ValueError, match='none is empty'):
        CodeClusters(np.asarray([0, 2, 2], np.int32))
    assert CodeClusters(CLUSTER_OF).describe() == '5 clusters of 11 codewords: at least 1, median 2, at most 4'
