"""Conversion of official VQGAN-LC GPT weights to `VQGANLCGPT`, and back."""

import math

from vistok.generators.autoregressive.vqgan_lc_gpt import VQGANLCGPT
from vistok.tokenizers.tokenizer import TokenSpec
from vistok.weights.official import find_numbers, read_shape
from vistok.weights.rules import (
    IDENTITY,
    LINEAR,
    ConversionError,
    Rule,
    StateDict,
    Transform,
    concatenate_sources,
    stack_layers,
)

IGNORED = ('transformer.blocks.*.attn.mask', 'vqgan.*')  # a constant; the tokenizer, where it lies in the same file

_HEAD_WIDTH = 64
_CLASSES = 1000  # of ImageNet: the vocabulary alone does not tell codewords from classes
POSITIONS = Transform(lambda x: x[0], lambda x: x[None])
"""Transform of a table with a batch axis."""


def layers(source: str, target: str, count: int) -> tuple[Rule, ...]:
    """Creates the rules of `count` minGPT blocks, which are stacked in `CausalTransformer`."""

    def rule(names: tuple[str, ...], entry: str, ours: str, transform: Transform = IDENTITY) -> Rule:
        sources = tuple(f'{source}.{i}.{name}.{entry}' for i in range(count) for name in names)
        each = transform if len(names) == 1 else concatenate_sources(len(names), transform)
        return Rule(sources, f'params/{target}/layers/{ours}', stack_layers(count, each, len(names)))

    dense = {
        ('attn.query', 'attn.key', 'attn.value'): 'attention/qkv',
        ('attn.proj',): 'attention/out',
        ('mlp.0',): 'mlp_in',
        ('mlp.2',): 'mlp_out',
    }
    norms = {('ln1',): 'attention_norm', ('ln2',): 'mlp_norm'}
    return (
        *(rule(names, 'weight', f'{ours}/kernel', LINEAR) for names, ours in dense.items()),
        *(rule(names, 'weight', f'{ours}/scale') for names, ours in norms.items()),
        *(rule(names, 'bias', f'{ours}/bias') for names, ours in (dense | norms).items()),
    )


def rules(count: int) -> tuple[Rule, ...]:
    """Creates the conversion rules of a model with `count` layers."""
    return (
        *layers('transformer.blocks', 'decoder', count),
        Rule('transformer.tok_emb.weight', 'params/words/embedding'),
        Rule('transformer.pos_emb', 'params/positions', POSITIONS),
        Rule('transformer.ln_f.weight', 'params/norm/scale'),
        Rule('transformer.ln_f.bias', 'params/norm/bias'),
        Rule('transformer.head.weight', 'params/output_0/kernel', LINEAR),
    )


def layers_of(state_dict: StateDict) -> int:
    """Counts the layers of official weights."""
    return len(find_numbers(state_dict, r'transformer\.blocks\.(\d+)\.'))


def model(state_dict: StateDict) -> VQGANLCGPT:
    """Creates the generator with the sizes of the given weights: a square grid, 1000 classes."""
    vocabulary, width = read_shape(state_dict, 'transformer.tok_emb.weight', 2)
    length = read_shape(state_dict, 'transformer.pos_emb', 3)[1]
    side = math.isqrt(length - 1)
    if side**2 != length - 1 or vocabulary <= _CLASSES or width % _HEAD_WIDTH:
        raise ConversionError(
            f'these are weights of another model: {length} positions are not one class and a square of tokens, or '
            f'{vocabulary} words are not more than {_CLASSES}, or width {width} is no multiple of {_HEAD_WIDTH}'
        )
    return VQGANLCGPT(
        TokenSpec((vocabulary - _CLASSES,), downsample_factor=16),
        (side, side),
        _CLASSES,
        layers=layers_of(state_dict),
        heads=width // _HEAD_WIDTH,
        width=width,
        mlp_width=read_shape(state_dict, 'transformer.blocks.0.mlp.0.weight', 2)[0],
    )
