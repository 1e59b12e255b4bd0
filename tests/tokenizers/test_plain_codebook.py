"""Baked codebooks: the same tokens, the same images, nothing left of what made the codewords."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_packs import random_variables

from vistok.tokenizers.fqgan import FQGAN
from vistok.tokenizers.fvq import FVQ
from vistok.tokenizers.magvit2 import Magvit2VQ
from vistok.tokenizers.plain_codebook import to_plain_codebook
from vistok.tokenizers.simvq import SimVQ, SimVQGAN
from vistok.tokenizers.trained import TrainedTokenizer
from vistok.tokenizers.vqgan import VQGAN
from vistok.tokenizers.vqgan_lc import VQGANLC
from vistok.weights.rules import variable_shapes

SIZES = {'channels': 8, 'channel_multipliers': (1, 2), 'res_blocks': 1, 'codebook_size': 64, 'codebook_dim': 8}
VQGAN_SIZES = {**SIZES, 'latent_channels': 16}
BRIDGE = {'bridge_patch': 4, 'bridge_width': 16, 'bridge_depth': 1, 'bridge_heads': 2}
MODELS = {
    'linear': (VQGANLC(**VQGAN_SIZES, table_width=12), VQGAN),
    'none': (VQGANLC(**VQGAN_SIZES, table_width=8, projector='none'), VQGAN),
    'unit norm': (SimVQGAN(**VQGAN_SIZES, normalize=True), VQGAN),
    'simvq': (SimVQ(**SIZES), Magvit2VQ),
    'fvq': (FVQ(**VQGAN_SIZES, **BRIDGE), VQGAN),
}


@pytest.fixture(scope='module', params=MODELS)
def case(request):
    module, plain = MODELS[request.param]
    variables = random_variables(variable_shapes(module, jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)))
    images = np.random.default_rng(1).uniform(-1, 1, (4, 16, 16, 3)).astype(np.float32)
    trained = TrainedTokenizer(module, variables)
    return trained, to_plain_codebook(trained), plain, images


def test_ids_are_exactly_equal(case):
    trained, baked, _, images = case
    ids = np.asarray(trained.encode(images).ids)
    assert len(np.unique(ids)) > 1
    np.testing.assert_array_equal(baked.encode(images).ids, ids)


def test_images_are_equal(case):
    trained, baked, _, images = case
    tokens = trained.encode(images)
    np.testing.assert_allclose(baked.decode(tokens), trained.decode(tokens), atol=1e-5)


def test_nothing_is_left_of_table_and_projector(case):
    _, baked, plain, _ = case
    assert type(baked.module) is plain
    assert set(baked.variables) == {'params'}
    assert set(baked.variables['params']['quantizer']['codebook']) == {'codewords'}
    shapes = variable_shapes(baked.module, jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32))
    assert jax.tree.map(jnp.shape, baked.variables) == jax.tree.map(jnp.shape, shapes)


def test_what_is_baked_stays_as_it_is(case):
    _, baked, _, _ = case
    again = to_plain_codebook(baked)
    assert again.module == baked.module
    jax.tree.map(np.testing.assert_array_equal, again.variables, baked.variables)


def test_a_tokenizer_with_several_codebooks_is_refused():
    with pytest.raises(ValueError, match=r'a FQGAN has no plain form; only these and what derives from them: .*VQGAN'):
        to_plain_codebook(TrainedTokenizer(FQGAN(), {}))
