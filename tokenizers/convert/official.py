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
from vistok.weights.official import Official, called_with, numbers, shape_of
from vistok.weights.rules import Rule, StateDict, variable_shapes


def _image(module: Any, side: int = 64) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)


def _smallest_image(module: Any) -> tuple[Any, ...]:
    return (_image(module, module.spec.cell),)


_tokenizer = functools.partial(Official, shapes=called_with(_smallest_image), finished=TrainedTokenizer)


def _taming_levels(variables: Mapping[str, Any]) -> Sequence[Rule]:
    return taming.rules(taming.levels_of_ours(variables))


def _patchgan(state_dict: StateDict) -> PatchGAN:
    return PatchGAN(shape_of(state_dict, 'main.0.weight', 4)[0], _patchgan_layers(state_dict))


def _patchgan_layers(state_dict: StateDict) -> int:
    last = max(numbers(state_dict, r'main\.(\d+)\.'), default=0)
    return (last - 2) // 3


def _patchgan_layers_of_ours(variables: Mapping[str, Any]) -> int:
    return sum(name.startswith('norm_') for name in variables['params'])


def _stylegan(state_dict: StateDict) -> StyleGANDiscriminator:
    size = 4 * 2 ** len(numbers(state_dict, r'blocks\.(\d+)\.net\.'))
    width = shape_of(state_dict, 'blocks.0.weight', 4)[0]
    plain = variable_shapes(StyleGANDiscriminator(size), _image(None, size))['params']['conv_in']['kernel'].shape[-1]
    return StyleGANDiscriminator(size, max(width // plain, 1))


def _fqgan(variant: str) -> Official:
    return _tokenizer(
        model=functools.partial(fqgan.model, variant=variant),
        reading=lambda state_dict: fqgan.rules(),
        writing=lambda variables: fqgan.rules(),
        ignored=fqgan.ignored_names,
    )


_LLAMAGEN = _tokenizer(
    model=llamagen.model,
    reading=lambda state_dict: llamagen.rules(),
    writing=lambda variables: llamagen.rules(),
    ignored=lambda module: llamagen.IGNORED,
)

OFFICIAL: dict[str, Official] = {
    'llamagen_vq16': _LLAMAGEN,
    'llamagen_vq8': _LLAMAGEN,
    'taming_vqgan_f16_1024': _tokenizer(
        model=taming.model,
        reading=lambda state_dict: taming.rules(taming.levels_of(state_dict)),
        writing=_taming_levels,
        ignored=lambda module: taming.IGNORED,
    ),
    'fqgan_dual': _fqgan('dual'),
    'fqgan_triple': _fqgan('triple'),
    'vqgan_lc': _tokenizer(
        model=vqgan_lc.model,
        reading=lambda state_dict: vqgan_lc.rules(taming.levels_of(state_dict)),
        writing=vqgan_lc.rules_of_ours,
        ignored=lambda module: vqgan_lc.IGNORED,
    ),
    'simvq': _tokenizer(
        model=simvq.model,
        reading=lambda state_dict: simvq.rules(simvq.levels_of(state_dict)),
        writing=lambda variables: simvq.rules(simvq.levels_of_ours(variables)),
        ignored=lambda module: simvq.IGNORED,
        prepared=simvq.use_averages,
    ),
    'fvq': _tokenizer(
        model=fvq.model,
        reading=lambda state_dict: fvq.rules(fvq.is_bridged(state_dict)),
        writing=lambda variables: fvq.rules(fvq.is_bridged_of_ours(variables)),
        ignored=lambda module: fvq.IGNORED,
    ),
    'dq_vae': _tokenizer(
        model=dq_vae.model,
        reading=dq_vae.import_rules,
        writing=dq_vae.export_rules,
        ignored=lambda module: dq_vae.IGNORED,
        defaults=dq_vae.defaults,
    ),
    'control_gic': _tokenizer(
        model=control_gic.model,
        reading=control_gic.import_rules,
        writing=control_gic.export_rules,
        ignored=lambda module: control_gic.IGNORED,
    ),
    'maskgit_vqgan': _tokenizer(
        model=maskgit_vqgan.model,
        reading=lambda state_dict: maskgit_vqgan.rules(taming.levels_of(state_dict)),
        writing=lambda variables: maskgit_vqgan.rules(maskgit_vqgan.levels_of_ours(variables)),
        ignored=lambda module: (),
        prepared=maskgit_vqgan.normalize_names,
    ),
    'patchgan': Official(
        model=_patchgan,
        reading=lambda state_dict: patchgan_rules(_patchgan_layers(state_dict)),
        writing=lambda variables: patchgan_rules(_patchgan_layers_of_ours(variables)),
        ignored=lambda module: PATCHGAN_IGNORED,
        shapes=called_with(lambda module: (_image(module),), train=True),
    ),
    'stylegan_disc': Official(
        model=_stylegan,
        reading=lambda state_dict: stylegan_rules(),
        writing=lambda variables: stylegan_rules(),
        ignored=lambda module: STYLEGAN_IGNORED,
        shapes=called_with(lambda module: (_image(module, module.image_size),)),
    ),
    'lpips': Official(
        model=lambda state_dict: LPIPS(),
        reading=lpips_rules,
        writing=lambda variables: lpips_rules({'net.slice1.0.weight': np.zeros(0)}),
        ignored=lambda module: LPIPS_IGNORED,
        shapes=called_with(lambda module: (_image(module), _image(module))),
    ),
    'inception_fid': Official(
        model=lambda state_dict: FIDInception(),
        reading=lambda state_dict: inception_rules(),
        writing=lambda variables: inception_rules(),
        ignored=lambda module: INCEPTION_IGNORED,
        shapes=called_with(lambda module: (_image(module, SIDE),)),
    ),
}
"""The names of one paper differ in nothing but their sizes, which the shapes give."""
