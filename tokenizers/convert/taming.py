"""Weight conversion between the VQGANs of taming-transformers (f16, f8; 1024, 16384 or 256 codewords) and `VQGAN`."""

from collections.abc import Mapping
from typing import Any

from vistok.tokenizers.convert.llamagen import (
    affine,
    attention_block,
    decoder_end,
    network_sizes,
    norm,
    quantizer,
    res_block,
)
from vistok.tokenizers.vqgan import PRESETS, VQGAN
from vistok.weights.official import find_numbers, read_shape
from vistok.weights.rules import CONV, Rule, StateDict

IGNORED = ('loss.*',)  # the frozen networks and the discriminator of the training run


def rules(levels: int) -> tuple[Rule, ...]:
    """Returns the pairs of names.  The official decoder counts its levels from fine to coarse, ours along the data."""
    pairs: list[Rule] = []
    for ours, source in (('encoder/trunk', 'encoder'), ('decoder', 'decoder')):
        pairs += [
            *affine(f'{source}.conv_in', f'{ours}/conv_in', CONV),
            *res_block(f'{source}.mid.block_1', f'{ours}/mid/res_0'),
            *attention_block(f'{source}.mid.attn_1', f'{ours}/mid/attention'),
            *res_block(f'{source}.mid.block_2', f'{ours}/mid/res_1'),
        ]
    for level in range(levels):
        for official, ours, move in (
            (f'encoder.down.{level}', f'encoder/trunk/level_{level}', 'downsample'),
            (f'decoder.up.{levels - 1 - level}', f'decoder/level_{level}', 'upsample'),
        ):
            pairs += [
                *res_block(f'{official}.block.{{i}}', f'{ours}_res_{{i}}'),
                *attention_block(f'{official}.attn.{{i}}', f'{ours}_attention_{{i}}'),
                *affine(f'{official}.{move}.conv', f'{ours}_{move}', CONV),
            ]
    return (
        *pairs,
        *norm('encoder.norm_out', 'encoder/head/norm'),
        *affine('encoder.conv_out', 'encoder/head/conv', CONV),
        *decoder_end(),
        *quantizer(),
    )


def levels_of(state_dict: StateDict) -> int:
    """Counts the levels in official weights."""
    return len(find_numbers(state_dict, r'encoder\.down\.(\d+)\.'))


def levels_of_ours(variables: Mapping[str, Any]) -> int:
    """Counts the levels in our variables."""
    return 1 + sum(name.endswith('_downsample') for name in variables['params']['encoder']['trunk'])


def model(state_dict: StateDict) -> VQGAN:
    """Builds a module with the sizes of the given weights."""
    codebook_size, codebook_dim = read_shape(state_dict, 'quantize.embedding.weight', 2)
    return VQGAN(
        **PRESETS['taming_f16']
        | network_sizes(state_dict, 'encoder.down', 'block')
        | {
            'latent_channels': read_shape(state_dict, 'quant_conv.weight', 4)[1],
            'codebook_size': codebook_size,
            'codebook_dim': codebook_dim,
        }
    )
