"""Conversion rules for the official weights of the frozen networks (LPIPS, CLIP, DINOv2, Inception)."""

from collections.abc import Sequence

from vistok.weights.rules import CHANNELS, CONV, IDENTITY, LINEAR, Rule, StateDict, Transform, concatenate_sources

_TOKEN = Transform(lambda x: x.reshape(-1), lambda x: x.reshape(1, 1, -1))  # [1, 1, d], [d]
_TABLE = Transform(lambda x: x[0], lambda x: x[None])  # [1, n, d], [n, d]

LPIPS_IGNORED = ('scaling_layer.*', 'lins.*', 'classifier.*')
CLIP_PATCHES_IGNORED = (
    'vision_model.embeddings.position_ids',
    'text_model.*',
    'text_projection*',
    'logit_scale',
    'transformer.*',
    'token_embedding.*',
    'positional_embedding',
    'ln_final.*',
)
CLIP_IGNORED = (
    *CLIP_PATCHES_IGNORED,
    'vision_model.post_layernorm.*',
    'visual_projection.*',
    'visual.ln_post.*',
    'visual.proj',
)
DINOV2_IGNORED = ('embeddings.mask_token', 'mask_token')
INCEPTION_IGNORED = ('*.num_batches_tracked', 'AuxLogits.*')

# Positions of VGG16's convolutions in torchvision's list of layers, by block.
_VGG16_INDICES = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))

_INCEPTION_STEM = 'Conv2d_{conv:1a_3x3|2a_3x3|2b_3x3|3b_1x1|4a_3x3}'
_INCEPTION_BLOCK = 'Mixed_{block:5b|5c|5d|6a|6b|6c|6d|6e|7a|7b|7c}'
_INCEPTION_BRANCHES = (
    *('branch1x1', 'branch5x5_1', 'branch5x5_2', 'branch_pool'),
    *('branch3x3', 'branch3x3_1', 'branch3x3_2', 'branch3x3_2a', 'branch3x3_2b'),
    *(f'branch3x3dbl_{i}' for i in ('1', '2', '3', '3a', '3b')),
    *(f'branch7x7_{i}' for i in range(1, 4)),
    *(f'branch7x7dbl_{i}' for i in range(1, 6)),
    *(f'branch7x7x3_{i}' for i in range(1, 5)),
)


def _affine(official: str, ours: str, weight: str = 'kernel', layout: Transform = LINEAR) -> tuple[Rule, Rule]:
    return (
        Rule(f'{official}.weight', f'params/{ours}/{weight}', layout),
        Rule(f'{official}.bias', f'params/{ours}/bias'),
    )


def _norm(official: str, ours: str) -> tuple[Rule, Rule]:
    return _affine(official, ours, 'scale', IDENTITY)


def _separate_qkv(official: str, names: Sequence[str]) -> tuple[Rule, Rule]:
    sources = {kind: tuple(f'{official}.{name}.{kind}' for name in names) for kind in ('weight', 'bias')}
    return (
        Rule(sources['weight'], 'params/block_{i}/attention/qkv/kernel', concatenate_sources(3, LINEAR)),
        Rule(sources['bias'], 'params/block_{i}/attention/qkv/bias', concatenate_sources(3)),
    )


def lpips_rules(state_dict: StateDict) -> tuple[Rule, ...]:
    """Builds rules for `LPIPS`: one full state dict ('net.slice1.0.weight'), or torchvision's VGG16 joined with the
    heads.
    """
    sliced = any(name.startswith('net.') for name in state_dict)
    rules = [Rule(f'lin{i}.model.1.weight', f'params/weight{i + 1}', CHANNELS) for i in range(len(_VGG16_INDICES))]
    for block, indices in enumerate(_VGG16_INDICES, start=1):
        prefix = f'net.slice{block}' if sliced else 'features'
        for i, index in enumerate(indices, start=1):
            rules += _affine(f'{prefix}.{index}', f'vgg16/conv{block}_{i}', layout=CONV)
    return tuple(rules)


