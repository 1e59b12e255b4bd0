"""Weight conversion between LlamaGen tokenizers (VQ-16, VQ-8) and `VQGAN`; rules that other models share."""

import re
from typing import Any

from vistok.tokenizers.vqgan import VQGAN
from vistok.weights.official import find_numbers, read_shape
from vistok.weights.rules import CONV, POINTWISE, ConversionError, Rule, StateDict, Transform

_NARROWEST = 128  # channels; all published models have at least these

IGNORED = ('quantize.codebook_used',)  # a history of usage, not a weight


def affine(source: str, target: str, transform: Transform) -> tuple[Rule, Rule]:
    """Returns the rules of weight and bias of a layer."""
    return (
        Rule(f'{source}.weight', f'params/{target}/kernel', transform),
        Rule(f'{source}.bias', f'params/{target}/bias'),
    )


def norm(source: str, target: str) -> tuple[Rule, Rule]:
    """Returns the rules of scale and bias of a group or layer norm."""
    return (Rule(f'{source}.weight', f'params/{target}/scale'), Rule(f'{source}.bias', f'params/{target}/bias'))


def res_block(source: str, target: str) -> tuple[Rule, ...]:
    """Returns the rules of a residual block."""
    return (
        *norm(f'{source}.{{norm:norm1|norm2}}', f'{target}/{{norm:norm1|norm2}}'),
        *affine(f'{source}.{{conv:conv1|conv2}}', f'{target}/{{conv:conv1|conv2}}', CONV),
        *affine(f'{source}.nin_shortcut', f'{target}/shortcut', POINTWISE),
    )


def attention_block(source: str, target: str) -> tuple[Rule, ...]:
    """Returns the rules of an attention block."""
    return (
        *norm(f'{source}.norm', f'{target}/norm'),
        *affine(f'{source}.{{part:q|k|v}}', f'{target}/{{part:q|k|v}}', POINTWISE),
        *affine(f'{source}.proj_out', f'{target}/out', POINTWISE),
    )


def network(source: str, target: str) -> tuple[Rule, ...]:
    """Returns the rules of an encoder's trunk or of a decoder."""
    level = f'{source}.conv_blocks.{{level}}'
    ours = f'{target}/level_{{level}}'
    return (
        *affine(f'{source}.conv_in', f'{target}/conv_in', CONV),
        *res_block(f'{level}.res.{{i}}', f'{ours}_res_{{i}}'),
        *attention_block(f'{level}.attn.{{i}}', f'{ours}_attention_{{i}}'),
        *affine(f'{level}.{{move:downsample|upsample}}.conv', f'{ours}_{{move:downsample|upsample}}', CONV),
        *res_block(f'{source}.mid.0', f'{target}/mid/res_0'),
        *attention_block(f'{source}.mid.1', f'{target}/mid/attention'),
        *res_block(f'{source}.mid.2', f'{target}/mid/res_1'),
    )


def decoder_end(source: str = 'decoder', target: str = 'decoder') -> tuple[Rule, ...]:
    """Returns the rules of the layers that compute the pixels."""
    return (
        *norm(f'{source}.norm_out', f'{target}/norm_out'),
        *affine(f'{source}.conv_out', f'{target}/conv_out', CONV),
    )


def quantizer() -> tuple[Rule, ...]:
    """Returns the rules of the codebook and of the projections around it."""
    return (
        Rule('quantize.embedding.weight', 'params/quantizer/codebook/codewords'),
        *affine('quant_conv', 'quant_conv', POINTWISE),
        *affine('post_quant_conv', 'post_quant_conv', POINTWISE),
    )


def rules() -> tuple[Rule, ...]:
    """Returns the pairs of names; the same for every size."""
    return (
        *network('encoder', 'encoder/trunk'),
        *norm('encoder.norm_out', 'encoder/head/norm'),
        *affine('encoder.conv_out', 'encoder/head/conv', CONV),
        *network('decoder', 'decoder'),
        *decoder_end(),
        *quantizer(),
    )


def network_sizes(state_dict: StateDict, level: str, block: str) -> dict[str, Any]:
    """Reads widths, levels and blocks of an encoder trunk from the shapes of its weights.

    Args:
      state_dict: official entries.
      level: name of a level up to its number ('encoder.conv_blocks').
      block: name of the list of residual blocks in a level ('res').
    """
    channels = read_shape(state_dict, 'encoder.conv_in.weight', 4)[0]
    first = f'{level}.0.{block}.0.conv1.weight'
    prefix = re.escape(level)
    levels = find_numbers(state_dict, rf'{prefix}\.(\d+)\.') if read_shape(state_dict, first, 4) else []
    blocks = find_numbers(state_dict, rf'{prefix}\.0\.{block}\.(\d+)\.')
    attended = find_numbers(state_dict, rf'{prefix}\.(\d+)\.attn\.0\.')
    widths = [read_shape(state_dict, f'{level}.{i}.{block}.0.conv1.weight', 4)[0] for i in levels]
    if min(channels, *widths) < _NARROWEST:
        raise ConversionError(
            f'a layer has {min(channels, *widths)} channels: official norms have 32 groups at any width, ours from '
            f'{_NARROWEST} channels on'
        )
    return {
        'channels': channels,
        'channel_multipliers': tuple(width // channels for width in widths),
        'res_blocks': len(blocks),
        'attention_levels': None if attended == [len(levels) - 1] else tuple(attended),
    }


def model(state_dict: StateDict) -> VQGAN:
    """Builds a module with the sizes of the given weights."""
    codebook_size, codebook_dim = read_shape(state_dict, 'quantize.embedding.weight', 2)
    return VQGAN(
        **network_sizes(state_dict, 'encoder.conv_blocks', 'res'),
        latent_channels=read_shape(state_dict, 'quant_conv.weight', 4)[1],
        codebook_size=codebook_size,
        codebook_dim=codebook_dim,
    )
