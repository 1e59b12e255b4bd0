"""Description of a bitstream: its header, and bytes and bits of every kind of stream.

    vistok describe photo.bin
    vistok describe photo.bin --out=grains.png       the map of grains: the finer, the brighter

No weights are needed: ids are not decoded.  The checksum of the whole file is compared.
"""

import vistok
from vistok.launch.shared import command
from vistok.launch.shared.codec_flags import define_limits
from vistok.launch.shared.flags import Flags

FLAGS = Flags(__doc__, ['bitstream or -'])
_OUT = FLAGS.out('Image file that receives the map of grains, one pixel per grid cell.', old=['picture', 'image'])
_FORCE = FLAGS.force()
_LIMITS = define_limits(FLAGS)


def main(source: str) -> None:
    """Prints the description of a bitstream."""
    print(vistok.describe(source, _OUT.value, force=_FORCE.value, limits=_LIMITS()))


if __name__ == '__main__':
    command.run(main, FLAGS)
