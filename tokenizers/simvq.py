"""SimVQ: codewords are a trained linear map of a frozen Gaussian table.

Zhu et al., "Addressing Representation Collapse in Vector Quantized Models with One Linear Layer" (2024).  A gradient on
any chosen codeword turns and stretches the whole codebook, so that no codeword is left behind.  Once on the networks of
the published models, once on those of VQGAN, for comparisons with other codebooks.
"""

from typing import Any

from vistok.tokenizers.codebooks.codebook import Codebook, ProjectedCodebook, Projector, Table
from vistok.tokenizers.magvit2 import Magvit2VQ
from vistok.tokenizers.vqgan import VQGAN

PRESETS: dict[str, dict[str, Any]] = {
    '1k': {'codebook_size': 1024},
    '8k': {'codebook_size': 8192},
    '65k': {'codebook_size': 65_536},
    '262k': {'codebook_size': 262_144},
}
"""Arguments of the published models, over the defaults of `SimVQ`."""


def make_gaussian_codebook(size: int, dim: int) -> ProjectedCodebook:
    """Builds a codebook that is a square linear map of a frozen Gaussian table."""
    return ProjectedCodebook(Table(size, dim, parent=None), Projector(dim, parent=None), parent=None)


class SimVQ(Magvit2VQ):
    """SimVQ on Open-MAGVIT2's networks.  The defaults are the published model with 65,536 codewords, f8."""

    def make_codebook(self) -> Codebook:
        return make_gaussian_codebook(self.codebook_size, self.codebook_dim)


class SimVQGAN(VQGAN):
    """SimVQ on VQGAN's networks.

    Vectors and codewords keep their lengths, and there are as many channels as in the published model.
    """

    codebook_size: int = 65_536
    codebook_dim: int = 128
    normalize: bool = False

    def make_codebook(self) -> Codebook:
        return make_gaussian_codebook(self.codebook_size, self.codebook_dim)
