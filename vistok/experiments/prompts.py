"""Prompts of generators on text, encoded by the text encoder that the generator was trained with."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from vistok.data.text.captions import read_captions
from vistok.data.text.features import PaddedText, TextFeatureSource, pad_features
from vistok.errors import UserError
from vistok.pretrained.text_encoder import load_text_encoder


@dataclasses.dataclass(frozen=True)
class Prompts:
    """Texts and their features.

    Attributes:
      texts: as they were written.
      text: their features.
    """

    texts: tuple[str, ...]
    text: PaddedText


def read_prompts(path: pathlib.Path, about: Mapping[str, Any]) -> Prompts:
    """Reads the prompts of a text file, or of a folder that `vistok text_features` wrote.

    Args:
      path: of either.
      about: `config.tokens.text` of the generator: 'encoder', 'tokens' and 'width'.

    Raises:
      UserError: there are none, or they are features of another encoder than the generator knows.
    """
    if path.is_dir():
        source = TextFeatureSource(path)
        found = {'encoder': source.encoder, 'tokens': source.tokens, 'width': source.width}
        _check(path, found, about)
        return Prompts(tuple(source.texts(name)[0] for name in source.names), source.first_features(source.names))
    texts = tuple(text for several in read_captions(path).values() for text in several)
    encoder = load_text_encoder(about['encoder'])
    _check(path, {'encoder': encoder.name, 'tokens': encoder.tokens, 'width': encoder.width}, about)
    each = [pad_features(vectors.astype(np.float16), encoder.tokens) for vectors in encoder.encode(texts)]
    return Prompts(texts, PaddedText(np.stack([x.features for x in each]), np.stack([x.mask for x in each])))


def _check(path: pathlib.Path, found: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    for key in ('encoder', 'tokens', 'width'):
        if found[key] != about[key]:
            raise UserError(
                f'the prompts in {path} do not fit this generator: their {key} is {found[key]}, it was trained with '
                f'{about[key]}'
            )
