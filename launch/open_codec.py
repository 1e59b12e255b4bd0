"""A codec from what lies on disk: weights, and the prior beside them."""

import dataclasses
from pathlib import Path

from tesserax.common.errors import UserError
from tesserax.compression import codec
from tesserax.compression.codec import Codec, fingerprint
from tesserax.compression.prior import StaticPrior
from tesserax.launch.load import load
from tesserax.tokenizers.trained import TrainedTokenizer

SHIPPED = Path(codec.__file__).parent / 'weights' / 'photographs.safetensors'
"""Weights that are part of the package; `weights/README.md` says how they were made."""


def open_tokenizer(weights: str) -> TrainedTokenizer:
    """The tokenizer of a run folder, one of its checkpoints, or a converted file; UserError if there is none."""
    model = load(weights)
    if not isinstance(model, TrainedTokenizer):
        raise UserError(f'{weights} holds no tokenizer but a {type(model).__name__}')
    return model


def open_codec(weights: str | None = None, prior: str | None = None, *, window: int | None = None) -> Codec:
    """A codec.

    Args:
      weights: a run folder, one of its checkpoints, or a converted file; default: those of the package.
      prior: a file of launch/fit_prior.py; default: the one beside the weights, if there is one; '' for none.
      window: side of the squares that the networks see, in pixels; default: the codec's.

    Raises:
      UserError: there are no such weights, or they are no tokenizer's.
    """
    weights = str(SHIPPED) if weights is None else weights
    model = open_tokenizer(weights)
    path = default_prior(weights) if prior is None else Path(prior) if prior else None
    tables = StaticPrior.load(path) if path is not None and (prior or path.is_file()) else None
    opened = Codec(model, fingerprint(model.variables), tables)
    return opened if window is None else dataclasses.replace(opened, window=window)


def default_prior(weights: str) -> Path:
    """Where the prior of some weights lies: in the run folder, or beside the file."""
    path = Path(weights)
    if path.is_file():
        return path.with_suffix('.prior.safetensors')
    folder = path.parents[1] if path.parent.name == 'checkpoints' and path.name.isdigit() else path
    return folder / 'prior.safetensors'
