"""Conversion of computed codebooks (projected, bridged, EMA) into plain tables after training."""

import dataclasses
import functools
from typing import Any

import jax
from jaxtyping import Array, Float

from vistok.errors import UserError
from vistok.tokenizers.magvit2 import Magvit2VQ
from vistok.tokenizers.residual_vqgan import MultiScaleVQGAN, ResidualVQGAN
from vistok.tokenizers.tokenizer import Tokenizer
from vistok.tokenizers.trained import TrainedTokenizer
from vistok.tokenizers.vqgan import VQGAN

PLAIN: tuple[type[Tokenizer], ...] = (ResidualVQGAN, MultiScaleVQGAN, VQGAN, Magvit2VQ)
"""Tokenizers whose codebook is a `LearnedCodebook`; subclasses differ in `make_codebook` alone."""


def to_plain_codebook(trained: TrainedTokenizer) -> TrainedTokenizer:
    """Returns the same tokenizer with its codewords stored as they are: equal ids, equal images.

    A VQGAN-LC, SimVQ or FVQ becomes a VQGAN whose `LearnedCodebook` holds what its table, projector or bridge gives.

    Args:
      trained: a tokenizer with one codebook.

    Returns:
      A tokenizer of a class in `PLAIN`, with 'params' only.

    Raises:
      UserError: a tokenizer that is more than one codebook between two networks.
    """
    module = trained.module
    plain = next((cls for cls in PLAIN if isinstance(module, cls)), None)
    if plain is None or _quantizer_maker(type(module)) is not _quantizer_maker(plain):
        known = ', '.join(cls.__name__ for cls in PLAIN)
        raise UserError(f'a {type(module).__name__} has no plain form; only these and what derives from them: {known}')
    arguments = {
        field.name: getattr(module, field.name)
        for field in dataclasses.fields(plain)
        if field.name not in ('parent', 'name')
    }
    params = dict(trained.variables['params'])
    params['quantizer'] = {**params.get('quantizer', {}), 'codebook': {'codewords': _rows(module, trained.variables)}}
    return TrainedTokenizer(plain(**arguments), {'params': params}, trained.ignored)


def _quantizer_maker(cls: type[Tokenizer]) -> Any:
    """Returns the method by which a class replaces the nearest-codeword quantizer, or None."""
    return getattr(cls, 'make_quantizer', None)


def _rows(module: Tokenizer, variables: Any) -> Float[Array, 'K d']:
    """Computes the codewords before they are scaled to unit norm, which the quantizer will do again."""
    rows: Any = jax.jit(functools.partial(module.apply, method=lambda m: m.quantizer.codebook()))(variables)
    return rows
