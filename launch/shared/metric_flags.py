"""Flags of commands that measure distributions of images."""

import json
from collections.abc import Sequence
from typing import Any

from vistok.errors import UserError
from vistok.launch.shared.flags import Flag, Flags


def define_protocol(flags: Flags) -> Flag:
    """Defines the flag `--protocol=NAME`."""
    return flags.string(
        'protocol',
        None,
        'Protocol of the measurement: adm, pytorch_fid, torch_fidelity, clean or stand_in; default: adm with '
        '--inception.',
    )


def define_inception(flags: Flags) -> Flag:
    """Defines the flag `--inception=FILE`."""
    return flags.string('inception', None, 'Inception weights of pytorch-fid.')


def define_inception_sha256(flags: Flags) -> Flag:
    """Defines the flag `--inception_sha256=DIGEST`."""
    return flags.string(
        'inception_sha256', None, 'Digest of the Inception weights, if they are not the published file.'
    )


def parse_settings(entries: Sequence[str]) -> dict[str, Any]:
    """Returns the settings of entries such as 'seed=3', numbers as numbers.

    Raises:
      UserError: an entry is not written so.
    """
    found: dict[str, Any] = {}
    for entry in entries:
        name, sign, value = entry.partition('=')
        if not sign:
            raise UserError(f'settings are written name=value, got {entry!r}')
        try:
            found[name] = json.loads(value)
        except json.JSONDecodeError:
            found[name] = value
    return found
