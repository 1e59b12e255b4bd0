"""Decompresses what launch/compress.py wrote.

    python launch/decompress.py photo.bin again.png
    python launch/decompress.py compressed/ images/ --weights=runs/fqgan
    python launch/decompress.py - --weights=runs/fqgan < photo.bin > photo.png
    python launch/decompress.py photo.bin --partial --restore=runs/maskgit       what is lost is made up

It needs the weights, and the prior, that the file was written with; their fingerprints are in it.
"""

from absl import flags

from vistok import cli

_WEIGHTS = flags.DEFINE_string(
    'weights', None, 'Run folder, checkpoint of a run, or converted weights; default: those of the package.'
)
_PRIOR = flags.DEFINE_string(
    'prior',
    None,
    "Tables of launch/fit_prior.py, or a generator's run folder; default: the tables beside the weights; '': none.",
)
_NESTED = flags.DEFINE_string('nested', None, 'Tables of launch/nest_codebook.py; default: those beside the weights.')
_PARTIAL = flags.DEFINE_bool('partial', False, 'Whether packets may be missing or damaged; their ids are made up.')
_RESTORE = flags.DEFINE_string(
    'restore', None, 'Run folder of a maskgit on the same tokens that restores lost ids; default: the nearest known.'
)
_FORCE = flags.DEFINE_bool('force', False, 'Whether existing files are replaced.')


def main(source: str, out: str | None = None) -> int:
    """Decompresses a file, a folder or standard input.

    Args:
      source: what is read; '-' is standard input.
      out: what is written: an image of any format, for a folder a folder; '-' is standard output.  Default: a .png
        beside the bitstream, or standard output for standard input.
    """
    from vistok.compression.loss_concealment import Restorer, copy_nearest_known
    from vistok.errors import UserError
    from vistok.experiments.batch_compression import decompress_files, planned
    from vistok.experiments.codecs import open_codec, open_restorer

    work = planned(source, out, ('.bin',), '.png', force=_FORCE.value)
    if _RESTORE.value is not None and not _PARTIAL.value:
        raise UserError('--restore is for files of which something is lost: add --partial')
    codec = open_codec(_WEIGHTS.value, _PRIOR.value, nested=_NESTED.value)
    restore: Restorer | None = copy_nearest_known if _PARTIAL.value else None
    if _RESTORE.value is not None:
        restore = open_restorer(_RESTORE.value, codec.weights_fingerprint)
    return min(1, decompress_files(codec, work, restore=restore, force=_FORCE.value))


if __name__ == '__main__':
    cli.run(main, positional=['bitstream, folder or -'], optional=['what to write'])
