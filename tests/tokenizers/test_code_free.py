"""Tokenizers without codebook: what their tokens are, and that every bit finds its way through the networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_packs import random_variables

from vistok.tokenizers.code_free import BSQ, FSQ, LFQ
from vistok.tokenizers.tokenizer import TokenSpec
from vistok.weights.rules import variable_shapes

NETWORK = {'channels': 8, 'channel_multipliers': (1, 2), 'res_blocks': 1, 'latent_channels': 16}
IMAGE = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)


@pytest.mark.parametrize(
    ('module', 'spec'),
    [
        (FSQ(**NETWORK, levels=(8, 5)), TokenSpec((40,), 2)),
        (LFQ(**NETWORK, bits=18), TokenSpec((2**18,), 2)),
        (BSQ(**NETWORK, bits=36, groups=2), TokenSpec((2**18,) * 2, 2, ('group_0', 'group_1'))),
    ],
)
def test_the_implicit_codebook_is_told_by_the_spec(module, spec):
    assert module.spec == spec

    def ids(key, images):
        return module.init_with_output(key, images, method='encode')[0].ids

    shape = jax.eval_shape(ids, jax.random.key(0), IMAGE).shape
    assert shape == (2, 4, 4, len(spec.codebook_sizes))


def test_default_sizes_are_about_those_of_vqgan():
    assert (FSQ().spec.codebook_sizes, LFQ().spec.codebook_sizes, BSQ().spec.codebook_sizes) == (
        (15_360,), (16_384,), (16_384,),
    )  # fmt: skip


def test_ids_of_several_groups_give_the_image_back():
    module = BSQ(**NETWORK, bits=8, groups=2)
    variables = random_variables(variable_shapes(module, IMAGE))
    images = jax.random.uniform(jax.random.key(0), IMAGE.shape, minval=-1, maxval=1)

    def both(variables, images):
        output = module.apply(variables, images, train=True)
        return output, module.apply(variables, output.tokens, method='decode')

    output, decoded = jax.jit(both)(variables, images)
    assert set(output.losses) == {'entropy'}
    assert output.tokens.ids.shape == (2, 4, 4, 2)
    assert output.tokens.ids.max() < 16
    np.testing.assert_allclose(decoded, output.reconstruction, atol=1e-5)
