"""Weights files of trained tokenizers and generators, to be kept or passed on."""

import dataclasses
from pathlib import Path

from vistok.errors import UserError
from vistok.experiments import image_files, loading
from vistok.experiments.model_inputs import Model, PathLike, check_new_weights, is_path, name_of_model
from vistok.experiments.saved_models import round_to_half, save_model
from vistok.generators.trained import TrainedGenerator
from vistok.tokenizers.trained import TrainedTokenizer


@dataclasses.dataclass(frozen=True)
class ExportReport:
    """Weights file of a trained model.

    Attributes:
      path: the file.
      model: class of the tokenizer or generator.
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
    """Writes a trained model as one `.safetensors` file, which `vistok.load` reads.

    The file of a generator does not hold its tokenizer, which is exported by itself.

    Args:
      model: tokenizer or generator, or its path.
      out: file to write.
      checkpoint: of a run folder: 'latest', 'best', or a step.
      half: rounds float32 values to float16.  Tokens and bitstreams of rounded weights are not those of the others.
      note: text about the weights that the file holds, such as data and licence.
      force: replaces an existing file.

    Raises:
      UserError: there is no such model, or the file cannot be written.
    """
    path = check_new_weights(out)
    image_files.check_new(path, force=force)
    trained = loading.load(model, checkpoint) if is_path(model) else model
    if not isinstance(trained, TrainedTokenizer | TrainedGenerator):
        raise UserError(
            f'{name_of_model(model)} holds neither a tokenizer nor a generator but a {type(trained).__name__}'
        )
    save_model(round_to_half(trained) if half else trained, path, {'note': note} if note else {})
    module = trained.module if isinstance(trained, TrainedTokenizer) else trained.generator
    return ExportReport(path, type(module).__name__)
