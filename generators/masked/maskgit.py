"""MaskGIT: masked token prediction at every masking ratio, decoded in few parallel steps.

Chang et al., "MaskGIT: Masked Generative Image Transformer", 2022.  The network is MAGE's, so that the two differ
only in the masking during training.
"""

import dataclasses

import jax
from jaxtyping import Array, Float

from vistok.generators.masked.mage import MAGE
from vistok.generators.masked.masking import sample_cosine_shares


@dataclasses.dataclass(frozen=True)
class MaskGIT(MAGE):
    """MaskGIT: any share of the tokens is masked in training, by the cosine schedule, and the encoder sees the masks.

    Attributes:
      steps: decoding steps; the default is the paper's.
      choice_temperature: see `MAGE`; the default is that of the paper's code.
    """

    steps: int = 8
    choice_temperature: float = 4.5

    def sample_shares(self, rng: jax.Array, rows: int) -> Float[Array, ' b']:
        return sample_cosine_shares(rng, rows)

    @property
    def unseen_share(self) -> float:
        return 0.0
