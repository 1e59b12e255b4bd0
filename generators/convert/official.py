"""Registry of official generator weights, by name."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax

from vistok.generators.convert import addp, dq_transformer, far, llamagen, vq_ddm, vqgan_lc_gpt
from vistok.generators.trained import TrainedGenerator
from vistok.weights.official import Official


def _shapes(generator: Any) -> Mapping[str, Any]:
    return jax.eval_shape(generator.init, jax.random.key(0))


def _attach_tokenizer(trained: TrainedGenerator, inside: Mapping[str, Any]) -> TrainedGenerator:
    """Adds the tokenizer that lies in the file of a generator, also inside a generator that decodes with it."""
    if 'tokenizer' not in inside:
        return trained
    tokenizer = inside['tokenizer']
    generator: Any = trained.generator
    if 'tokenizer' not in (field.name for field in dataclasses.fields(generator)):
        return dataclasses.replace(trained, tokenizer=tokenizer)
    return dataclasses.replace(
        trained,
        generator=dataclasses.replace(generator, tokenizer=tokenizer.module),
        variables={**trained.variables, 'tokenizer': tokenizer.variables},
        ignored=tuple(name for name in trained.ignored if not name.startswith('vqgan.')),
        tokenizer=tokenizer,
    )


_generator = functools.partial(
    Official,
    ignored=lambda generator: llamagen.IGNORED,
    shapes=_shapes,
    override=dataclasses.replace,
    wrap=TrainedGenerator,
    attach=_attach_tokenizer,
)

OFFICIAL: dict[str, Official] = {
    'llamagen_gpt': _generator(
        model=llamagen.model,
        import_rules=lambda state_dict: llamagen.rules(llamagen.layers_of(state_dict)),
        export_rules=lambda variables: llamagen.rules(llamagen.layers_of_ours(variables)),
    ),
    'fqgan_far': _generator(
        model=far.model,
        import_rules=lambda state_dict: far.rules(llamagen.layers_of(state_dict), far.head_layers_of(state_dict)),
        export_rules=lambda variables: far.rules(
            llamagen.layers_of_ours(variables), llamagen.layers_of_ours(variables, 'head')
        ),
    ),
    'vqgan_lc_gpt': _generator(
        model=vqgan_lc_gpt.model,
        import_rules=lambda state_dict: vqgan_lc_gpt.rules(vqgan_lc_gpt.layers_of(state_dict)),
        export_rules=lambda variables: vqgan_lc_gpt.rules(llamagen.layers_of_ours(variables)),
        ignored=lambda generator: vqgan_lc_gpt.IGNORED,
    ),
    'dq_transformer': _generator(
        model=dq_transformer.model,
        import_rules=dq_transformer.import_rules,
        export_rules=dq_transformer.export_rules,
        ignored=lambda generator: dq_transformer.IGNORED,
    ),
    'mage': _generator(
        model=addp.mage_model,
        import_rules=lambda state_dict: addp.mage_rules(addp.layers_of(state_dict)),
        export_rules=addp.mage_export_rules,
        ignored=lambda generator: addp.MAGE_IGNORED,
    ),
    'addp': _generator(  # without its tokenizer, which `launch` puts beside it
        model=addp.addp_model,
        import_rules=addp.addp_import_rules,
        export_rules=addp.addp_export_rules,
        ignored=lambda generator: addp.ADDP_IGNORED,
    ),
    'vq_ddm': _generator(
        model=vq_ddm.model,
        import_rules=lambda state_dict: vq_ddm.rules(),
        export_rules=lambda variables: vq_ddm.rules(),
        ignored=lambda generator: vq_ddm.IGNORED,
        defaults=vq_ddm.defaults,
    ),
}
"""Converters by name; models of one paper differ only in sizes, which the shapes give ('llamagen_gpt' serves text)."""
