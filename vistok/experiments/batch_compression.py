"""Files, folders and standard input through a codec, with progress; one file that fails does not stop the others."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tqdm import tqdm

from vistok.compression.codec import Codec
from vistok.compression.loss_concealment import Restorer
from vistok.compression.window_coding import Progress
from vistok.errors import UserError
from vistok.experiments import image_files

Work = list[tuple[Path | None, Path | None]]
"""What is read and what is written; None is standard input or output."""


def planned(source: str, out: str | None, extensions: tuple[str, ...], suffix: str, *, force: bool) -> Work:
    """What there is to do.

    Raises:
      UserError: there is nothing, a folder is to go to standard output, or something to be written exists already and
        `force` is not given.
    """
    to_standard = out == image_files.STANDARD
    if source == image_files.STANDARD:
        work: Work = [(None, Path(out) if out and not to_standard else None)]
    elif to_standard:
        if Path(source).is_dir():
            raise UserError(f'{source} is a folder, which standard output cannot hold')
        work = [(path, None) for path, _ in image_files.planned(source, None, extensions, suffix)]
    else:
        work = list(image_files.planned(source, out, extensions, suffix))
    for _, target in work:
        if target is not None:
            image_files.check_new(target, force=force)
    return work


def compress_files(
    codec: Codec,
    work: Work,
    *,
    force: bool = False,
    bpp: float | None = None,
    max_bytes: int | None = None,
    grain_ratios: Sequence[float] | None = None,
) -> int:
    """Writes a bitstream for every image; gives the number of those that could not be compressed.

    Args:
      codec: which compresses.
      work: as `planned` gives it.
      force: whether existing files are replaced.
      bpp: bits per pixel to come near to; with nested codebooks and one grain, not to exceed.
      max_bytes: bytes that no bitstream may exceed.
      grain_ratios: shares of the grains; of the three at most one is given.

    Raises:
      UserError: the only image cannot be compressed, or more than one size is asked for.
    """
    if sum(option is not None for option in (bpp, max_bytes, grain_ratios)) > 1:
        raise UserError('only one of --bpp, --max_bytes and --grain_ratios can decide about the size')

    def convert(data: bytes, name: str, target: Path | None, progress: Progress) -> tuple[bytes, str]:
        image = image_files.read_image(data, name)
        packed = codec.compress(image, bpp=bpp, max_bytes=max_bytes, grain_ratios=grain_ratios, progress=progress)
        height, width, channels = image.shape
        rate = 8 * len(packed) / (height * width)
        part = f'1:{image.nbytes / len(packed):.0f}'
        return packed, f'{width}x{height}x{channels}, {len(packed)} bytes, {rate:.4f} bits per pixel, {part}'

    return _each(work, convert, force=force)


def decompress_files(codec: Codec, work: Work, *, restore: Restorer | None = None, force: bool = False) -> int:
    """Writes an image for every bitstream; gives the number of those that could not be decompressed.

    Args:
      codec: which decompresses.
      work: as `planned` gives it.
      restore: fills in what is lost, with a warning on standard error; None: nothing may be.
      force: whether existing files are replaced.

    Raises:
      UserError: the only bitstream cannot be decompressed.
    """

    def convert(data: bytes, name: str, target: Path | None, progress: Progress) -> tuple[bytes, str]:
        if restore is None:
            image = codec.decompress(data, progress=progress)
        else:
            partial = codec.decompress_partial(data, restore, progress=progress)
            image = partial.image
            if partial.lost:
                share = f'{partial.lost} of {partial.known.size} tokens ({partial.lost / partial.known.size:.1%})'
                print(f'warning: {name}: {share} were lost and have been made up', file=sys.stderr)
        height, width, channels = image.shape
        kind = '.png' if target is None else target.suffix
        return image_files.image_bytes(image, kind), f'{width}x{height}x{channels}'

    return _each(work, convert, force=force)


def _each(work: Work, convert: Callable[[bytes, str, Path | None, Progress], tuple[bytes, str]], *, force: bool) -> int:
    failed = 0
    for path, target in work:
        name = 'standard input' if path is None else str(path)
        try:
            data = sys.stdin.buffer.read() if path is None else path.read_bytes()
            with tqdm(desc=name, unit='window', leave=False, disable=None) as bar:

                def show(done: int, total: int, bar: tqdm = bar) -> None:
                    bar.total, bar.n = total, done
                    bar.refresh()

                converted, about = convert(data, name, target, show)
            if target is None:
                sys.stdout.buffer.write(converted)
                continue
            image_files.write_new(target, converted, force=force)
            print(f'{name} -> {target}: {about}')
        except (UserError, ValueError) as error:
            if len(work) == 1:
                raise
            failed += 1
            print(f'error: {name}: {error}', file=sys.stderr)
    return failed
