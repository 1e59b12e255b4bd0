"""Weight conversion between official FQGAN tokenizers (dual and triple, f16 and f8) and `FQGAN`."""

import math
import re

from vistok.tokenizers.convert.llamagen import affine, decoder_end, network, network_sizes, norm
from vistok.tokenizers.fqgan import FQGAN, PRESETS
from vistok.weights.official import find_numbers, read_shape
from vistok.weights.rules import CONV, LINEAR, POINTWISE, Rule, StateDict

_ADAPTERS = {
    'vis': 'visual_head',
    'sem': 'semantic_head',
    'sem_mid': 'semantic_head_mid',
    'sem_high': 'semantic_head_high',
}
_PREDICTORS = {'sem': 'feat_pred_head', 'sem_mid': 'mid_sem_feat_pred', 'sem_high': 'high_sem_feat_pred'}


def tower(source: str, target: str) -> tuple[Rule, ...]:
    """Returns the rules of transformer blocks between two norms."""
    block, ours = f'{source}.transformer.{{i}}', f'{target}/tower/block_{{i}}'
    return (
        *norm(f'{source}.ln_pre', f'{target}/tower/norm_in'),
        *norm(f'{block}.ln_{{n:1|2}}', f'{ours}/norm{{n:1|2}}'),
        Rule(f'{block}.attn.in_proj_weight', f'params/{ours}/attention/qkv/kernel', LINEAR),
        Rule(f'{block}.attn.in_proj_bias', f'params/{ours}/attention/qkv/bias'),
        *affine(f'{block}.attn.out_proj', f'{ours}/attention/out', LINEAR),
        *affine(f'{block}.mlp.c_fc', f'{ours}/mlp_in', LINEAR),
        *affine(f'{block}.mlp.c_proj', f'{ours}/mlp_out', LINEAR),
        *norm(f'{source}.ln_post', f'{target}/tower/norm_out'),
    )


def rules() -> tuple[Rule, ...]:
    """Returns the pairs of names, for both variants and every size."""
    pairs: list[Rule] = []
    for factor, adapter in _ADAPTERS.items():
        pairs += [
            Rule(f'encoder.{adapter}.0.positional_embedding', f'params/adapter_{factor}/positions'),
            *tower(f'encoder.{adapter}.0', f'adapter_{factor}'),
            *norm(f'encoder.norm_out_{factor}', f'head_{factor}/norm'),
            *affine(f'encoder.conv_out_{factor}', f'head_{factor}/conv', CONV),
            *affine(f'quant_conv_{factor}', f'quant_conv_{factor}', POINTWISE),
            Rule(f'quantize_{factor}.embedding.weight', f'params/quantizer/{factor}/codebook/codewords'),
        ]
    for factor, predictor in _PREDICTORS.items():
        pairs += [
            Rule(f'{predictor}.class_embedding', f'params/predictor_{factor}/class_token'),
            Rule(f'{predictor}.positional_embedding', f'params/predictor_{factor}/positions'),
            *affine(f'{predictor}.upscale.0', f'predictor_{factor}/dense1', LINEAR),
            *affine(f'{predictor}.upscale.2', f'predictor_{factor}/dense2', LINEAR),
            *tower(predictor, f'predictor_{factor}'),
        ]
    return (
        *network('encoder', 'trunk'),
        *pairs,
        *affine('post_quant_conv', 'post_quant_conv', POINTWISE),
        *network('decoder', 'decoder'),
        *decoder_end(),
    )


def ignored_names(module: FQGAN) -> tuple[str, ...]:
    """Returns patterns of official entries without a place in `module`."""
    dropped = [
        _PREDICTORS[f]
        for f, teacher in zip(module.factors, module.teachers, strict=True)
        if not teacher and f in _PREDICTORS
    ]
    return ('quantize_*.codebook_used', *(f'{name}.*' for name in dropped))


def model(state_dict: StateDict, variant: str) -> FQGAN:
    """Builds a module with the sizes of the given weights.

    Where the weights hold the heads that predict the teachers' features, so does the module: training can go on.
    """
    sizes = network_sizes(state_dict, 'encoder.conv_blocks', 'res')
    preset = PRESETS[variant]
    factors = preset['factors']
    heads = {f: _PREDICTORS[f] for f in factors if f'{_PREDICTORS.get(f)}.class_embedding' in state_dict}
    widths = {f: read_shape(state_dict, f'{head}.class_embedding', 2)[1] for f, head in heads.items()}
    depths = [len(find_numbers(state_dict, rf'{head}\.transformer\.(\d+)\.')) for head in heads.values()]

    adapter = f'encoder.{_ADAPTERS[factors[0]]}.0'
    positions = read_shape(state_dict, f'{adapter}.positional_embedding', 2)[0]
    codebook_size, codebook_dim = read_shape(state_dict, f'quantize_{factors[0]}.embedding.weight', 2)
    return FQGAN(
        factors=factors,
        teachers=tuple(teacher if f in heads else '' for f, teacher in zip(factors, preset['teachers'], strict=True)),
        teacher_widths=tuple(widths.get(f, 0) for f in factors),
        codebook_size=codebook_size,
        codebook_dim=codebook_dim,
        latent_channels=read_shape(state_dict, f'quant_conv_{factors[0]}.weight', 4)[1],
        image_size=math.isqrt(positions) * 2 ** (len(sizes['channel_multipliers']) - 1),
        adapter_layers=len(find_numbers(state_dict, rf'{re.escape(adapter)}\.transformer\.(\d+)\.')),
        head_layers=max(depths, default=0),
        **sizes,
    )
