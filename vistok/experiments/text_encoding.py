"""Features of captions and prompts, computed once for generators on text."""

import dataclasses
from pathlib import Path

from vistok.data.text.captions import read_captions
from vistok.data.text.features import write_text_features
from vistok.errors import UserError
from vistok.experiments.model_inputs import PathLike
from vistok.pretrained.text_encoder import load_text_encoder


@dataclasses.dataclass(frozen=True)
class TextFeaturesReport:
    """Features of texts on disk.

    Attributes:
      path: folder of the features.
      complete: False while other processes still work on their parts.
      texts: number of texts.
      empty: number of texts that are empty because an image had no caption.
      encoder: name of the text encoder.
      tokens: vectors of a text at most.
      width: of the vectors.
    """

    path: Path
    complete: bool
    texts: int
    empty: int
    encoder: str
    tokens: int
    width: int

    def __str__(self) -> str:
        if not self.complete:
            return f'done; other processes still work on their parts of {self.path}'
        empty = f', {self.empty} of them empty because there was none' if self.empty else ''
        return (
            f'{self.path}: {self.texts} texts{empty}, at most {self.tokens} vectors of {self.width} by {self.encoder}'
        )


def text_features(
    source: PathLike,
    out: PathLike,
    *,
    encoder: str = 'google/flan-t5-xl',
    batch_size: int = 32,
    part_size: int = 512,
    process_id: int = 0,
    process_count: int = 1,
    progress: bool = False,
) -> TextFeaturesReport:
    """Encodes captions or prompts into a folder; killed at any moment, the same call goes on.

    Args:
      source: folder of images with captions, `.jsonl` file of captions, or `.txt` file with a prompt in each line.
      out: folder for the features.
      encoder: name or folder of a T5 of the Hugging Face hub, or 'stand_in'.
      batch_size: texts that are encoded at a time.
      part_size: texts after which the work done is safe.
      process_id: number of this process, from 0.
      process_count: number of processes that share the work.
      progress: shows a progress bar.

    Raises:
      UserError: there are no captions, the folder holds features of others, or the encoder cannot be loaded.
    """
    check_processes(process_id, process_count)
    if min(batch_size, part_size) < 1:
        raise UserError(f'batch and part have at least one text, got {batch_size} and {part_size}')
    captions, path = read_captions(Path(source)), Path(out)
    loaded = load_text_encoder(encoder)
    complete = write_text_features(
        path,
        captions,
        loaded,
        part_size=part_size,
        batch_size=batch_size,
        process_id=process_id,
        process_count=process_count,
        progress=progress,
    )
    texts = [text for several in captions.values() for text in several]
    return TextFeaturesReport(path, complete, len(texts), texts.count(''), loaded.name, loaded.tokens, loaded.width)


def check_processes(process_id: int, process_count: int) -> None:
    """Raises a UserError unless the number of a process is one of their count."""
    if not 0 <= process_id < process_count:
        raise UserError(f'the number of this process is {process_id}; it must be in 0 .. {process_count - 1}')
