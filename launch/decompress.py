"""Decompresses what launch/compress.py wrote.

    python launch/decompress.py photo.bin --out=again.png
    python launch/decompress.py compressed/ --weights=runs/fqgan --out=pictures/
    python launch/decompress.py - --weights=runs/fqgan < photo.bin > photo.png

It needs the weights, and the prior, that the file was written with; their fingerprints are in it.
"""

from absl import flags

from tesserax.launch import cli

_WEIGHTS = flags.DEFINE_string(
    'weights', None, 'Run folder, checkpoint of a run, or converted weights; default: those of the package.'
)
_PRIOR = flags.DEFINE_string(
    'prior', None, "Tables of launch/fit_prior.py; default: those beside the weights; '': none."
)
_OUT = flags.DEFINE_string(
    'out', None, 'What to write: a file; for a folder, a folder. Default: a .png beside the file.'
)
_FORCE = flags.DEFINE_bool('force', False, 'Whether existing files are replaced.')


def main(source: str) -> int:
    """Decompresses a file, a folder or standard input."""
    from tesserax.launch.compression_files import decompress_files, planned
    from tesserax.launch.open_codec import open_codec

    work = planned(source, _OUT.value, ('.bin',), '.png', force=_FORCE.value)
    return min(1, decompress_files(open_codec(_WEIGHTS.value, _PRIOR.value), work, force=_FORCE.value))


if __name__ == '__main__':
    cli.run(main, positional=['bitstream, folder or -'])
