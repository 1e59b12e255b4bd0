"""tesserax: images to discrete tokens, tokens to images."""

import os
from typing import Any

from tesserax.compression.codec import Codec
from tesserax.launch.official import from_official, to_official
from tesserax.tokenizers.tokenizer import Tokens, TokenSpec

__all__ = ['Codec', 'TokenSpec', 'Tokens', 'from_official', 'load', 'to_official']


def load(path: str | os.PathLike[str], which: int | str = 'latest') -> Any:
    """A trained model from a run folder or a converted file; see `tesserax.launch.load.load`."""
    from tesserax.launch.load import load as load_model  # brings the data pipeline along, so only when needed

    return load_model(path, which)
