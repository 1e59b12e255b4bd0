"""Weight conversion between MaskGIT's VQGAN, in the PyTorch layout of MAGE and ADDP, and `MaskGITVQGAN`."""

import re
from collections.abc import Mapping
from typing import Any

from vistok.tokenizers.convert.llamagen import affine, decoder_end, find_numbers, norm, read_shape
from vistok.tokenizers.convert.taming import levels_of
from vistok.tokenizers.maskgit_vqgan import MaskGITVQGAN
from vistok.weights.rules import CONV, POINTWISE, ConversionError, Rule, StateDict

PREFIX = 'vqgan.'
"""Of the tokenizer's entries in the files of MAGE and ADDP."""


def normalize_names(state_dict: StateDict) -> StateDict:
    """Selects the tokenizer's own entries, also from a file of a generator that holds them."""
    inside = {name.removeprefix(PREFIX): x for name, x in state_dict.items() if name.startswith(PREFIX)}
    return inside or dict(state_dict)


def rules(levels: int) -> tuple[Rule, ...]:
    """Returns the pairs of names.  The official decoder counts its levels from fine to coarse, ours along the data."""
    pairs: list[Rule] = [Rule('encoder.conv_in.weight', 'params/encoder/conv_in/kernel', CONV)]
    for part in ('encoder', 'decoder'):
        pairs += [rule for i in range(2) for rule in _block(f'{part}.mid.block_{i + 1}', f'{part}/mid_{i}')]
    for level in range(levels):
        coarse = levels - 1 - level
        pairs += [
            *_block(f'encoder.down.{level}.block.{{i}}', f'encoder/level_{level}_res_{{i}}'),
            *_block(f'decoder.up.{coarse}.block.{{i}}', f'decoder/level_{level}_res_{{i}}'),
            *affine(f'decoder.up.{coarse}.upsample.conv', f'decoder/level_{level}_upsample', CONV),
        ]
    return (
        *pairs,
        *norm('encoder.norm_out', 'encoder/norm_out'),
        *affine('encoder.conv_out', 'encoder/conv_out', POINTWISE),
        *affine('decoder.conv_in', 'decoder/conv_in', CONV),
        *decoder_end(),
        Rule('quantize.embedding.weight', 'params/quantizer/codebook/codewords'),
    )


def _block(source: str, target: str) -> tuple[Rule, ...]:
    return (
        *norm(f'{source}.{{norm:norm1|norm2}}', f'{target}/{{norm:norm1|norm2}}'),
        Rule(f'{source}.{{conv:conv1|conv2}}.weight', f'params/{target}/{{conv:conv1|conv2}}/kernel', CONV),
        Rule(f'{source}.nin_shortcut.weight', f'params/{target}/shortcut/kernel', POINTWISE),
    )


def levels_of_ours(variables: Mapping[str, Any]) -> int:
    """Counts the levels in our variables."""
    levels = {match.group(1) for name in variables['params']['encoder'] if (match := re.match(r'level_(\d+)_', name))}
    return len(levels)


def model(state_dict: StateDict) -> MaskGITVQGAN:
    """Builds a module with the sizes of the given weights."""
    channels = read_shape(state_dict, 'encoder.conv_in.weight', 4)[0]
    if channels < 128:
        raise ConversionError(
            f'the first layer has {channels} channels; official norms have 32 groups, ours from 128 on'
        )
    widths = [
        read_shape(state_dict, f'encoder.down.{i}.block.0.conv1.weight', 4)[0] for i in range(levels_of(state_dict))
    ]
    codebook_size, codebook_dim = read_shape(state_dict, 'quantize.embedding.weight', 2)
    return MaskGITVQGAN(
        channels=channels,
        channel_multipliers=tuple(width // channels for width in widths),
        res_blocks=len(find_numbers(state_dict, r'encoder\.down\.0\.block\.(\d+)\.')),
        codebook_size=codebook_size,
        codebook_dim=codebook_dim,
    )
