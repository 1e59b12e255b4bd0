"""Conversion of official DQ-Transformer weights (two grains) to `DQTransformer`, and back."""

import math
from collections.abc import Mapping
from typing import Any

from vistok.generators.autoregressive.dq_transformer import DQTransformer
from vistok.generators.convert.llamagen import layers_of_ours
from vistok.generators.convert.vqgan_lc_gpt import POSITIONS, layers
from vistok.tokenizers.tokenizer import TokenSpec
from vistok.weights.official import find_numbers, read_shape
from vistok.weights.rules import LINEAR, ConversionError, Rule, StateDict

IGNORED = ('*.attn.mask', 'first_stage_model.*')  # a constant; the tokenizer, which lies in the same file

_HEADS = 8  # of the published configs
_SPECIALS = 2  # padding and end; the starts follow


def rules(position_layers: int, content_layers: int) -> tuple[Rule, ...]:
    """Creates the conversion rules for the given numbers of layers."""
    return (
        Rule('transformer.content_emb.weight', 'params/contents'),
        Rule('transformer.content_coarse_pos_emb.weight', 'params/positions_0'),
        Rule('transformer.content_fine_pos_emb.weight', 'params/positions_1'),
        Rule('transformer.pos_emb', 'params/places', POSITIONS),
        Rule('transformer.seg_emb.weight', 'params/parts'),
        *layers('transformer.position_transformer', 'position_stack', position_layers),
        *layers('transformer.content_transformer', 'content_stack', content_layers),
        Rule('transformer.{kind:position|content}_head.0.weight', 'params/{kind:position|content}_norm/scale'),
        Rule('transformer.{kind:position|content}_head.0.bias', 'params/{kind:position|content}_norm/bias'),
        Rule('transformer.{kind:position|content}_head.1.weight', 'params/{kind:position|content}_head/kernel', LINEAR),
    )


def import_rules(state_dict: StateDict) -> tuple[Rule, ...]:
    """Creates the rules for official weights."""
    return rules(_layers(state_dict, 'position'), _layers(state_dict, 'content'))


def export_rules(variables: Mapping[str, Any]) -> tuple[Rule, ...]:
    """Creates the rules for variables of `DQTransformer`."""
    return rules(layers_of_ours(variables, 'position_stack'), layers_of_ours(variables, 'content_stack'))


def _layers(state_dict: StateDict, kind: str) -> int:
    return len(find_numbers(state_dict, rf'transformer\.{kind}_transformer\.(\d+)\.'))


def model(state_dict: StateDict) -> DQTransformer:
    """Creates the generator with the sizes of the given weights: a square grid, the official layout.

    The tables have K, N and 4 N rows (codewords, coarse cells, fine cells), each besides those of specials and classes.
    """
    contents, width = read_shape(state_dict, 'transformer.content_emb.weight', 2)
    coarse = read_shape(state_dict, 'transformer.content_coarse_pos_emb.weight', 2)[0]
    fine = read_shape(state_dict, 'transformer.content_fine_pos_emb.weight', 2)[0]
    cells, rest = divmod(fine - coarse, 3)
    classes, side = coarse - cells - _SPECIALS, math.isqrt(max(cells, 0))
    if rest or side**2 != cells or classes < 1 or width % _HEADS:
        raise ConversionError(
            f'these are weights of another model: tables of {coarse} and {fine} positions are not those of a square '
            f'grid and one of twice its side, or width {width} is no multiple of {_HEADS}'
        )
    return DQTransformer(
        TokenSpec((contents - _SPECIALS - classes,), downsample_factor=8, grains=(1, 2)),
        (2 * side, 2 * side),
        classes,
        position_layers=_layers(state_dict, 'position'),
        content_layers=_layers(state_dict, 'content'),
        heads=_HEADS,
        width=width,
        condition_dropout=0.0,
        layout='official',
        place_rows=read_shape(state_dict, 'transformer.pos_emb', 3)[1],
    )
