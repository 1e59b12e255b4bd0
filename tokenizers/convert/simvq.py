"""Weight conversion between official SimVQ tokenizers (1k, 8k, 65k, 262k) and `SimVQ`."""

from collections.abc import Mapping
from typing import Any

from vistok.tokenizers.convert.llamagen import affine, decoder_end, network_sizes, norm
from vistok.tokenizers.simvq import SimVQ
from vistok.weights.official import find_numbers, read_shape
from vistok.weights.rules import CONV, LINEAR, POINTWISE, Rule, StateDict

_AVERAGES = 'model_ema'
_UNAVERAGED = 'unaveraged'

# The frozen networks and the discriminator of the training run, counters, and what `use_averages` replaced.
IGNORED = ('loss.*', f'{_AVERAGES}.decay', f'{_AVERAGES}.num_updates', f'{_UNAVERAGED}.*')


def use_averages(state_dict: StateDict) -> StateDict:
    """Replaces weights by their moving averages, where there are any.

    Averages are stored under the weight's name without its dots, 'model_ema.encoderconv_inweight'; a frozen table has
    none.  The weights that were replaced are kept as 'unaveraged.encoder.conv_in.weight'.
    """
    averages = {name: f'{_AVERAGES}.{name.replace(".", "")}' for name in state_dict}
    averages = {name: average for name, average in averages.items() if average in state_dict}
    used = set(averages.values())
    entries = {name: x for name, x in state_dict.items() if name not in used}
    return {
        **entries,
        **{name: state_dict[average] for name, average in averages.items()},
        **{f'{_UNAVERAGED}.{name}': state_dict[name] for name in averages},
    }


def codebook_rules(source: str = 'quantize.', target: str = 'quantizer/codebook') -> tuple[Rule, ...]:
    """Returns the rules of the codebook."""
    return (
        Rule(f'{source}embedding.weight', f'frozen/{target}/table/codewords'),
        *affine(f'{source}embedding_proj', f'{target}/projector/dense_0', LINEAR),
    )


def rules(levels: int) -> tuple[Rule, ...]:
    """Returns the pairs of names.  The official decoder counts its levels from fine to coarse, ours along the data."""
    pairs: list[Rule] = []
    for level in range(levels):
        encoder, decoder = f'encoder.down.{level}', f'decoder.up.{levels - 1 - level}'
        pairs += [
            *_res_block(f'{encoder}.block.{{i}}', f'encoder/level_{level}_res_{{i}}'),
            *affine(f'{encoder}.downsample', f'encoder/level_{level}_downsample', CONV),
            *_res_block(f'{decoder}.block.{{i}}', f'decoder/level_{level}_res_{{i}}'),
            *affine(f'{decoder}.upsample.conv1', f'decoder/level_{level}_upsample', CONV),
        ]
    return (
        Rule('encoder.conv_in.weight', 'params/encoder/conv_in/kernel', CONV),
        *_res_block('{net:encoder|decoder}.mid_block.{i}', '{net:encoder|decoder}/mid_{i}'),
        *norm('encoder.norm_out', 'encoder/norm_out'),
        *affine('encoder.conv_out', 'encoder/conv_out', POINTWISE),
        *affine('decoder.conv_in', 'decoder/conv_in', CONV),
        *pairs,
        *decoder_end(),
        *codebook_rules(),
    )


def _res_block(source: str, target: str) -> tuple[Rule, ...]:
    """Returns the rules of a residual block without biases."""
    return (
        *norm(f'{source}.{{norm:norm1|norm2}}', f'{target}/{{norm:norm1|norm2}}'),
        Rule(f'{source}.{{conv:conv1|conv2}}.weight', f'params/{target}/{{conv:conv1|conv2}}/kernel', CONV),
        Rule(f'{source}.nin_shortcut.weight', f'params/{target}/shortcut/kernel', POINTWISE),
    )


def levels_of(state_dict: StateDict) -> int:
    """Counts the levels in official weights."""
    return len(find_numbers(state_dict, r'encoder\.down\.(\d+)\.'))


def levels_of_ours(variables: Mapping[str, Any]) -> int:
    """Counts the levels in our variables."""
    return 1 + sum(name.endswith('_downsample') for name in variables['params']['encoder'])


def model(state_dict: StateDict) -> SimVQ:
    """Builds a module with the sizes of the given weights."""
    codebook_size, codebook_dim = read_shape(state_dict, 'quantize.embedding.weight', 2)
    read_shape(state_dict, 'quantize.embedding_proj.weight', 2)
    sizes = network_sizes(state_dict, 'encoder.down', 'block')
    sizes.pop('attention_levels')
    return SimVQ(**sizes, codebook_size=codebook_size, codebook_dim=codebook_dim)
