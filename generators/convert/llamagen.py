"""Conversion of official LlamaGen weights to `LlamaGen`, and back; rules for Llama layers of other models."""

from collections.abc import Mapping
from typing import Any

from vistok.generators.autoregressive.llamagen import SIZES, LlamaGen
from vistok.tokenizers.tokenizer import TokenSpec
from vistok.weights.official import find_numbers, read_shape
from vistok.weights.rules import LINEAR, ConversionError, Rule, StateDict, Transform, stack_layers

IGNORED = ('freqs_cis',)  # a table that is computed
_HEAD_WIDTH = 64  # of all published sizes but 3B


def layers(source: str, target: str, count: int) -> tuple[Rule, ...]:
    """Creates the rules of `count` Llama blocks, which are stacked in `CausalTransformer`."""

    def rule(name: str, ours: str, transform: Transform | None = None) -> Rule:
        sources = tuple(f'{source}.{i}.{name}.weight' for i in range(count))
        one = stack_layers(count) if transform is None else stack_layers(count, transform)
        return Rule(sources, f'params/{target}/layers/{ours}', one)

    return (
        rule('attention.wqkv', 'attention/qkv/kernel', LINEAR),
        rule('attention.wo', 'attention/out/kernel', LINEAR),
        rule('feed_forward.w1', 'mlp_gate/kernel', LINEAR),
        rule('feed_forward.w3', 'mlp_in/kernel', LINEAR),
        rule('feed_forward.w2', 'mlp_out/kernel', LINEAR),
        rule('attention_norm', 'attention_norm/scale'),
        rule('ffn_norm', 'mlp_norm/scale'),
    )


def rules(count: int) -> tuple[Rule, ...]:
    """Creates the conversion rules of a model with `count` layers, class-conditional or text-conditional."""
    return (
        Rule('tok_embeddings.weight', 'params/codewords_0/embedding'),
        Rule('cls_embedding.embedding_table.weight', 'params/label/embedding'),
        Rule('cls_embedding.cap_proj.fc1.weight', 'params/caption/mlp_in/kernel', LINEAR),
        Rule('cls_embedding.cap_proj.fc2.weight', 'params/caption/mlp_out/kernel', LINEAR),
        Rule('cls_embedding.uncond_embedding', 'frozen/no_caption'),
        *layers('layers', 'decoder', count),
        Rule('norm.weight', 'params/norm/scale'),
        Rule('output.weight', 'params/output_0/kernel', LINEAR),
    )


def read_sizes(state_dict: StateDict) -> dict[str, Any]:
    """Reads layers, heads, width and hidden width as arguments; heads are 64 wide in every published size but 3B."""
    width = read_shape(state_dict, 'layers.0.attention.wo.weight', 2)[0]
    published = {size['width']: size['heads'] for size in SIZES.values()}
    if width not in published and width % _HEAD_WIDTH:
        raise ConversionError(f'width {width} is no multiple of {_HEAD_WIDTH}: name the number of `heads`')
    return {
        'layers': len(find_numbers(state_dict, r'layers\.(\d+)\.')),
        'heads': published.get(width, width // _HEAD_WIDTH),
        'width': width,
        'mlp_width': read_shape(state_dict, 'layers.0.feed_forward.w1.weight', 2)[0],
    }


def model(state_dict: StateDict) -> LlamaGen:
    """Creates the generator with the sizes of the given weights, for 16 x 16 tokens, since weights lack the grid."""
    codebook_size = read_shape(state_dict, 'tok_embeddings.weight', 2)[0]
    condition: dict[str, Any] = {'num_classes': 0}
    if 'cls_embedding.uncond_embedding' in state_dict:
        text_tokens, text_width = read_shape(state_dict, 'cls_embedding.uncond_embedding', 2)
        condition |= {'text_tokens': text_tokens, 'text_width': text_width}
    else:
        condition['num_classes'] = read_shape(state_dict, 'cls_embedding.embedding_table.weight', 2)[0] - 1
    spec = TokenSpec((codebook_size,), downsample_factor=16)
    return LlamaGen(spec, (16, 16), **condition, **read_sizes(state_dict))


def layers_of(state_dict: StateDict) -> int:
    """Counts the layers of official weights."""
    return len(find_numbers(state_dict, r'layers\.(\d+)\.'))


def layers_of_ours(variables: Mapping[str, Any], decoder: str = 'decoder') -> int:
    """Counts the layers of a decoder in our variables."""
    try:
        return len(variables['params'][decoder]['layers']['attention_norm']['scale'])
    except (KeyError, TypeError):
        raise ConversionError(f'these are variables of another model: there are no layers of {decoder!r}') from None
