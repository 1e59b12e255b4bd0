"""Trained tokenizer: a module together with its variables, ready to call."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from vistok.errors import UserError
from vistok.tokenizers.routing.grains import check_grain_ratios
from vistok.tokenizers.tokenizer import Tokenizer, TokenizerOutput, Tokens, TokenSpec
from vistok.weights.fingerprints import fingerprint_model

AnyArray = Array | np.ndarray


@functools.partial(jax.jit, static_argnames=('module', 'method'))
def _apply(module: Tokenizer, method: str, variables: Any, *args: Any) -> Any:
    return module.apply(variables, *args, method=method)


@functools.partial(jax.jit, static_argnames='module')
def _encode_with_shares(module: Tokenizer, variables: Any, images: Any, grain_ratios: Float[Array, ' s']) -> Any:
    return module.apply(variables, images, method='encode', grain_ratios=grain_ratios)


@dataclasses.dataclass(frozen=True)
class TrainedTokenizer:
    """Tokenizer with its variables; calls are compiled once per shape of the input.

    Attributes:
      module: the tokenizer; its arguments are hashable (tuples, not lists).
      variables: its variables by collection ('params').
      ignored: names of official entries it was made without.
    """

    module: Tokenizer
    variables: dict[str, Any]
    ignored: tuple[str, ...] = ()

    @property
    def spec(self) -> TokenSpec:
        """Codebook sizes and grid."""
        return self.module.spec

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of spec and variables: tokens of tokenizers that share it mean the same."""
        return fingerprint_model(self.spec, self.variables)

    def __call__(self, images: Float[AnyArray, 'b H W 3']) -> TokenizerOutput:
        """Reconstructs `images` in [-1, 1] through the tokens."""
        return _apply(self.module, '__call__', self.variables, images)

    def encode(self, images: Float[AnyArray, 'b H W 3'], *, grain_ratios: Sequence[float] | None = None) -> Tokens:
        """Encodes images in [-1, 1] as tokens.

        Args:
          images: sides are multiples of `spec.cell`.
          grain_ratios: shares of the area of each grain, from coarse to fine; only for tokenizers with grains.  Other
            shares need no other program.

        Raises:
          UserError: the tokenizer has other grains, or the shares do not add up to 1.
        """
        if grain_ratios is None:
            return _apply(self.module, 'encode', self.variables, images)
        if len(self.spec.grains) == 1:
            raise UserError(f'{type(self.module).__name__} has no grains that could have shares {tuple(grain_ratios)}')
        check_grain_ratios(grain_ratios, len(self.spec.grains))
        return _encode_with_shares(self.module, self.variables, images, jnp.asarray(grain_ratios, jnp.float32))

    def decode(self, tokens: Tokens) -> Float[Array, 'b H W 3']:
        """Decodes tokens into images, not clipped."""
        return _apply(self.module, 'decode', self.variables, tokens)

    def embed(self, tokens: Tokens) -> Float[Array, 'b h w d']:
        """Returns the codewords of `tokens`."""
        return _apply(self.module, 'embed', self.variables, tokens)

    def decode_latents(
        self, latents: Float[AnyArray, 'b h w d'], grain: Int[AnyArray, 'b h w'] | None = None
    ) -> Float[Array, 'b H W 3']:
        """Decodes codewords, which may be soft, into images; with their grains where the decoder needs them."""
        given = () if grain is None else (grain,)
        return _apply(self.module, 'decode_latents', self.variables, latents, *given)
