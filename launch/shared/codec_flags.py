"""Flags that commands around bitstreams share."""

from collections.abc import Callable

import vistok
from vistok.launch.shared.flags import Flag, Flags


def define_model(flags: Flags) -> Flag:
    """Defines `--model`, which has a default here."""
    return flags.model('Run folder, one of its checkpoints, or a weights file; default: the weights of the package.')


def define_prior(flags: Flags) -> Flag:
    """Defines the flag `--prior`."""
    return flags.string(
        'prior',
        None,
        "Tables of `vistok fit_prior`, or a generator's run folder; default: the tables beside the weights; '': none.",
        may_be_empty=True,
    )


def define_nested(flags: Flags) -> Flag:
    """Defines the flag `--nested`."""
    return flags.string(
        'nested',
        None,
        "Tables of `vistok nest_codebook`; default: the tables beside the weights; '': none.",
        may_be_empty=True,
    )


def define_limits(flags: Flags) -> Callable[[], 'vistok.Limits']:
    """Defines `--max_pixels`, `--max_memory` and `--max_seconds`; returns a function that reads them."""
    pixels = flags.integer('max_pixels', None, 'Pixels of an image, or ids, at most; default: 134217728.', least=1)
    mib = flags.integer('max_memory', None, 'MiB for decoding at most, networks apart; default: 4096.', least=1)
    seconds = flags.number('max_seconds', None, 'Seconds for decoding at most; default: 1200.')

    def read() -> 'vistok.Limits':  # not looked up before it is called, so that help is quick
        memory = None if mib.value is None else mib.value << 20
        given = {'pixels': pixels.value, 'memory': memory, 'seconds': seconds.value}
        return vistok.Limits(**{name: value for name, value in given.items() if value is not None})

    return read
