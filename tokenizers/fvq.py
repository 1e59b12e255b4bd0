"""FVQ: VQGAN whose codewords a bridge computes, so that all of them stay in use however many there are.

Chang et al., "Scalable Training for Vector-Quantized Networks with 100% Codebook Utilization" (2025).  After training
the bridge is baked into a plain codebook (`tokenizers/plain_codebook.py`).
"""

from typing import Any

from vistok.tokenizers.codebooks.bridge import BridgedCodebook, VQBridge
from vistok.tokenizers.codebooks.codebook import Codebook, LearnedCodebook
from vistok.tokenizers.residual_vqgan import MultiScaleVQGAN, ResidualVQGAN
from vistok.tokenizers.vqgan import VQGAN

PRESETS: dict[str, dict[str, Any]] = {
    '16384': {'codebook_size': 16_384, 'bridge_patch': 4},
    '65536': {'codebook_size': 65_536, 'bridge_patch': 8},
    '262144': {'codebook_size': 262_144, 'bridge_patch': 8},
}
"""Arguments of the published models, over the defaults below; `bridge_positions` and `bridge_conditioned` for "DiT"."""


class FVQ(VQGAN):
    """VQGAN with a bridged codebook.  Its arguments are VQGAN's, with other defaults, and those of the bridge.

    At initialization all codewords are zero and every vector gets the first one; they part in the first steps.

    Attributes:
      bridge_patch: side of the bridge's patches, in codewords; `codebook_size` must be a multiple of its square.
      bridge_width: width of the bridge's transformer.
      bridge_depth: number of its blocks.
      bridge_heads: number of its attention heads.
      bridge_positions: whether the bridge knows fixed positions.
      bridge_conditioned: whether its norms are modulated by a learned vector.
    """

    codebook_dim: int = 256
    normalize: bool = False
    bridge_patch: int = 4
    bridge_width: int = 256
    bridge_depth: int = 2
    bridge_heads: int = 4
    bridge_positions: bool = False
    bridge_conditioned: bool = False

    def make_codebook(self) -> Codebook:
        return BridgedCodebook(
            table=LearnedCodebook(self.codebook_size, self.codebook_dim, parent=None),
            bridge=VQBridge(
                patch=self.bridge_patch,
                width=self.bridge_width,
                depth=self.bridge_depth,
                num_heads=self.bridge_heads,
                positions=self.bridge_positions,
                conditioned=self.bridge_conditioned,
                remat=self.remat,
                parent=None,
            ),
            parent=None,
        )


class ResidualFVQ(FVQ, ResidualVQGAN):
    """FVQ with several codewords per position, all from one bridged table."""


class MultiScaleFVQ(FVQ, MultiScaleVQGAN):
    """FVQ with a grid of codewords per scale, all from one bridged table."""

    codebook_dim: int = 32
