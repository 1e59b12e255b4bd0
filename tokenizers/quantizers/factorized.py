"""Several small codebooks side by side, one per factor (Li et al., "Factorized Visual Tokenization and Generation")."""

import itertools
from collections.abc import Mapping, Sequence

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vistok.errors import UserError
from vistok.tokenizers.quantizers.vector import QuantizerOutput, VectorQuantizer


class FactorizedQuantizer(nn.Module):
    """Product quantizer: one quantizer per factor, codewords concatenated along the channels.

    Attributes:
      quantizers: one per factor, in the order of the decoder's input.
      names: names of the factors (('vis', 'sem'), or ('vis', 'sem_mid', 'sem_high')); the parameters of a factor
        lie under its name.
    """

    quantizers: tuple[VectorQuantizer, ...]
    names: tuple[str, ...]

    def setup(self) -> None:
        """Gives each quantizer its factor's name."""
        if len(self.quantizers) != len(self.names) or len(set(self.names)) != len(self.names):
            raise UserError(f'need {len(self.quantizers)} different names, one per quantizer, got {self.names}')
        for name, quantizer in zip(self.names, self.quantizers, strict=True):
            setattr(self, name, quantizer.copy(parent=None, name=None))

    def __call__(self, z: Mapping[str, Float[Array, 'b h w _']], *, train: bool = False) -> QuantizerOutput:
        """Quantizes each factor; the losses are named 'commitment/vis'."""
        if set(z) != set(self.names):
            raise UserError(f'need one grid of vectors for each of {self.names}, got {tuple(z)}')
        factors = {name: getattr(self, name)(z[name], train=train) for name in self.names}
        return QuantizerOutput(
            z_q=jnp.concatenate([factor.z_q for factor in factors.values()], axis=-1),
            ids=jnp.stack([factor.ids for factor in factors.values()], axis=-1),
            losses={
                f'{term}/{name}': value for name, factor in factors.items() for term, value in factor.losses.items()
            },
        )

    def embed(self, ids: Int[Array, 'b h w k']) -> Float[Array, 'b h w d']:
        """Returns the concatenated codewords of `ids`."""
        if ids.shape[-1] != len(self.names):
            raise UserError(f'need one id for each of {self.names}, got {ids.shape[-1]}')
        return jnp.concatenate([getattr(self, name).embed(ids[..., i]) for i, name in enumerate(self.names)], axis=-1)

    def split(self, z_q: Float[Array, 'b h w d']) -> dict[str, Float[Array, 'b h w _']]:
        """Splits concatenated codewords into those of the factors."""
        widths = [getattr(self, name).codewords().shape[-1] for name in self.names]
        parts = jnp.split(z_q, list(itertools.accumulate(widths))[:-1], axis=-1)
        return dict(zip(self.names, parts, strict=True))


def disentangle_loss(factors: Sequence[Float[Array, 'b h w d']]) -> Float[Array, '']:
    """Computes the squared cosine between the factors' vectors, averaged over positions and pairs of factors.

    Given straight-through vectors, its gradient reaches the encoder branches and not the codebooks.

    Args:
      factors: quantized vectors of two or more factors, equally wide.

    Returns:
      A scalar in [0, 1].
    """

    def squared_cosine(a: Array, b: Array) -> Array:
        return jnp.sum(a * b, axis=-1) ** 2 / jnp.maximum(jnp.sum(a**2, axis=-1) * jnp.sum(b**2, axis=-1), 1e-16)

    pairs = [jnp.mean(squared_cosine(a, b)) for a, b in itertools.combinations(factors, 2)]
    return jnp.mean(jnp.stack(pairs))
