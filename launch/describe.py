"""Says what a compressed picture holds; needs no weights.

    python launch/describe.py photo.bin
    python launch/describe.py photo.bin --picture=grains.png       the map of grains: the finer, the brighter

Ids are not decoded; the checksum of the whole file is compared.
"""

import sys

from absl import flags

from vistok import cli

_PICTURE = flags.DEFINE_string('picture', None, 'Where to write the map of grains, one pixel per grid cell.')
_FORCE = flags.DEFINE_bool('force', False, 'Whether an existing picture is replaced.')


def main(source: str) -> None:
    """Prints the header, and bytes and bits of every kind of stream."""
    from pathlib import Path

    from vistok.compression.format.description import describe
    from vistok.experiments import image_files

    description = describe(sys.stdin.buffer.read() if source == image_files.STANDARD else Path(source).read_bytes())
    for name, text in description.lines():
        print(f'{name:24} {text}')
    if _PICTURE.value is not None:
        path = Path(_PICTURE.value)
        picture = image_files.picture_bytes(description.grain_picture(), path.suffix)
        image_files.write_new(path, picture, force=_FORCE.value)
        print(f'wrote {path}')


if __name__ == '__main__':
    cli.run(main, positional=['bitstream or -'])
