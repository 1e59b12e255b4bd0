"""vistok: images to discrete tokens, tokens to images."""

import os
import pathlib
from typing import Any

# A checkout without symbolic links (a ZIP download, Windows) has small text files in their place: then the folders of
# the same names beside this package are its parts.
if any((pathlib.Path(__file__).parent / name).is_file() for name in ('tokenizers', 'generators', 'compression')):
    __path__.append(str(pathlib.Path(__file__).parents[1]))

from vistok.compression.codec import Codec
from vistok.experiments.official_models import from_official, to_official
from vistok.tokenizers.tokenizer import Tokens, TokenSpec

__all__ = ['Codec', 'TokenSpec', 'Tokens', 'from_official', 'load', 'to_official']


def load(path: str | os.PathLike[str], which: int | str = 'latest') -> Any:
    """A trained model from a run folder or a converted file; see `vistok.experiments.loading.load`."""
    from vistok.experiments.loading import load as load_model  # brings the data pipeline along, so only when needed

    return load_model(path, which)
