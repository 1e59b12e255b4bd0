"""Official weights by name: everything that `from_official` knows."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tesserax.common.convert import ConversionError, Network, Rule, StateDict, to_ours, variable_shapes
from tesserax.common.convert import to_official as apply_backwards
from tesserax.common.nn.convert import PATCHGAN_IGNORED, STYLEGAN_IGNORED, patchgan_rules, stylegan_rules
from tesserax.common.nn.patchgan import PatchGAN
from tesserax.common.nn.stylegan_discriminator import StyleGANDiscriminator
from tesserax.common.pretrained.convert import INCEPTION_IGNORED, LPIPS_IGNORED, inception_rules, lpips_rules
from tesserax.common.pretrained.inception import SIDE, FIDInception
from tesserax.common.pretrained.lpips import LPIPS
from tesserax.tokenizers.convert import control_gic, dq_vae, fqgan, fvq, llamagen, simvq, taming, vqgan_lc
from tesserax.tokenizers.convert.llamagen import numbers, shape_of
from tesserax.tokenizers.tokenizer import Tokenizer
from tesserax.tokenizers.trained import TrainedTokenizer


@dataclasses.dataclass(frozen=True)
class Official:
    """How one kind of official weights becomes a model.

    Attributes:
      model: the module with the sizes of the given weights.
      reading: rules for the given weights.
      writing: rules for our variables.
      ignored: patterns of entries that have no place in the module.
      inputs: shapes of the arrays the module is called with.
      options: what else it is called with.
      defaults: entries that official weights may lack, by official name.
      prepared: the entries under the names that everything else here expects.
    """

    model: Callable[[StateDict], nn.Module]
    reading: Callable[[StateDict], Sequence[Rule]]
    writing: Callable[[Mapping[str, Any]], Sequence[Rule]]
    ignored: Callable[[Any], Sequence[str]]
    inputs: Callable[[Any], tuple[Any, ...]]
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    defaults: Callable[[Any], StateDict] = lambda module: {}
    prepared: Callable[[StateDict], StateDict] = dict


def from_official(name: str, state_dict: StateDict, **arguments: Any) -> TrainedTokenizer | Network:
    """A model with official weights.

    Args:
      name: what the weights are of, one of `OFFICIAL`; sizes are read from the shapes.
      state_dict: arrays by official name, in PyTorch's layouts.
      **arguments: of the module, over those read from the weights (`dtype`, `remat`, `entropy_weight`; an FQGAN
        with `teachers=('', '')` drops the heads that predict the teachers' features).

    Returns:
      A tokenizer with its parameters (`encode`, `decode`), or a network with its variables (call it).

    Raises:
      ConversionError: an unknown name, or weights that do not fit.
    """
    kind = _kind(name)
    state_dict = kind.prepared(state_dict)
    module = kind.model(state_dict).clone(**arguments)
    state_dict = {**kind.defaults(module), **state_dict}
    shapes = variable_shapes(module, *kind.inputs(module), **kind.options)
    converted = to_ours(kind.reading(state_dict), state_dict, shapes, kind.ignored(module))
    variables = jax.tree.map(jnp.asarray, converted.variables)
    if isinstance(module, Tokenizer):
        return TrainedTokenizer(module, variables, converted.ignored)
    return Network(module, variables, converted.ignored)


def to_official(name: str, variables: Mapping[str, Any]) -> dict[str, Any]:
    """The official state dict of our variables: names and layouts of PyTorch, every value as it is.

    Raises:
      ConversionError: an unknown name, or variables of another model.
    """
    rules = _kind(name).writing(variables)
    return apply_backwards(rules, variables)


def _kind(name: str) -> Official:
    if name not in OFFICIAL:
        raise ConversionError(f'unknown name {name!r}; known: {", ".join(OFFICIAL)}')
    return OFFICIAL[name]


def _picture(module: Any, side: int = 64) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)


def _smallest_picture(module: Any) -> tuple[Any, ...]:
    return (_picture(module, module.spec.cell),)


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
    plain = variable_shapes(StyleGANDiscriminator(size), _picture(None, size))['params']['conv_in']['kernel'].shape[-1]
    return StyleGANDiscriminator(size, max(width // plain, 1))


def _fqgan(variant: str) -> Official:
    return Official(
        model=functools.partial(fqgan.model, variant=variant),
        reading=lambda state_dict: fqgan.rules(),
        writing=lambda variables: fqgan.rules(),
        ignored=fqgan.ignored,
        inputs=_smallest_picture,
    )


_LLAMAGEN = Official(
    model=llamagen.model,
    reading=lambda state_dict: llamagen.rules(),
    writing=lambda variables: llamagen.rules(),
    ignored=lambda module: llamagen.IGNORED,
    inputs=_smallest_picture,
)

OFFICIAL: dict[str, Official] = {
    'llamagen_vq16': _LLAMAGEN,
    'llamagen_vq8': _LLAMAGEN,
    'taming_vqgan_f16_1024': Official(
        model=taming.model,
        reading=lambda state_dict: taming.rules(taming.levels_of(state_dict)),
        writing=_taming_levels,
        ignored=lambda module: taming.IGNORED,
        inputs=_smallest_picture,
    ),
    'fqgan_dual': _fqgan('dual'),
    'fqgan_triple': _fqgan('triple'),
    'vqgan_lc': Official(
        model=vqgan_lc.model,
        reading=lambda state_dict: vqgan_lc.rules(taming.levels_of(state_dict)),
        writing=vqgan_lc.rules_of_ours,
        ignored=lambda module: vqgan_lc.IGNORED,
        inputs=_smallest_picture,
    ),
    'simvq': Official(
        model=simvq.model,
        reading=lambda state_dict: simvq.rules(simvq.levels_of(state_dict)),
        writing=lambda variables: simvq.rules(simvq.levels_of_ours(variables)),
        ignored=lambda module: simvq.IGNORED,
        inputs=_smallest_picture,
        prepared=simvq.averaged,
    ),
    'fvq': Official(
        model=fvq.model,
        reading=lambda state_dict: fvq.rules(fvq.is_bridged(state_dict)),
        writing=lambda variables: fvq.rules(fvq.is_bridged_of_ours(variables)),
        ignored=lambda module: fvq.IGNORED,
        inputs=_smallest_picture,
    ),
    'dq_vae': Official(
        model=dq_vae.model,
        reading=dq_vae.reading,
        writing=dq_vae.writing,
        ignored=lambda module: dq_vae.IGNORED,
        inputs=_smallest_picture,
        defaults=dq_vae.defaults,
    ),
    'control_gic': Official(
        model=control_gic.model,
        reading=control_gic.reading,
        writing=control_gic.writing,
        ignored=lambda module: control_gic.IGNORED,
        inputs=_smallest_picture,
    ),
    'patchgan': Official(
        model=_patchgan,
        reading=lambda state_dict: patchgan_rules(_patchgan_layers(state_dict)),
        writing=lambda variables: patchgan_rules(_patchgan_layers_of_ours(variables)),
        ignored=lambda module: PATCHGAN_IGNORED,
        inputs=lambda module: (_picture(module),),
        options={'train': True},
    ),
    'stylegan_disc': Official(
        model=_stylegan,
        reading=lambda state_dict: stylegan_rules(),
        writing=lambda variables: stylegan_rules(),
        ignored=lambda module: STYLEGAN_IGNORED,
        inputs=lambda module: (_picture(module, module.image_size),),
    ),
    'lpips': Official(
        model=lambda state_dict: LPIPS(),
        reading=lpips_rules,
        writing=lambda variables: lpips_rules({'net.slice1.0.weight': np.zeros(0)}),
        ignored=lambda module: LPIPS_IGNORED,
        inputs=lambda module: (_picture(module), _picture(module)),
    ),
    'inception_fid': Official(
        model=lambda state_dict: FIDInception(),
        reading=lambda state_dict: inception_rules(),
        writing=lambda variables: inception_rules(),
        ignored=lambda module: INCEPTION_IGNORED,
        inputs=lambda module: (_picture(module, SIDE),),
    ),
}
"""What `from_official` knows.  The names of one paper differ in nothing but their sizes, which the shapes give."""
