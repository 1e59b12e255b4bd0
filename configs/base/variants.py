"""Variants of a config: parts that are merged in one order, whatever order they are named in."""

from collections.abc import Callable, Mapping

from ml_collections import ConfigDict

Variant = Callable[[ConfigDict], None]


def merge(config: ConfigDict, named: str, **groups: Mapping[str, Variant]) -> ConfigDict:
    """Applies the named variants to a config, and writes into `config.variants` which they were.

    Variants of one group are alternatives.  Groups are applied in the order in which they are given, so that a later
    one may build upon an earlier one: a method, then the data, then the size.

    Args:
      config: the default variant, which is changed and returned.
      named: names of variants, joined by commas, in any order.
      **groups: variants by name, by name of the group.

    Raises:
      ValueError: an unknown variant, two of one group, or variants that do not combine.
    """
    wanted = {name for name in named.split(',') if name}
    known = [name for variants in groups.values() for name in variants]
    if unknown := wanted - set(known):
        raise ValueError(f'unknown variant {min(unknown)!r}; known: {", ".join(known)}')
    chosen = []
    for group, variants in groups.items():
        alternatives = [name for name in variants if name in wanted]
        if len(alternatives) > 1:
            raise ValueError(f'{" and ".join(alternatives)} are alternatives ({group}): name one of them')
        for name in alternatives:
            variants[name](config)
            chosen.append(name)
    config.variants = ','.join(chosen)
    return config
