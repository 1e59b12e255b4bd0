"""MaskGIT: hidden tokens predicted at every share, revealed in few steps.

Chang et al., "MaskGIT: Masked Generative Image Transformer", 2022.  The network is MAGE's, so that the two differ in
what is hidden during training and in nothing else.
"""

import dataclasses

import jax
from jaxtyping import Array, Float

from vistok.generators.masked.mage import MAGE
from vistok.generators.masked.masking import cosine_shares


@dataclasses.dataclass(frozen=True)
class MaskGIT(MAGE):
    """Any share of the tokens is hidden in training, by the cosine schedule, and the encoder sees where.

    Attributes:
      steps: of generation, as the paper has them.
      choice_temperature: as in the paper's code.
    """

    steps: int = 8
    choice_temperature: float = 4.5

    def draw_shares(self, rng: jax.Array, rows: int) -> Float[Array, ' b']:
        """Shares of hidden tokens in training."""
        return cosine_shares(rng, rows)

    @property
    def unseen(self) -> float:
        """Share of tokens that the encoder does not see in training."""
        return 0.0
