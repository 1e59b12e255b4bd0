"""Weight conversion of FVQ: as released (a plain codebook) and as trained (a table and its bridge).

The layout as released is LlamaGen's, with codewords that are not scaled to unit norm; it makes a plain VQGAN.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any

from vistok.tokenizers.convert import llamagen
from vistok.tokenizers.convert.llamagen import affine
from vistok.tokenizers.fvq import FVQ
from vistok.tokenizers.vqgan import VQGAN
from vistok.weights.official import find_numbers, read_shape
from vistok.weights.rules import CONV, LINEAR, ConversionError, Rule, StateDict

IGNORED = llamagen.IGNORED

_TABLE = 'quantize.embedding.weight'
_BRIDGE = 'quantize.qbridge'
_NARROWEST_CODEWORD = 32  # channels; FVQ's have 256, LlamaGen's 8


def rules(bridged: bool) -> tuple[Rule, ...]:
    """Returns the pairs of names, for every size.

    Args:
      bridged: whether the weights hold a bridge, of either kind.
    """
    if not bridged:
        return llamagen.rules()
    ours = 'quantizer/codebook/bridge'
    block, our_block = f'{_BRIDGE}.blocks.{{i}}', f'{ours}/block_{{i}}'
    return (
        *(rule for rule in llamagen.rules() if rule.source != _TABLE),
        Rule(_TABLE, 'params/quantizer/codebook/table/codewords'),
        *affine(f'{_BRIDGE}.x_embedder.proj', f'{ours}/compress', CONV),
        Rule(f'{_BRIDGE}.pos_embed', f'frozen/{ours}/positions'),
        Rule(f'{_BRIDGE}.y_embedder.embedding_table.weight', f'params/{ours}/condition'),
        *affine(f'{block}.attn.qkv', f'{our_block}/attention/qkv', LINEAR),
        *affine(f'{block}.attn.proj', f'{our_block}/attention/out', LINEAR),
        *affine(f'{block}.mlp.fc1', f'{our_block}/mlp_in', LINEAR),
        *affine(f'{block}.mlp.fc2', f'{our_block}/mlp_out', LINEAR),
        *affine(f'{block}.adaLN_modulation.1', f'{our_block}/modulation/dense', LINEAR),
        *affine(f'{_BRIDGE}.final_layer.adaLN_modulation.1', f'{ours}/modulation_out/dense', LINEAR),
        *affine(f'{_BRIDGE}.final_layer.linear', f'{ours}/recover', LINEAR),
    )


def is_bridged(state_dict: Collection[str]) -> bool:
    """Checks whether official weights hold a bridge."""
    return any(name.startswith(f'{_BRIDGE}.') for name in state_dict)


def is_bridged_of_ours(variables: Mapping[str, Any]) -> bool:
    """Checks whether our variables hold a bridge."""
    return 'bridge' in variables['params']['quantizer']['codebook']


def model(state_dict: StateDict) -> VQGAN:
    """Builds a module of the given sizes: an FVQ, or a VQGAN where the codebook holds the output of the bridge.

    The number of attention heads of a bridge does not show in the shapes; it is the published 4.
    """
    codebook_size, codebook_dim = read_shape(state_dict, _TABLE, 2)
    sizes: dict[str, Any] = {
        **llamagen.network_sizes(state_dict, 'encoder.conv_blocks', 'res'),
        'latent_channels': read_shape(state_dict, 'quant_conv.weight', 4)[1],
        'codebook_size': codebook_size,
        'codebook_dim': codebook_dim,
        'normalize': False,
    }
    if not is_bridged(state_dict):
        if codebook_dim < _NARROWEST_CODEWORD:
            raise ConversionError(
                f"these are weights of another model: codewords of {codebook_dim} channels are LlamaGen's, which are "
                f'scaled to unit norm; those of FVQ are not, and have at least {_NARROWEST_CODEWORD}'
            )
        return VQGAN(**sizes)
    width, _, patch, _ = read_shape(state_dict, f'{_BRIDGE}.x_embedder.proj.weight', 4)
    return FVQ(
        **sizes,
        bridge_patch=patch,
        bridge_width=width,
        bridge_depth=len(find_numbers(state_dict, rf'{re.escape(_BRIDGE)}\.blocks\.(\d+)\.')),
        bridge_positions=f'{_BRIDGE}.pos_embed' in state_dict,
        bridge_conditioned=f'{_BRIDGE}.y_embedder.embedding_table.weight' in state_dict,
    )
