"""Flags that commands around bitstreams share."""

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
    )


def define_nested(flags: Flags) -> Flag:
    """Defines the flag `--nested`."""
    return flags.string(
        'nested', None, "Tables of `vistok nest_codebook`; default: the tables beside the weights; '': none."
    )
