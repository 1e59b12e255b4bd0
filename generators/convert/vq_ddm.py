"""Conversion of official VQ-DDM weights (U-Net and diffusion statistics) to `VQDDM`, and back."""

import numpy as np

from vistok.generators.diffusion.vq_ddm import VQDDM
from vistok.tokenizers.tokenizer import TokenSpec
from vistok.weights.official import find_numbers, read_shape
from vistok.weights.rules import CONV, LINEAR, POINTWISE, ConversionError, Rule, StateDict, Transform

IGNORED = (
    '_denoising._denoise_fn.*',  # the network a second time
    '_denoising._nn.*',
    '_denoising.log_*',  # the schedule
)
_STATISTICS = {'_denoising.Lt_history': 'mean_square', '_denoising.Lt_count': 'visits'}
_TIMESTEPS = 4000
# A transposed convolution of PyTorch is the gradient of a convolution: its kernel is turned around.
_CONV_TRANSPOSE = Transform(
    lambda x: x.transpose(2, 3, 0, 1)[::-1, ::-1], lambda x: x[::-1, ::-1].transpose(2, 3, 0, 1)
)


def _affine(source: str, target: str, transform: Transform) -> tuple[Rule, Rule]:
    return (
        Rule(f'{source}.weight', f'params/{target}/kernel', transform),
        Rule(f'{source}.bias', f'params/{target}/bias'),
    )


def _conv_block(source: str, target: str) -> tuple[Rule, ...]:
    return (
        *_affine(f'{source}.block.0', f'{target}/conv', CONV),
        Rule(f'{source}.block.1.weight', f'params/{target}/norm/scale'),
        Rule(f'{source}.block.1.bias', f'params/{target}/norm/bias'),
    )


def _res_block(source: str, target: str) -> tuple[Rule, ...]:
    return (
        *_affine(f'{source}.mlp.1', f'{target}/condition', LINEAR),
        *_conv_block(f'{source}.{{part:block1|block2}}', f'{target}/{{part:block1|block2}}'),
        *_affine(f'{source}.res_conv', f'{target}/shortcut', POINTWISE),
    )


def _attention(source: str, target: str) -> tuple[Rule, ...]:
    return (
        Rule(f'{source}.fn.g', f'params/{target}/gate'),
        Rule(f'{source}.fn.fn.to_qkv.weight', f'params/{target}/qkv/kernel', POINTWISE),
        *_affine(f'{source}.fn.fn.to_out', f'{target}/out', POINTWISE),
    )


def rules() -> tuple[Rule, ...]:
    """Creates the conversion rules, which are the same for every size."""
    levels: list[Rule] = []
    for way, official, move, kind in (
        ('down', 'downs', 'downsample', CONV),
        ('up', 'ups', 'upsample', _CONV_TRANSPOSE),
    ):
        level, ours = f'_nn.{official}.{{level}}', f'{way}_{{level}}'
        for i in (0, 1):
            levels += _res_block(f'{level}.{i}', f'{ours}_res_{i}')
        levels += _attention(f'{level}.2', f'{ours}_attention')
        levels += _affine(f'{level}.3.conv', f'{ours}_{move}', kind)
    return (
        Rule('_nn.embedding.weight', 'params/embedding/table_0/embedding'),
        *_affine('_nn.mlp.0', 'condition/hidden', LINEAR),
        *_affine('_nn.mlp.2', 'condition/out', LINEAR),
        *levels,
        *_res_block('_nn.{middle:mid_block1|mid_block2}', '{middle:mid_block1|mid_block2}'),
        *_attention('_nn.mid_attn', 'mid_attention'),
        *_conv_block('_nn.final_conv.0', 'head'),
        *_affine('_nn.final_conv.1', 'logits', POINTWISE),
        *(Rule(source, f'diffusion_stats/{name}') for source, name in _STATISTICS.items()),
    )


def model(state_dict: StateDict) -> VQDDM:
    """Creates the generator with the sizes of the given weights: unconditional, on the grid of the paper."""
    codebook_size, channels = read_shape(state_dict, '_nn.embedding.weight', 2)
    levels = find_numbers(state_dict, r'_nn\.downs\.(\d+)\.')
    widths = [read_shape(state_dict, f'_nn.downs.{i}.0.block1.block.0.weight', 4)[0] for i in levels]
    if any(width % channels for width in widths):
        raise ConversionError(f'these are weights of another model: widths {widths} are no multiples of {channels}')
    counted = '_denoising.log_alpha'
    return VQDDM(
        TokenSpec((codebook_size,), downsample_factor=16),
        (16, 16),
        0,
        channels=channels,
        channel_multipliers=tuple(width // channels for width in widths),
        official=True,
        timesteps=read_shape(state_dict, counted, 1)[0] if counted in state_dict else _TIMESTEPS,
    )


def defaults(generator: VQDDM) -> StateDict:
    """Returns empty training statistics, for weights without them."""
    return {name: np.zeros(generator.timesteps, np.float32) for name in _STATISTICS}
