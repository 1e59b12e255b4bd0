"""Weights files of trained tokenizers, to be kept or passed on."""

import dataclasses
from pathlib import Path

from vistok.experiments import image_files
from vistok.experiments.model_inputs import Model, PathLike, check_new_weights, resolve_tokenizer
from vistok.experiments.saved_models import round_to_half, save_model


@dataclasses.dataclass(frozen=True)
class ExportReport:
    """Weights file of a tokenizer.

    Attributes:
      path: the file.
      model: class of the tokenizer.
    """

    path: Path
    model: str

    def __str__(self) -> str:
        return f'wrote {self.path}: {self.model}, {self.path.stat().st_size / 2**20:.2f} MiB'


def export(
    model: Model,
    out: PathLike,
    *,
    checkpoint: int | str = 'latest',
    half: bool = False,
    note: str = '',
    force: bool = False,
) -> ExportReport:
    """Writes a tokenizer as one `.safetensors` file, which `vistok.load` reads.

    Args:
      model: tokenizer, or its path.
      out: file to write.
      checkpoint: of a run folder: 'latest', 'best', or a step.
      half: rounds float32 values to float16.  Tokens and bitstreams of rounded weights are not those of the others.
      note: text about the weights that the file holds, such as data and licence.
      force: replaces an existing file.

    Raises:
      UserError: there is no such tokenizer, or the file cannot be written.
    """
    path = check_new_weights(out)
    image_files.check_new(path, force=force)
    tokenizer = resolve_tokenizer(model, checkpoint)
    save_model(round_to_half(tokenizer) if half else tokenizer, path, {'note': note} if note else {})
    return ExportReport(path, type(tokenizer.module).__name__)
