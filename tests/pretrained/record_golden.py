"""Records the packs clip_vision_small and dinov2_small from the `transformers` package.

Needs torch and transformers, so it is no test.  Run in the repository root:

  python tests/common/pretrained/record_golden.py

The small models have the structure of the published ones (odd patch size, class token, learned positions; for DINOv2
layer scales and positions learned on a larger grid), random weights by the rule of `tests/golden_packs.py`, and the
names that published files use.
"""

import json
import pathlib
import sys

import numpy as np
import torch
import torch.nn.functional as F
import transformers

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
import golden_packs

SEED = 20240
CLIP = {
    'hidden_size': 64,
    'intermediate_size': 256,
    'num_hidden_layers': 3,
    'num_attention_heads': 4,
    'patch_size': 14,
    'image_size': 56,
    'hidden_act': 'quick_gelu',
}
DINO = {
    'hidden_size': 64,
    'mlp_ratio': 4,
    'num_hidden_layers': 3,
    'num_attention_heads': 4,
    'patch_size': 14,
    'image_size': 98,
}


def published_clip_name(name: str) -> str:
    """The name a state dict entry has in published files."""
    return 'vision_model.' + name.removeprefix('vision_model.')


def published_dino_name(name: str) -> str:
    """Likewise; the package renames the attention projections on loading."""
    for ours, theirs in (('q', 'query'), ('k', 'key'), ('v', 'value')):
        name = name.replace(f'.attention.{ours}_proj.', f'.attention.attention.{theirs}.')
    return name.replace('.attention.o_proj.', '.attention.output.dense.')


def record(pack: str, model: torch.nn.Module, rename, mean: list[float], std: list[float], constructor: dict) -> None:
    """Fills the model by the weight rule, runs it on stored images and writes the pack."""
    model.eval()
    entries, checks = [], {}
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            official = rename(name)
            weight = golden_packs.golden_weight(official, tuple(tensor.shape), SEED)
            tensor.copy_(torch.from_numpy(weight))
            entries.append([official, list(tensor.shape), 'float32'])
            if len(entries) % 9 == 1:
                w64 = weight.astype(np.float64)
                checks[official] = {
                    'first': w64.ravel()[:3].tolist(),
                    'sum': w64.sum(),
                    'sum_abs': np.abs(w64).sum(),
                }
        images = torch.from_numpy(golden_packs.load_pack('lpips')['a'])
        resized = F.interpolate(images * 0.5 + 0.5, size=(56, 56), mode='nearest')
        colours = [torch.tensor(values)[None, :, None, None] for values in (mean, std)]
        out = model(pixel_values=(resized - colours[0]) / colours[1])
    arrays = {
        'input': (images.numpy(), 'images of the pack lpips (array a), [-1, 1]'),
        'resized': (resized.numpy(), 'input in [0, 1], nearest-neighbour resized to 56 pixels'),
        'features': (out.last_hidden_state[:, 0].numpy(), 'class token of last_hidden_state'),
        'nearest_256_224': (
            F.interpolate(torch.arange(256.0)[None, None], size=224, mode='nearest')[0, 0].numpy().astype(np.int32),
            'source index of each position when 256 are resized to 224',
        ),
    }
    manifest = {
        'pack': pack,
        'source': {'package': 'transformers', 'version': transformers.__version__, 'class': type(model).__name__},
        'torch': torch.__version__.split('+')[0],
        'numpy': np.__version__,
        'constructor': constructor,
        'layout': 'NCHW',
        'note': 'random weights by the rule; names are those of published files; pixels normalised before the model',
        'mean': mean,
        'std': std,
        'seed': SEED,
        'gain': 1.0,
        'overrides': [],
        'kept': [],
        'n_params': sum(p.numel() for p in model.parameters()),
        'weight_checks': checks,
        'state_dict': entries,
        'tensors': {
            name: {
                'shape': list(a.shape),
                'dtype': str(a.dtype),
                'absmax': float(np.abs(a).max()),
                'std': float(a.std()),
                'meaning': meaning,
            }
            for name, (a, meaning) in arrays.items()
        },
    }
    folder = golden_packs.GOLDEN / pack
    folder.mkdir(exist_ok=True)
    np.savez_compressed(folder / 'io.npz', **{name: a for name, (a, _) in arrays.items()})
    (folder / 'manifest.json').write_text(json.dumps(manifest, indent=1) + '\n')


if __name__ == '__main__':
    record(
        'clip_vision_small',
        transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**CLIP)),
        published_clip_name,
        [0.48145466, 0.4578275, 0.40821073],
        [0.26862954, 0.26130258, 0.27577711],
        CLIP,
    )
    record(
        'dinov2_small',
        transformers.Dinov2Model(transformers.Dinov2Config(**DINO)),
        published_dino_name,
        [0.485, 0.456, 0.406],
        [0.229, 0.224, 0.225],
        DINO,
    )
