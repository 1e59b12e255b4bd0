"""Weight conversion between official VQGAN-LC (f16, f8; taming's networks, a table, its projector) and `VQGANLC`."""

from collections.abc import Mapping
from typing import Any

from vistok.tokenizers.convert import taming
from vistok.tokenizers.convert.llamagen import affine, network_sizes
from vistok.tokenizers.vqgan_lc import VQGANLC
from vistok.weights.official import read_shape
from vistok.weights.rules import LINEAR, ConversionError, Rule, StateDict

IGNORED = ('discriminator.*', 'perceptual_loss.*')  # the other networks of the training run

_TABLE = 'tok_embeddings.weight'
_PROJECTOR = 'codebook_projection'
_ONLY_Z_NORMALIZED = 768  # at this width the official code scales z, and not the codewords, to unit norm


def rules(levels: int, table: str = 'frozen') -> tuple[Rule, ...]:
    """Returns the pairs of names.

    Args:
      levels: number of levels of the networks.
      table: collection that holds the table, 'frozen' or 'params'.
    """
    return (
        *taming.rules(levels),
        Rule(_TABLE, f'{table}/quantizer/codebook/table/codewords'),
        *affine(_PROJECTOR, 'quantizer/codebook/projector/dense_0', LINEAR),
        *affine(f'{_PROJECTOR}.0', 'quantizer/codebook/projector/dense_0', LINEAR),
        *affine(f'{_PROJECTOR}.2', 'quantizer/codebook/projector/dense_1', LINEAR),
    )


def rules_of_ours(variables: Mapping[str, Any]) -> tuple[Rule, ...]:
    """Returns the rules for our variables."""
    codebook = variables['params'].get('quantizer', {}).get('codebook', {})
    other = _PROJECTOR if 'dense_1' in codebook.get('projector', {}) else f'{_PROJECTOR}.0'
    pairs = rules(taming.levels_of_ours(variables), 'params' if 'table' in codebook else 'frozen')
    return tuple(rule for rule in pairs if rule.source not in (f'{other}.weight', f'{other}.bias'))


def model(state_dict: StateDict) -> VQGANLC:
    """Builds a module with the sizes of the given weights."""
    codebook_size, table_width = read_shape(state_dict, _TABLE, 2)
    codebook_dim, latent_channels, _, _ = read_shape(state_dict, 'quant_conv.weight', 4)
    if codebook_dim == _ONLY_Z_NORMALIZED:
        raise ConversionError(
            f'codewords of width {codebook_dim} are compared with vectors of unit norm by the official code; ours '
            'scales both or neither'
        )
    if f'{_PROJECTOR}.weight' in state_dict:
        projector = 'linear'
    else:
        projector = 'mlp' if f'{_PROJECTOR}.0.weight' in state_dict else 'none'
    return VQGANLC(
        **network_sizes(state_dict, 'encoder.down', 'block'),
        latent_channels=latent_channels,
        codebook_size=codebook_size,
        codebook_dim=codebook_dim,
        table_width=table_width,
        projector=projector,
    )
