"""Says what a compressed image holds; needs no weights.

    python launch/describe.py photo.bin
    python launch/describe.py photo.bin --image=grains.png       the map of grains: the finer, the brighter

Ids are not decoded; the checksum of the whole file is compared.
"""

import sys

from absl import flags

from vistok import cli

_IMAGE = flags.DEFINE_string('picture', None, 'Where to write the map of grains, one pixel per grid cell.')
_FORCE = flags.DEFINE_bool('force', False, 'Whether an existing image is replaced.')


def main(source: str) -> None:
    """Prints the header, and bytes and bits of every kind of stream."""
    from pathlib import Path

    from vistok.compression.format.description import describe
    from vistok.experiments import image_files

    description = describe(sys.stdin.buffer.read() if source == image_files.STANDARD else Path(source).read_bytes())
    for name, text in description.lines():
        print(f'{name:24} {text}')
    if _IMAGE.value is not None:
        path = Path(_IMAGE.value)
        image = image_files.image_bytes(description.grain_image(), path.suffix)
        image_files.write_new(path, image, force=_FORCE.value)
        print(f'wrote {path}')


if __name__ == '__main__':
    cli.run(main, positional=['bitstream or -'])
