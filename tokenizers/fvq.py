"""FVQ: VQGAN whose codewords are made by a bridge, so that all of them stay in use however many there are.

Chang et al., "Scalable Training for Vector-Quantized Networks with 100% Codebook Utilization" (2025).  After training
the bridge is baked into a plain codebook (`tokenizers/materialize.py`).
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from tesserax.tokenizers.quantizers.bridge import BridgedCodebook, VQBridge
from tesserax.tokenizers.quantizers.codebook import LearnedCodebook
from tesserax.tokenizers.quantizers.multiscale import MultiScaleQuantizer
from tesserax.tokenizers.quantizers.residual import ResidualQuantizer
from tesserax.tokenizers.tokenizer import Tokens, TokenSpec
from tesserax.tokenizers.vqgan import VQGAN

PRESETS: dict[str, dict[str, Any]] = {
    '16384': {'codebook_size': 16_384, 'bridge_patch': 4},
    '65536': {'codebook_size': 65_536, 'bridge_patch': 8},
    '262144': {'codebook_size': 262_144, 'bridge_patch': 8},
}
"""Arguments of the published models, over the defaults below; `bridge_positions` and `bridge_conditioned` for "DiT"."""


class FVQ(VQGAN):
    """VQGAN with a bridged codebook.  Its arguments are VQGAN's, with other defaults, and those of the bridge.

    At initialisation all codewords are zero and every vector gets the first one; they part in the first steps.

    Attributes:
      bridge_patch: side of the bridge's patches, in codewords; `codebook_size` must be a multiple of its square.
      bridge_width: width of the bridge's transformer.
      bridge_depth: its blocks.
      bridge_heads: its attention heads.
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

    def make_codebook(self) -> nn.Module:
        """A table and its bridge."""
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


class ResidualFVQ(FVQ):
    """FVQ with several codewords per position, all from one bridged table; each is a sub-codebook of the tokens.

    Attributes:
      depth: codewords per position.
    """

    depth: int = 4

    def make_quantizer(self) -> nn.Module:
        """A residual quantizer; losses 'codebook' and 'commitment'."""
        _only_what_sums_of_codewords_have(self)
        return ResidualQuantizer(
            codebook=self.make_codebook(),
            depth=self.depth,
            codebook_weight=self.codebook_weight,
            commitment_weight=self.commitment_weight,
        )

    @property
    def spec(self) -> TokenSpec:
        """The same codebook at each depth."""
        names = tuple(f'depth_{i}' for i in range(self.depth))
        return TokenSpec((self.codebook_size,) * self.depth, self.downsample_factor, names)

    def embed(self, tokens: Tokens) -> Float[Array, 'b h w d']:
        """Sums of the codewords of `tokens`."""
        return self.quantizer.embed(jnp.asarray(tokens.ids))


class MultiScaleFVQ(FVQ):
    """FVQ with a grid of codewords per scale, all from one bridged table; each scale is a sub-codebook of the tokens.

    Token grids are dense: the id of a coarse cell is repeated over the positions it covers.

    Attributes:
      scales: sides of the grids for pictures of `scales[-1] * downsample_factor` pixels; others have grids in
        proportion.
    """

    codebook_dim: int = 32
    scales: Sequence[int] = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)

    def make_quantizer(self) -> nn.Module:
        """A multi-scale quantizer; losses 'codebook' and 'commitment'."""
        _only_what_sums_of_codewords_have(self)
        return MultiScaleQuantizer(
            codebook=self.make_codebook(),
            dim=self.codebook_dim,
            scales=self.scales,
            codebook_weight=self.codebook_weight,
            commitment_weight=self.commitment_weight,
        )

    @property
    def spec(self) -> TokenSpec:
        """The same codebook at each scale."""
        names = tuple(f'scale_{scale}' for scale in self.scales)
        return TokenSpec((self.codebook_size,) * len(self.scales), self.downsample_factor, names)

    def embed(self, tokens: Tokens) -> Float[Array, 'b h w d']:
        """Sums over scales of the enlarged codewords of `tokens`."""
        return self.quantizer.embed(jnp.asarray(tokens.ids))


def _only_what_sums_of_codewords_have(tokenizer: FVQ) -> None:
    if tokenizer.normalize or tokenizer.entropy_weight:
        raise ValueError(
            f'sums of codewords have neither unit norm nor an entropy loss, got normalize={tokenizer.normalize} and '
            f'entropy_weight={tokenizer.entropy_weight}'
        )
