"""Small autoregressive generators that several tests share."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from golden_packs import random_variables

from vistok.generators.autoregressive.far import FAR
from vistok.generators.autoregressive.llamagen import LlamaGen
from vistok.generators.autoregressive.vqgan_lc_gpt import VQGANLCGPT
from vistok.generators.generator import TextFeatures
from vistok.tokenizers.tokenizer import Tokens, TokenSpec

ONE = TokenSpec((17,), 4)
THREE = TokenSpec((17, 13, 11), 4, ('vis', 'mid', 'high'))
SIZES = {'grid': (2, 3), 'num_classes': 5, 'layers': 2, 'heads': 2, 'width': 16, 'mlp_width': 24, 'dropout': 0.0}

GENERATORS = {
    'class': LlamaGen(ONE, **SIZES),
    'text': LlamaGen(ONE, **SIZES, text_tokens=4, text_width=6),
    'far': FAR(THREE, **SIZES, head_layers=1),
    'gpt': VQGANLCGPT(ONE, **SIZES, condition_dropout=0.1, replaced=0.0),
}


@functools.cache
def variables_of(name):
    """Random variables, large enough that everything matters."""
    return random_variables(jax.eval_shape(GENERATORS[name].init, jax.random.key(0)))


def condition(name, count):
    """Different conditions; captions of different lengths."""
    if name != 'text':
        return jnp.arange(count) % 5
    features = np.random.default_rng(1).standard_normal((count, 4, 6)).astype(np.float32)
    lengths = 1 + np.arange(count) % 4
    mask = np.arange(4) >= 4 - lengths[:, None]
    return TextFeatures(jnp.asarray(features * mask[..., None]), jnp.asarray(mask))


def tokens(name, count, seed=0):
    """Random tokens."""
    sizes = GENERATORS[name].spec.codebook_sizes
    rng = np.random.default_rng(seed)
    return Tokens(np.stack([rng.integers(0, size, (count, 2, 3)) for size in sizes], axis=-1).astype(np.int32))
