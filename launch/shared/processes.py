"""Flags of commands that run as several processes, which join each other."""

from vistok.launch.shared.flags import Flag, Flags


def define(flags: Flags) -> dict[str, Flag]:
    """Defines the flags of commands that run as several processes."""
    return {
        'multiprocess': flags.switch('multiprocess', 'Joins the processes that the environment describes.'),
        'coordinator': flags.string('coordinator', None, 'Address HOST:PORT of process 0.'),
        'process_count': flags.process_count(None),
        'process_id': flags.process_id(None),
    }


def join(given: dict[str, Flag]) -> bool:
    """Joins the other processes, if the flags say that there are any; returns whether this is the first one."""
    import jax

    if given['multiprocess'].value or given['coordinator'].value:
        jax.distributed.initialize(given['coordinator'].value, given['process_count'].value, given['process_id'].value)
    return jax.process_index() == 0
