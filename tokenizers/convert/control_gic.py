"""Weight conversion between official Control-GIC and `ControlGIC`."""

from collections.abc import Mapping
from typing import Any

from vistok.tokenizers.control_gic import ControlGIC
from vistok.tokenizers.convert.dq_vae import grain_encoder
from vistok.tokenizers.convert.llamagen import affine, network_sizes, norm, quantizer
from vistok.weights.official import find_numbers, read_shape
from vistok.weights.rules import CONV, POINTWISE, Rule, StateDict

# Frozen networks and discriminator, moving averages that inference does not use, and how often each codeword occurred.
IGNORED = ('loss.*', 'ema_*', 'quantize.embedding_counter.*')

_SUFFIXES = ('_coarse', '', '_fine')


def rules(levels: int) -> tuple[Rule, ...]:
    """Returns the pairs of names.  The official decoder counts its levels from fine to coarse, ours along the data."""
    pairs: list[Rule] = []
    for side, suffix in zip((4, 2, 1), _SUFFIXES, strict=True):
        pairs += [
            *affine(f'decoder.conv_in{suffix}', f'decoder/stem_{side}_conv_in', CONV),
            *_res_block(f'decoder.mid{suffix}.block_1', f'decoder/stem_{side}_mid/res_0'),
            *_attention_block(f'decoder.mid{suffix}.attn_1', f'decoder/stem_{side}_mid/attention'),
            *_res_block(f'decoder.mid{suffix}.block_2', f'decoder/stem_{side}_mid/res_1'),
        ]
    for level in range(levels):
        official, ours = f'decoder.up.{levels - 1 - level}', f'decoder/level_{level}'
        pairs += [
            *_res_block(f'{official}.block.{{i}}', f'{ours}_res_{{i}}'),
            *_attention_block(f'{official}.attn.{{i}}', f'{ours}_attention_{{i}}'),
            *affine(f'{official}.upsample.conv', f'{ours}_upsample', CONV),
        ]
    return (
        *grain_encoder(_SUFFIXES),
        *pairs,
        *_spatial_norm('decoder.norm_out', 'decoder/norm_out'),
        *affine('decoder.conv_out', 'decoder/conv_out', CONV),
        *quantizer(),
    )


def import_rules(state_dict: StateDict) -> tuple[Rule, ...]:
    """Returns the rules for official weights."""
    return rules(len(find_numbers(state_dict, r'encoder\.down\.(\d+)\.')))


def export_rules(variables: Mapping[str, Any]) -> tuple[Rule, ...]:
    """Returns the rules for our variables."""
    return rules(1 + sum(name.endswith('_downsample') for name in variables['params']['encoder']))


def model(state_dict: StateDict) -> ControlGIC:
    """Builds a module with the sizes of the given weights, in the range of the official inference."""
    read_shape(state_dict, 'encoder.conv_out_fine.weight', 4)
    sizes = network_sizes(state_dict, 'encoder.down', 'block')
    if sizes['attention_levels'] is None:
        sizes['attention_levels'] = (len(sizes['channel_multipliers']) - 1,)
    codebook_size, codebook_dim = read_shape(state_dict, 'quantize.embedding.weight', 2)
    return ControlGIC(
        **sizes,
        latent_channels=read_shape(state_dict, 'quant_conv.weight', 4)[1],
        codebook_size=codebook_size,
        codebook_dim=codebook_dim,
        unit_range=True,
    )


def _spatial_norm(source: str, target: str) -> tuple[Rule, ...]:
    """Returns the rules of a norm modulated by codewords."""
    return (
        *norm(f'{source}.norm_layer', f'{target}/norm'),
        *affine(f'{source}.conv_y', f'{target}/factor', POINTWISE),
        *affine(f'{source}.conv_b', f'{target}/offset', POINTWISE),
    )


def _res_block(source: str, target: str) -> tuple[Rule, ...]:
    return (
        *_spatial_norm(f'{source}.{{norm:norm1|norm2}}', f'{target}/{{norm:norm1|norm2}}'),
        *affine(f'{source}.{{conv:conv1|conv2}}', f'{target}/{{conv:conv1|conv2}}', CONV),
        *affine(f'{source}.nin_shortcut', f'{target}/shortcut', POINTWISE),
    )


def _attention_block(source: str, target: str) -> tuple[Rule, ...]:
    return (
        *_spatial_norm(f'{source}.norm', f'{target}/norm'),
        *affine(f'{source}.{{part:q|k|v}}', f'{target}/{{part:q|k|v}}', POINTWISE),
        *affine(f'{source}.proj_out', f'{target}/out', POINTWISE),
    )
