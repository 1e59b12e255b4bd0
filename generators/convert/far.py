"""Conversion of official FAR weights of FQGAN to `FAR`, and back."""

from vistok.generators.autoregressive.far import FAR
from vistok.generators.convert import llamagen
from vistok.tokenizers.tokenizer import TokenSpec
from vistok.weights.official import find_numbers, read_shape
from vistok.weights.rules import LINEAR, Rule, StateDict

_NAMES = {2: ('vis', 'sem'), 3: ('vis', 'sem_mid', 'sem_high')}
_MOST = 8  # sub-codebooks


def rules(layers: int, head_layers: int) -> tuple[Rule, ...]:
    """Creates the conversion rules; official sub-codebooks are counted from 1."""
    return (
        *(Rule(f'tok_embeddings_{i + 1}.weight', f'params/codewords_{i}/embedding') for i in range(_MOST)),
        *(Rule(f'output_{i + 1}.weight', f'params/output_{i}/kernel', LINEAR) for i in range(_MOST)),
        Rule('cls_embedding.embedding_table.weight', 'params/label/embedding'),
        Rule('aggregation_layer.weight', 'params/merge/kernel', LINEAR),
        Rule('aggregation_layer.bias', 'params/merge/bias'),
        *llamagen.layers('layers', 'decoder', layers),
        *llamagen.layers('ar_head', 'head', head_layers),
        Rule('norm.weight', 'params/norm/scale'),
    )


def model(state_dict: StateDict) -> FAR:
    """Creates the generator with the sizes of the given weights, for 16 x 16 tokens."""
    count = len(find_numbers(state_dict, r'tok_embeddings_(\d+)\.'))
    codebooks = tuple(read_shape(state_dict, f'tok_embeddings_{i + 1}.weight', 2)[0] for i in range(max(count, 1)))
    names = _NAMES.get(count, tuple(f'code_{i}' for i in range(len(codebooks))))
    return FAR(
        TokenSpec(codebooks, downsample_factor=16, codebook_names=names),
        (16, 16),
        read_shape(state_dict, 'cls_embedding.embedding_table.weight', 2)[0] - 1,
        **llamagen.read_sizes(state_dict),
        head_layers=head_layers_of(state_dict),
    )


def head_layers_of(state_dict: StateDict) -> int:
    """Counts the layers of the second decoder."""
    return len(find_numbers(state_dict, r'ar_head\.(\d+)\.'))
