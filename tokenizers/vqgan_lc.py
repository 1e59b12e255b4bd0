"""VQGAN-LC: a very large codebook of which only a projection is trained.

Zhu et al., "Scaling the Codebook Size of VQGAN to 100,000 with a Utilization Rate of 99%" (2024).  The table holds
centroids of patch features of a pretrained network (CLIP ViT-L/14) and never changes; a linear map makes the codewords
of it, so that every step moves all of them.  The networks are taming's VQGAN.
"""

from typing import Any

from vistok.errors import UserError
from vistok.tokenizers.codebooks.codebook import Codebook, ProjectedCodebook, Projector, Table
from vistok.tokenizers.codebooks.feature_table import FeatureTable
from vistok.tokenizers.vqgan import VQGAN

PRESETS: dict[str, dict[str, Any]] = {
    'f16': {},
    'f8': {'channel_multipliers': (1, 2, 2, 4), 'attention_levels': ()},  # published without attention in the levels
}
"""Arguments of the published models, over the defaults below."""

PROJECTORS = ('linear', 'mlp', 'none')
_MLP_HIDDEN = (256,)


class VQGANLC(VQGAN):
    """VQGAN whose codewords are projected from a table.  The defaults are the published f16 model.

    The two losses of the codebook follow the released code: the published weights 1 and 0.33, times 0.1, the larger one
    on the encoder.  A frozen table is filled before training (`config.table`), else it is Gaussian.

    Attributes:
      table_width: width of the table's rows; that of the codewords if `projector` is 'none'.
      table_trained: whether the rows are trained as well (the paper's "tuned" codebooks).
      projector: 'linear' (the method), 'mlp' (one hidden layer of 256), or 'none'.
    """

    initializers = (FeatureTable('quantizer/codebook/table/codewords'),)

    codebook_size: int = 100_000
    normalize: bool = False
    codebook_weight: float = 0.033
    commitment_weight: float = 0.1
    table_width: int = 768
    table_trained: bool = False
    projector: str = 'linear'

    def make_codebook(self) -> Codebook:
        """Returns a codebook projected from a table.

        Raises:
          UserError: an unknown projector, or none between widths that differ.
        """
        if self.projector not in PROJECTORS:
            raise UserError(f'unknown projector {self.projector!r}; known: {", ".join(PROJECTORS)}')
        if self.projector == 'none' and self.table_width != self.codebook_dim:
            raise UserError(
                f'without a projector the rows of the table are the codewords: table_width {self.table_width} must be '
                f'codebook_dim {self.codebook_dim}'
            )
        projectors = {
            'linear': Projector(self.codebook_dim, kernel_std=self.codebook_dim**-0.5, parent=None),
            'mlp': Projector(self.codebook_dim, _MLP_HIDDEN, parent=None),
            'none': None,
        }
        table = Table(self.codebook_size, self.table_width, self.table_trained, parent=None)
        return ProjectedCodebook(table, projectors[self.projector], parent=None)
