"""Compresses images.

    python launch/compress.py photo.png                         writes photo.bin
    python launch/compress.py photo.png small.bin --bpp=0.2
    python launch/compress.py photo.png --max-bytes=4000
    python launch/compress.py images/ compressed/ --weights=runs/fqgan
    python launch/compress.py photo.png --codewords=256         fewer codewords: smaller
    python launch/compress.py photo.png --packets=4             some of which may get lost
    cat photo.jpg | python launch/compress.py - --weights=runs/fqgan > photo.bin

Nothing is overwritten without --force, and a file is written whole or not at all.
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
_BPP = flags.DEFINE_float(
    'bpp', None, 'Bits per pixel to come as near to as possible; needs a tokenizer with grains, or nested codebooks.'
)
_MAX_BYTES = flags.DEFINE_integer(
    'max_bytes', None, 'Bytes that no file may exceed; needs a tokenizer with grains, or nested codebooks.'
)
_SHARES = flags.DEFINE_list(
    'grain_ratios', None, 'Shares of the area of each grain, from coarse to fine, such as 0.1,0.4,0.5.'
)
_CODEWORDS = flags.DEFINE_integer(
    'codewords', None, 'Size of a smaller codebook that launch/nest_codebook.py made; default: the whole one.'
)
_NESTED = flags.DEFINE_string('nested', None, 'Tables of launch/nest_codebook.py; default: those beside the weights.')
_PACKETS = flags.DEFINE_integer(
    'packets', None, 'Into how many packets ids are dealt out, so that some may get lost; needs tokens of one size.'
)
_WINDOW = flags.DEFINE_integer('window', None, 'Side of the squares that the networks see at once, in pixels.')
_FORCE = flags.DEFINE_bool('force', False, 'Whether existing files are replaced.')


def main(source: str, out: str | None = None) -> int:
    """Compresses a file, a folder or standard input.

    Args:
      source: what is read; '-' is standard input.
      out: what is written: a file, for a folder a folder; '-' is standard output.  Default: beside the images, or
        standard output for standard input.
    """
    import dataclasses

    from vistok.compression.format.packets import PacketShape
    from vistok.errors import UserError
    from vistok.experiments.batch_compression import compress_files, planned
    from vistok.experiments.codecs import open_codec
    from vistok.experiments.image_files import IMAGES

    work = planned(source, out, IMAGES, '.bin', force=_FORCE.value)
    listed = _SHARES.value
    try:
        shares = None if listed is None else [float(share) for share in listed]
    except ValueError:
        raise UserError(f'--grain_ratios are numbers, got {listed}') from None
    codec = open_codec(_WEIGHTS.value, _PRIOR.value, nested=_NESTED.value, window=_WINDOW.value)
    if _CODEWORDS.value is not None:
        if codec.nested is None:
            raise UserError('there are no nested codebooks of these weights: make them with launch/nest_codebook.py')
        codec = codec.at_level(codec.nested.find_level(_CODEWORDS.value))
    if _PACKETS.value is not None:
        codec = dataclasses.replace(codec, packets=PacketShape.from_count(_PACKETS.value))
    failed = compress_files(
        codec, work, force=_FORCE.value, bpp=_BPP.value, max_bytes=_MAX_BYTES.value, grain_ratios=shares
    )
    return min(1, failed)


if __name__ == '__main__':
    cli.run(main, positional=['image, folder or -'], optional=['what to write'])