def clip_rules(state_dict: StateDict) -> tuple[Rule, ...]:
    """Builds rules for `CLIPVision`, from Hugging Face's names ('vision_model.*') or OpenAI's ('visual.*')."""
    if any(name.startswith('visual.') for name in state_dict):
        root, block = 'visual', 'visual.transformer.resblocks.{i}'
        return (
            Rule(f'{root}.class_embedding', 'params/class_token'),
            Rule(f'{root}.conv1.weight', 'params/patch_embedding/kernel', CONV),
            Rule(f'{root}.positional_embedding', 'params/positions'),
            *_norm(f'{root}.ln_pre', 'norm_in'),
            *_norm(f'{block}.ln_1', 'block_{i}/norm1'),
            Rule(f'{block}.attn.in_proj_weight', 'params/block_{i}/attention/qkv/kernel', LINEAR),
            Rule(f'{block}.attn.in_proj_bias', 'params/block_{i}/attention/qkv/bias'),
            *_affine(f'{block}.attn.out_proj', 'block_{i}/attention/out'),
            *_norm(f'{block}.ln_2', 'block_{i}/norm2'),
            *_affine(f'{block}.mlp.c_fc', 'block_{i}/mlp_in'),
            *_affine(f'{block}.mlp.c_proj', 'block_{i}/mlp_out'),
            *_norm(f'{root}.ln_post', 'norm_out'),
            Rule(f'{root}.proj', 'params/projection/kernel'),
        )
    root, block = 'vision_model', 'vision_model.encoder.layers.{i}'
    return (
        Rule(f'{root}.embeddings.class_embedding', 'params/class_token'),
        Rule(f'{root}.embeddings.patch_embedding.weight', 'params/patch_embedding/kernel', CONV),
        Rule(f'{root}.embeddings.position_embedding.weight', 'params/positions'),
        *_norm(f'{root}.pre_layrnorm', 'norm_in'),  # their spelling
        *_norm(f'{block}.layer_norm1', 'block_{i}/norm1'),
        *_separate_qkv(f'{block}.self_attn', ('q_proj', 'k_proj', 'v_proj')),
        *_affine(f'{block}.self_attn.out_proj', 'block_{i}/attention/out'),
        *_norm(f'{block}.layer_norm2', 'block_{i}/norm2'),
        *_affine(f'{block}.mlp.fc1', 'block_{i}/mlp_in'),
        *_affine(f'{block}.mlp.fc2', 'block_{i}/mlp_out'),
        *_norm(f'{root}.post_layernorm', 'norm_out'),
        Rule('visual_projection.weight', 'params/projection/kernel', LINEAR),
    )


def dinov2_rules(state_dict: StateDict) -> tuple[Rule, ...]:
    """Builds rules for `DINOv2`, from Hugging Face's names ('encoder.layer.*') or the original ones ('blocks.*')."""
    if 'cls_token' in state_dict:
        block = 'blocks.{i}'
        return (
            Rule('cls_token', 'params/class_token', _TOKEN),
            Rule('pos_embed', 'params/positions', _TABLE),
            *_affine('patch_embed.proj', 'patch_embedding', layout=CONV),
            *_norm(f'{block}.norm1', 'block_{i}/norm1'),
            *_affine(f'{block}.attn.qkv', 'block_{i}/attention/qkv'),
            *_affine(f'{block}.attn.proj', 'block_{i}/attention/out'),
            Rule(f'{block}.ls1.gamma', 'params/block_{i}/scale1'),
            *_norm(f'{block}.norm2', 'block_{i}/norm2'),
            *_affine(f'{block}.mlp.fc1', 'block_{i}/mlp_in'),
            *_affine(f'{block}.mlp.fc2', 'block_{i}/mlp_out'),
            Rule(f'{block}.ls2.gamma', 'params/block_{i}/scale2'),
            *_norm('norm', 'norm_out'),
        )
    block = 'encoder.layer.{i}'
    return (
        Rule('embeddings.cls_token', 'params/class_token', _TOKEN),
        Rule('embeddings.position_embeddings', 'params/positions', _TABLE),
        *_affine('embeddings.patch_embeddings.projection', 'patch_embedding', layout=CONV),
        *_norm(f'{block}.norm1', 'block_{i}/norm1'),
        *_separate_qkv(f'{block}.attention.attention', ('query', 'key', 'value')),
        *_affine(f'{block}.attention.output.dense', 'block_{i}/attention/out'),
        Rule(f'{block}.layer_scale1.lambda1', 'params/block_{i}/scale1'),
        *_norm(f'{block}.norm2', 'block_{i}/norm2'),
        *_affine(f'{block}.mlp.fc1', 'block_{i}/mlp_in'),
        *_affine(f'{block}.mlp.fc2', 'block_{i}/mlp_out'),
        Rule(f'{block}.layer_scale2.lambda1', 'params/block_{i}/scale2'),
        *_norm('layernorm', 'norm_out'),
    )


def inception_rules() -> tuple[Rule, ...]:
    """Builds rules for `FIDInception`, from the names of torchvision's Inception3 without its auxiliary head."""
    branch = f'{{branch:{"|".join(_INCEPTION_BRANCHES)}}}'
    rules = []
    for path in ((_INCEPTION_STEM,), (_INCEPTION_BLOCK, branch)):
        official, ours = '.'.join(path), '/'.join(path)
        rules += [
            Rule(f'{official}.conv.weight', f'params/{ours}/conv/kernel', CONV),
            *_norm(f'{official}.bn', f'{ours}/bn'),
            Rule(f'{official}.bn.running_mean', f'batch_stats/{ours}/bn/mean'),
            Rule(f'{official}.bn.running_var', f'batch_stats/{ours}/bn/var'),
        ]
    return (*rules, Rule('fc.weight', 'params/classes', LINEAR), Rule('fc.bias', 'params/bias'))
