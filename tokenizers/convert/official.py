"""Official weights of tokenizers, and of networks that serve them, by name."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vistok.pretrained.convert import INCEPTION_IGNORED, LPIPS_IGNORED, inception_rules, lpips_rules
from vistok.pretrained.inception import SIDE, FIDInception
from vistok.pretrained.lpips import LPIPS
from vistok.tokenizers.convert import control_gic, dq_vae, fqgan, fvq, llamagen, maskgit_vqgan, simvq, taming, vqgan_lc
from vistok.tokenizers.convert.discriminators import PATCHGAN_IGNORED, STYLEGAN_IGNORED, patchgan_rules, stylegan_rules
from vistok.tokenizers.networks.patchgan import PatchGAN
from vistok.tokenizers.networks.stylegan_discriminator import StyleGANDiscriminator
from vistok.tokenizers.trained import TrainedTokenizer
from vistok.weights.official import Official, find_numbers, infer_shapes, read_shape
from vistok.weights.rules import Rule, StateDict, variable_shapes


def _image(module: Any, side: int = 64) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)


def _smallest_image(module: Any) -> tuple[Any, ...]:
    return (_image(module, module.spec.cell),)


_tokenizer = functools.partial(Official, shapes=infer_shapes(_smallest_image), wrap=TrainedTokenizer)


def _taming_levels(variables: Mapping[str, Any]) -> Sequence[Rule]:
    return taming.rules(taming.levels_of_ours(variables))


def _patchgan(state_dict: StateDict) -> PatchGAN:
    return PatchGAN(read_shape(state_dict, 'main.0.weight', 4)[0], _patchgan_layers(state_dict))


def _patchgan_layers(state_dict: StateDict) -> int:
    last = max(find_numbers(state_dict, r'main\.(\d+)\.'), default=0)
    return (last - 2) // 3


def _patchgan_layers_of_ours(variables: Mapping[str, Any]) -> int:
    return sum(name.startswith('norm_') for name in variables['params'])


def _stylegan(state_dict: StateDict) -> StyleGANDiscriminator:
    size = 4 * 2 ** len(find_numbers(state_dict, r'blocks\.(\d+)\.net\.'))
    width = read_shape(state_dict, 'blocks.0.weight', 4)[0]
    plain = variable_shapes(StyleGANDiscriminator(size), _image(None, size))['params']['conv_in']['kernel'].shape[-1]
    return StyleGANDiscriminator(size, max(width // plain, 1))


def _fqgan(variant: str) -> Official:
    return _tokenizer(
        model=functools.partial(fqgan.model, variant=variant),
        import_rules=lambda state_dict: fqgan.rules(),
        export_rules=lambda variables: fqgan.rules(),
        ignored=fqgan.ignored_names,
    )


_LLAMAGEN = _tokenizer(
    model=llamagen.model,
    import_rules=lambda state_dict: llamagen.rules(),
    export_rules=lambda variables: llamagen.rules(),
    ignored=lambda module: llamagen.IGNORED,
)

OFFICIAL: dict[str, Official] = {
    'llamagen_vq16': _LLAMAGEN,
    'llamagen_vq8': _LLAMAGEN,
    'taming_vqgan_f16_1024': _tokenizer(
        model=taming.model,
        import_rules=lambda state_dict: taming.rules(taming.levels_of(state_dict)),
        export_rules=_taming_levels,
        ignored=lambda module: taming.IGNORED,
    ),
    'fqgan_dual': _fqgan('dual'),
    'fqgan_triple': _fqgan('triple'),
    'vqgan_lc': _tokenizer(
        model=vqgan_lc.model,
        import_rules=lambda state_dict: vqgan_lc.rules(taming.levels_of(state_dict)),
        export_rules=vqgan_lc.rules_of_ours,
        ignored=lambda module: vqgan_lc.IGNORED,
    ),
    'simvq': _tokenizer(
        model=simvq.model,
        import_rules=lambda state_dict: simvq.rules(simvq.levels_of(state_dict)),
        export_rules=lambda variables: simvq.rules(simvq.levels_of_ours(variables)),
        ignored=lambda module: simvq.IGNORED,
        normalize_names=simvq.use_averages,
    ),
    'fvq': _tokenizer(
        model=fvq.model,
        import_rules=lambda state_dict: fvq.rules(fvq.is_bridged(state_dict)),
        export_rules=lambda variables: fvq.rules(fvq.is_bridged_of_ours(variables)),
        ignored=lambda module: fvq.IGNORED,
    ),
    'dq_vae': _tokenizer(
        model=dq_vae.model,
        import_rules=dq_vae.import_rules,
        export_rules=dq_vae.export_rules,
        ignored=lambda module: dq_vae.IGNORED,
        defaults=dq_vae.defaults,
    ),
    'control_gic': _tokenizer(
        model=control_gic.model,
        import_rules=control_gic.import_rules,
        export_rules=control_gic.export_rules,
        ignored=lambda module: control_gic.IGNORED,
    ),
    'maskgit_vqgan': _tokenizer(
        model=maskgit_vqgan.model,
        import_rules=lambda state_dict: maskgit_vqgan.rules(taming.levels_of(state_dict)),
        export_rules=lambda variables: maskgit_vqgan.rules(maskgit_vqgan.levels_of_ours(variables)),
        ignored=lambda module: (),
        normalize_names=maskgit_vqgan.normalize_names,
    ),
    'patchgan': Official(
        model=_patchgan,
        import_rules=lambda state_dict: patchgan_rules(_patchgan_layers(state_dict)),
        export_rules=lambda variables: patchgan_rules(_patchgan_layers_of_ours(variables)),
        ignored=lambda module: PATCHGAN_IGNORED,
        shapes=infer_shapes(lambda module: (_image(module),), train=True),
    ),
    'stylegan_disc': Official(
        model=_stylegan,
        import_rules=lambda state_dict: stylegan_rules(),
        export_rules=lambda variables: stylegan_rules(),
        ignored=lambda module: STYLEGAN_IGNORED,
        shapes=infer_shapes(lambda module: (_image(module, module.image_size),)),
    ),
    'lpips': Official(
        model=lambda state_dict: LPIPS(),
        import_rules=lpips_rules,
        export_rules=lambda variables: lpips_rules({'net.slice1.0.weight': np.zeros(0)}),
        ignored=lambda module: LPIPS_IGNORED,
        shapes=infer_shapes(lambda module: (_image(module), _image(module))),
    ),
    'inception_fid': Official(
        model=lambda state_dict: FIDInception(),
        import_rules=lambda state_dict: inception_rules(),
        export_rules=lambda variables: inception_rules(),
        ignored=lambda module: INCEPTION_IGNORED,
        shapes=infer_shapes(lambda module: (_image(module, SIDE),)),
    ),
}
"""The names of one paper differ in nothing but their sizes, which the shapes give."""
