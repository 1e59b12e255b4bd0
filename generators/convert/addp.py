"""Conversion of official ADDP and MAGE weights to `ADDP` and `MAGE`, and back."""

from collections.abc import Mapping
from typing import Any

from vistok.generators.masked.addp import ADDP
from vistok.generators.masked.mage import MAGE
from vistok.tokenizers.tokenizer import TokenSpec
from vistok.weights.official import find_numbers, read_shape
from vistok.weights.rules import CONV, LINEAR, ConversionError, Rule, StateDict, Transform, stack_layers

PREDICTOR = 'token_predictor.'
"""Prefix of the predictor's entries in files of ADDP."""
_UNUSED = ('decoder_pos_embed', 'decoder_pred.*')
MAGE_IGNORED = (
    *_UNUSED, 'pos_embed', 'cls_token', 'mask_token', 'patch_embed.*', 'token_emb.position_ids', 'vqgan.*',
)  # fmt: skip
ADDP_IGNORED = (
    *_UNUSED, 'pos_token_embed', 'pos_mask_embed', 'vqgan.*', *(PREDICTOR + pattern for pattern in MAGE_IGNORED),
)  # fmt: skip
"""Unused tables and layers, and the tokenizer, which is a model of its own."""

_CODES = 1024  # of the tokenizer that all released models share
_FAKE_LABEL = 76  # a class's row of the vocabulary, which stands for no class in the released MAGE models

_VECTOR = Transform(lambda x: x.reshape(-1), lambda x: x.reshape(1, 1, -1))  # [1, 1, d], [d]
_ROWS = Transform(lambda x: x[0], lambda x: x[None])  # [1, n, d], [n, d]


def _affine(source: str, target: str, transform: Transform = LINEAR) -> tuple[Rule, Rule]:
    return Rule(f'{source}.weight', f'{target}/kernel', transform), Rule(f'{source}.bias', f'{target}/bias')


def _norm(source: str, target: str) -> tuple[Rule, Rule]:
    return Rule(f'{source}.weight', f'{target}/scale'), Rule(f'{source}.bias', f'{target}/bias')


def _blocks(source: str, target: str, count: int) -> tuple[Rule, ...]:
    """Creates the rules of `count` blocks, which are stacked in `Bidirectional`."""
    layers = {
        'norm1': ('norm1', 'scale'),
        'attn.qkv': ('attention/qkv', 'kernel'),
        'attn.proj': ('attention/out', 'kernel'),
        'norm2': ('norm2', 'scale'),
        'mlp.fc1': ('mlp_in', 'kernel'),
        'mlp.fc2': ('mlp_out', 'kernel'),
    }
    rules = []
    for official, (ours, weight) in layers.items():
        for end, leaf in (('weight', weight), ('bias', 'bias')):
            sources = tuple(f'{source}.{i}.{official}.{end}' for i in range(count))
            each = (LINEAR,) if leaf == 'kernel' else ()
            rules.append(Rule(sources, f'{target}/layers/{ours}/{leaf}', stack_layers(count, *each)))
    return tuple(rules)


def _end(source: str, target: str) -> tuple[Rule, ...]:
    """Creates the rules of the decoder's last layers."""
    return (
        *_norm(f'{source}decoder_norm', f'{target}/decoder/norm'),
        *_affine(f'{source}mlm_layer.fc', f'{target}/head/dense'),
        *_norm(f'{source}mlm_layer.ln', f'{target}/head/norm'),
        Rule(f'{source}mlm_layer.bias', f'{target}/head/bias', _VECTOR),
    )


def mage_rules(layers: tuple[int, int], source: str = '', target: str = 'params') -> tuple[Rule, ...]:
    """Creates the conversion rules of a MAGE.

    Args:
      layers: number of layers of encoder and decoder.
      source: prefix of the official names.
      target: prefix of the paths in `MAGE`'s variables.
    """
    return (
        Rule(f'{source}token_emb.word_embeddings.weight', f'{target}/tokens'),
        Rule(f'{source}token_emb.position_embeddings.weight', f'{target}/positions'),
        *_norm(f'{source}token_emb.LayerNorm', f'{target}/embedding_norm'),
        *_blocks(f'{source}blocks', f'{target}/encoder', layers[0]),
        *_norm(f'{source}norm', f'{target}/encoder/norm'),
        *_affine(f'{source}decoder_embed', f'{target}/between'),
        Rule(f'{source}decoder_pos_embed_learned', f'{target}/decoder_positions', _ROWS),
        *_blocks(f'{source}decoder_blocks', f'{target}/decoder', layers[1]),
        *_end(source, target),
    )


