"""A tokenizer together with its parameters, ready to call."""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from tesserax.tokenizers.tokenizer import Tokenizer, TokenizerOutput, Tokens, TokenSpec

AnyArray = Array | np.ndarray


@functools.partial(jax.jit, static_argnames=('module', 'method'))
def _apply(module: Tokenizer, method: str, variables: Any, x: Any) -> Any:
    return module.apply(variables, x, method=method)


@dataclasses.dataclass(frozen=True)
class TrainedTokenizer:
    """Images <-> tokens, compiled once per shape of the input.

    Attributes:
      module: the tokenizer; its arguments are hashable (tuples, not lists).
      variables: its collections ('params').
      ignored: names of official entries it was made without.
    """

    module: Tokenizer
    variables: dict[str, Any]
    ignored: tuple[str, ...] = ()

    @property
    def spec(self) -> TokenSpec:
        """Codebook sizes and grid."""
        return self.module.spec

    def __call__(self, images: Float[AnyArray, 'b H W 3']) -> TokenizerOutput:
        """Reconstructs `images` in [-1, 1] through the tokens."""
        return _apply(self.module, '__call__', self.variables, images)

    def encode(self, images: Float[AnyArray, 'b H W 3']) -> Tokens:
        """Tokens of `images` in [-1, 1]."""
        return _apply(self.module, 'encode', self.variables, images)

    def decode(self, tokens: Tokens) -> Float[Array, 'b H W 3']:
        """Images of `tokens`, not clipped."""
        return _apply(self.module, 'decode', self.variables, tokens)

    def embed(self, tokens: Tokens) -> Float[Array, 'b h w d']:
        """Codewords of `tokens`."""
        return _apply(self.module, 'embed', self.variables, tokens)

    def decode_latents(self, latents: Float[AnyArray, 'b h w d']) -> Float[Array, 'b H W 3']:
        """Images of codewords, which may be soft."""
        return _apply(self.module, 'decode_latents', self.variables, latents)
