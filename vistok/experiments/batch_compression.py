"""Compression of files, folders and standard input, with progress; one file that fails does not stop the others."""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tqdm import tqdm

from vistok.compression.codec import Codec
from vistok.compression.loss_concealment import Restorer, copy_nearest_known
from vistok.compression.window_coding import Progress
from vistok.errors import UserError
from vistok.experiments import image_files
from vistok.experiments.bitstream_files import read_bitstream
from vistok.experiments.codecs import open_codec, open_restorer
from vistok.experiments.model_inputs import PathLike

Work = list[tuple[Path | None, Path | None]]
"""Files to read and to write; None is standard input or output."""
OpenCodec = Callable[[], Codec]
"""Function that opens a codec, called once the files to read and to write are known."""


def list_work(source: PathLike, out: PathLike | None, extensions: tuple[str, ...], suffix: str, *, force: bool) -> Work:
    """Lists the files to read and to write.

    Args:
      source: a file or folder; '-': standard input.
      out: a file or, for a folder, a folder; '-': standard output.  None: beside what is read, or standard output for
        standard input.
      extensions: of the files to take from a folder.
      suffix: extension of what is written, unless `out` names a file.
      force: replaces existing files.

    Raises:
      UserError: there is nothing, a folder is to go to standard output, or something to be written exists already and
        `force` is not given.
    """
    source, out = os.fspath(source), None if out is None else os.fspath(out)
    to_standard = out == image_files.STANDARD
    if source == image_files.STANDARD:
        work: Work = [(None, Path(out) if out and not to_standard else None)]
    elif to_standard:
        if Path(source).is_dir():
            raise UserError(f'{source} is a folder, which standard output cannot hold')
        work = [(path, None) for path, _ in image_files.pair_files(source, None, extensions, suffix)]
    else:
        work = list(image_files.pair_files(source, out, extensions, suffix))
    for _, target in work:
        if target is not None:
            image_files.check_new(target, force=force)
    return work


def compress_files(
    source: PathLike,
    out: PathLike | None = None,
    *,
    codec: Codec | OpenCodec = open_codec,
    bpp: float | None = None,
    max_bytes: int | None = None,
    grain_ratios: Sequence[float] | None = None,
    force: bool = False,
) -> int:
    """Compresses a file, a folder or standard input.

    Args:
      source: image or folder of images; '-': standard input.
      out: see `list_work`.
      codec: codec that compresses, or a function that opens it, such as `functools.partial(vistok.codec, 'runs/a')`.
      bpp: bits per pixel to come near to; with nested codebooks and one grain, not to exceed.
      max_bytes: bytes that no bitstream may exceed.
      grain_ratios: shares of the grains; of the three at most one is given.
      force: replaces existing files.

    Returns:
      The number of images of a folder that could not be compressed.

    Raises:
      UserError: the only image cannot be compressed, more than one size is asked for, or see `list_work`.
    """
    if sum(option is not None for option in (bpp, max_bytes, grain_ratios)) > 1:
        raise UserError('only one of --bpp, --max_bytes and --grain_ratios can decide about the size')
    work = list_work(source, out, image_files.IMAGES, '.bin', force=force)
    codec = codec if isinstance(codec, Codec) else codec()

    def convert(data: bytes, name: str, target: Path | None, progress: Progress) -> tuple[bytes, str]:
        image = image_files.read_image(data, name)
        packed = codec.compress(image, bpp=bpp, max_bytes=max_bytes, grain_ratios=grain_ratios, progress=progress)
        height, width, channels = image.shape
        rate = 8 * len(packed) / (height * width)
        part = f'1:{image.nbytes / len(packed):.0f}'
        return packed, f'{width}x{height}x{channels}, {len(packed)} bytes, {rate:.4f} bits per pixel, {part}'

    return _convert_each(work, _read_all, convert, force=force)


def decompress_files(
    source: PathLike,
    out: PathLike | None = None,
    *,
    codec: Codec | OpenCodec = open_codec,
    partial: bool = False,
    restore: PathLike | Restorer | None = None,
    force: bool = False,
) -> int:
    """Decompresses a file, a folder or standard input.

    Args:
      source: bitstream or folder of bitstreams; '-': standard input.
      out: see `list_work`.
      codec: codec that decompresses, or a function that opens it.
      partial: fills in ids whose packets are missing or damaged, with a warning on standard error.
      restore: with `partial`, a function that fills in ids, or the run folder of a masked-token generator on the same
        tokens; None: the nearest known ids.
      force: replaces existing files.

    Returns:
      The number of bitstreams of a folder that could not be decompressed.

    Raises:
      UserError: the only bitstream cannot be decompressed, or see `list_work`.
    """
    if restore is not None and not partial:
        raise UserError('--restore is for files of which something is lost: add --partial')
    work = list_work(source, out, ('.bin',), '.png', force=force)
    codec = codec if isinstance(codec, Codec) else codec()
    restorer: Restorer
    if isinstance(restore, str | os.PathLike):
        restorer = open_restorer(os.fspath(restore), codec.tokenizer)
    else:
        restorer = copy_nearest_known if restore is None else restore

    def convert(data: bytes, name: str, target: Path | None, progress: Progress) -> tuple[bytes, str]:
        if not partial:
            image = codec.decompress(data, progress=progress)
        else:
            received = codec.decompress_partial(data, restorer, progress=progress)
            image = received.image
            if received.lost:
                share = f'{received.lost} of {received.known.size} tokens ({received.lost / received.known.size:.1%})'
                print(f'warning: {name}: {share} were lost and have been made up', file=sys.stderr)
        height, width, channels = image.shape
        kind = '.png' if target is None else target.suffix
        return image_files.image_bytes(image, kind), f'{width}x{height}x{channels}'

    def read(path: Path | None) -> bytes:
        return read_bitstream(image_files.STANDARD if path is None else path, codec.limits)

    return _convert_each(work, read, convert, force=force)


def _read_all(path: Path | None) -> bytes:
    return sys.stdin.buffer.read() if path is None else path.read_bytes()


def _convert_each(
    work: Work,
    read: Callable[[Path | None], bytes],
    convert: Callable[[bytes, str, Path | None, Progress], tuple[bytes, str]],
    *,
    force: bool,
) -> int:
    failed = 0
    for path, target in work:
        name = 'standard input' if path is None else str(path)
        try:
            data = read(path)
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
        except ValueError as error:
            if len(work) == 1:
                raise
            failed += 1
            print(f'error: {name}: {error}', file=sys.stderr)
    return failed
