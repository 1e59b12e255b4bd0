"""Flags that commands around bitstreams share."""

from vistok.launch.shared.flags import Flag, Flags


def model(flags: Flags) -> Flag:
    """Defines `--model`, which has a default here."""
    return flags.model('Run folder, one of its checkpoints, or a weights file; default: the weights of the package.')


def prior(flags: Flags) -> Flag:
    """Defines `--prior`."""
    return flags.string(
        'prior',
        None,
        "Tables of `vistok fit_prior`, or a generator's run folder; default: the tables beside the weights; '': none.",
    )


def nested(flags: Flags) -> Flag:
    """Defines `--nested`."""
    return flags.string(
        'nested', None, "Tables of `vistok nest_codebook`; default: the tables beside the weights; '': none."
    )
