"""Weight conversion between official DQ-VAE (dual and triple, feature and entropy router) and `DQVAE`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vistok.tokenizers.convert.llamagen import affine, attention_block, decoder_end, network_sizes, norm, res_block
from vistok.tokenizers.dq_vae import DQVAE, PRESETS
from vistok.weights.official import find_numbers, read_shape
from vistok.weights.rules import CONV, LINEAR, POINTWISE, Rule, StateDict, Transform

IGNORED = ('loss.*',)  # the frozen networks and the discriminator of the training run

_BRANCHES = {2: ('coarse', 'fine'), 3: ('coarse', 'median', 'fine')}
_RELEASED_THRESHOLD = 1.6777750253677368  # median over ImageNet that the released model was trained with
_THRESHOLDS, _BIN_RANGE = 'encoder.router.thresholds', 'encoder.router.bin_range'
_WITHOUT_PADDING = Transform(lambda x: x[:-1], lambda x: np.concatenate([x, np.zeros_like(x[:1])]))


def grain_encoder(suffixes: Sequence[str]) -> tuple[Rule, ...]:
    """Returns the rules of trunk and branches, by the endings of their official names, from coarse to fine."""
    pairs: list[Rule] = [
        *affine('encoder.conv_in', 'encoder/conv_in', CONV),
        *res_block('encoder.down.{level}.block.{i}', 'encoder/level_{level}_res_{i}'),
        *attention_block('encoder.down.{level}.attn.{i}', 'encoder/level_{level}_attention_{i}'),
        *affine('encoder.down.{level}.downsample.conv', 'encoder/level_{level}_downsample', CONV),
    ]
    for i, suffix in enumerate(suffixes):
        branch = f'encoder/branch_{2 ** (len(suffixes) - 1 - i)}'
        pairs += [
            *res_block(f'encoder.mid{suffix}.block_1', f'{branch}/mid/res_0'),
            *attention_block(f'encoder.mid{suffix}.attn_1', f'{branch}/mid/attention'),
            *res_block(f'encoder.mid{suffix}.block_2', f'{branch}/mid/res_1'),
            *norm(f'encoder.norm_out{suffix}', f'{branch}/head/norm'),
            *affine(f'encoder.conv_out{suffix}', f'{branch}/head/conv', CONV),
        ]
    return tuple(pairs)


def rules(levels: int, grains: int) -> tuple[Rule, ...]:
    """Returns the pairs of names.  The official decoder counts its levels from fine to coarse, ours along the data."""
    names, top = _BRANCHES[grains], levels - grains
    pairs: list[Rule] = []
    for i, name in enumerate(names):
        pairs += norm(f'encoder.router.feature_norm_{name}', f'gate/norm_{i}')
    for level in range(top + 1):
        official, ours = f'decoder.up.{top - level}', f'decoder/level_{level}'
        pairs += [
            *res_block(f'{official}.block.{{i}}', f'{ours}_res_{{i}}'),
            *attention_block(f'{official}.attn.{{i}}', f'{ours}_attention_{{i}}'),
            *affine(f'{official}.upsample.conv', f'{ours}_upsample', CONV),
        ]
    return (
        *grain_encoder([f'_{name}' for name in names]),
        *pairs,
        *affine('encoder.router.gate.0', 'gate/dense1', LINEAR),
        *affine('encoder.router.gate.2', 'gate/dense2', LINEAR),
        Rule(_THRESHOLDS, 'frozen/density/thresholds'),
        Rule(_BIN_RANGE, 'frozen/density/bin_range'),
        *affine('quant_conv', 'quant_conv', POINTWISE),
        *affine('post_quant_conv', 'post_quant_conv', POINTWISE),
        # The last official row is the padding of sequences, which no vector is compared with.
        Rule('quantize.codebook.weight', 'codebook_stats/quantizer/codebook/codewords', _WITHOUT_PADDING),
        Rule('quantize.codebook.cluster_size_ema', 'codebook_stats/quantizer/codebook/counts'),
        Rule('quantize.codebook.embed_ema', 'codebook_stats/quantizer/codebook/sums'),
        *affine('decoder.position_bias_fourier.lff.ffm.conv', 'positions/frequencies', POINTWISE),
        Rule('decoder.position_bias_learned.row_embed.weight', 'params/positions/row_vectors'),
        Rule('decoder.position_bias_learned.col_embed.weight', 'params/positions/column_vectors'),
        *affine('decoder.conv_in', 'decoder/conv_in', CONV),
        *res_block('decoder.mid.block_1', 'decoder/mid/res_0'),
        *attention_block('decoder.mid.attn_1', 'decoder/mid/attention'),
        *res_block('decoder.mid.block_2', 'decoder/mid/res_1'),
        *decoder_end(),
    )


def import_rules(state_dict: StateDict) -> tuple[Rule, ...]:
    """Returns the rules for official weights."""
    return rules(len(find_numbers(state_dict, r'encoder\.down\.(\d+)\.')), _grains(state_dict))


def export_rules(variables: Mapping[str, Any]) -> tuple[Rule, ...]:
    """Returns the rules for our variables."""
    parts = variables['params']['encoder']
    levels = 1 + sum(name.endswith('_downsample') for name in parts)
    return rules(levels, sum(name.startswith('branch_') for name in parts))


def defaults(module: DQVAE) -> dict[str, np.ndarray]:
    """Returns the thresholds of an entropy router and the range of its bins, which official weights lack."""
    if module.router != 'entropy':
        return {}
    return {
        _THRESHOLDS: np.asarray(module.entropy_thresholds, np.float32),
        _BIN_RANGE: np.asarray(module.entropy_range, np.float32),
    }


def model(state_dict: StateDict) -> DQVAE:
    """Builds a module with the sizes and the router of the given weights."""
    read_shape(state_dict, 'encoder.conv_out_coarse.weight', 4)
    grains = _grains(state_dict)
    sizes = network_sizes(state_dict, 'encoder.down', 'block')
    levels = len(sizes['channel_multipliers'])
    if sizes['attention_levels'] is None:
        sizes['attention_levels'] = (levels - 1,)
    rows, codebook_dim = read_shape(state_dict, 'quantize.codebook.weight', 2)
    learned = 'encoder.router.gate.0.weight' in state_dict
    count = np.size(state_dict[_THRESHOLDS]) if _THRESHOLDS in state_dict else 1
    return DQVAE(
        **PRESETS['dual' if grains == 2 else 'triple']
        | sizes
        | {
            'latent_channels': read_shape(state_dict, 'quant_conv.weight', 4)[1],
            'codebook_size': rows - 1,
            'codebook_dim': codebook_dim,
            'router': 'feature' if learned else 'entropy',
            'entropy_thresholds': () if learned else (_RELEASED_THRESHOLD,) * count,
            'image_size': read_shape(state_dict, 'decoder.position_bias_learned.row_embed.weight', 2)[0]
            * 2 ** (levels - grains),
        }
    )


def _grains(state_dict: StateDict) -> int:
    return 3 if 'encoder.conv_out_median.weight' in state_dict else 2