def addp_rules(layers: tuple[int, int], predictor_layers: tuple[int, int] | None) -> tuple[Rule, ...]:
    """Creates the conversion rules of an ADDP.

    Args:
      layers: number of layers of encoder and decoder.
      predictor_layers: likewise of the predictor; None where there is none.
    """
    encoder, blocks = 'params/encoder', 'params/encoder/blocks'
    return (
        Rule('cls_token', f'{encoder}/image', _VECTOR),
        Rule('pos_embed', f'{encoder}/positions', _ROWS),
        *_affine('patch_embed.proj', f'{encoder}/patches', CONV),
        *_norm('tokenizer_norm', f'{encoder}/embedding_norm'),
        *_blocks('blocks', blocks, layers[0]),
        *_norm('norm', f'{blocks}/norm'),
        Rule('token_emb.weight', 'params/tokens'),
        *_affine('decoder_embed', 'params/between'),
        Rule('mask_token', 'params/mask', _VECTOR),
        Rule('decoder_pos_embed_learned', 'params/known_positions', _ROWS),
        Rule('decoder_pos_mask_embed', 'params/hidden_positions', _ROWS),
        Rule('decoder_pos_token_embed', 'params/token_positions', _ROWS),
        *_blocks('decoder_blocks', 'params/decoder', layers[1]),
        *_end('', 'params'),
        *(mage_rules(predictor_layers, PREDICTOR, 'predictor') if predictor_layers else ()),
    )


def layers_of(state_dict: StateDict, prefix: str = '') -> tuple[int, int]:
    """Counts the layers of encoder and decoder of official weights."""
    start = prefix.replace('.', r'\.')
    return (
        len(find_numbers(state_dict, rf'{start}blocks\.(\d+)\.')),
        len(find_numbers(state_dict, rf'{start}decoder_blocks\.(\d+)\.')),
    )


def has_predictor(state_dict: StateDict) -> bool:
    """Returns whether official weights of ADDP include the predictor."""
    return f'{PREDICTOR}token_emb.word_embeddings.weight' in state_dict


def addp_import_rules(state_dict: StateDict) -> tuple[Rule, ...]:
    """Creates the rules for official weights of ADDP."""
    return addp_rules(layers_of(state_dict), layers_of(state_dict, PREDICTOR) if has_predictor(state_dict) else None)


def addp_export_rules(variables: Mapping[str, Any]) -> tuple[Rule, ...]:
    """Creates the rules for variables of `ADDP`."""
    params, predictor = variables['params'], variables.get('predictor')
    layers = _stacked_layers(params['encoder']['blocks']), _stacked_layers(params['decoder'])
    return addp_rules(layers, _layers_of_mage(predictor) if predictor else None)


def mage_export_rules(variables: Mapping[str, Any]) -> tuple[Rule, ...]:
    """Creates the rules for variables of `MAGE`."""
    return mage_rules(_layers_of_mage(variables['params']))


def _layers_of_mage(params: Mapping[str, Any]) -> tuple[int, int]:
    return _stacked_layers(params['encoder']), _stacked_layers(params['decoder'])


def _stacked_layers(stack: Mapping[str, Any]) -> int:
    return len(stack['layers']['norm1']['scale'])


def _sizes(state_dict: StateDict, table: str, prefix: str = '') -> dict[str, Any]:
    """Reads the sizes as arguments; heads are 64 wide in encoders, and there are 16 in decoders of published sizes."""
    rows, width = read_shape(state_dict, f'{prefix}{table}', 2)
    if width % 64 or rows <= _CODES + 1:
        raise ConversionError(f'{prefix}{table} is {rows} x {width}; released models have 2025 rows of 64 n numbers')
    encoder_layers, decoder_layers = layers_of(state_dict, prefix)
    return {
        'width': width,
        'encoder_layers': encoder_layers,
        'encoder_heads': width // 64,
        'decoder_layers': decoder_layers,
        'decoder_heads': 16 if width >= 768 else width // 64,
        'label_rows': rows - _CODES - 1,
    }


_TOKENS: dict[str, Any] = {'spec': TokenSpec((_CODES,), 16), 'grid': (16, 16), 'num_classes': 0, 'codes_only': False}


def mage_model(state_dict: StateDict, prefix: str = '') -> MAGE:
    """Creates the generator with the sizes of the given weights; it is unconditional."""
    sizes = _sizes(state_dict, 'token_emb.word_embeddings.weight', prefix)
    return MAGE(**_TOKENS, **sizes, null_row=_FAKE_LABEL)


def addp_model(state_dict: StateDict) -> ADDP:
    """Creates the generator with the sizes of the given weights, without its tokenizer; it is unconditional."""
    predictor = mage_model(state_dict, PREDICTOR) if has_predictor(state_dict) else None
    return ADDP(**_TOKENS, **_sizes(state_dict, 'token_emb.weight'), predictor=predictor)
