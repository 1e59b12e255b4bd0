"""Text encoders: Flan-T5, which LlamaGen's text-conditional models were trained with, and a stand-in without
weights.
"""

import hashlib
import html
import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from vistok.data.text.features import TextEncoder
from vistok.errors import UserError

FLAN_T5_XL = 'google/flan-t5-xl'
STAND_IN = 'stand_in'
TOKENS = 120
"""Vectors of a caption in LlamaGen."""


def clean_text(text: str) -> str:
    """Cleans a text: lower case, without links and HTML, one blank between words.

    LlamaGen's code does more (it removes file names, long numbers, advertising phrases, Chinese characters and unusual
    punctuation); on plain sentences both are the same.
    """
    text = re.sub(r'<[^<>]*>', ' ', html.unescape(text).lower())
    return ' '.join(re.sub(r'(https?://|www\.)\S+', ' ', text).split())


class T5Encoder:
    """Encoder of a T5 model, from `transformers`, on PyTorch.

    Args:
      name: name of a model on the Hugging Face hub, or a folder that holds one.
      tokens: largest number of tokens per text; longer texts are cut.
      dtype: computation type, 'bfloat16' as in LlamaGen, or 'float32'.
      device: 'cuda' or 'cpu'; default: the first that is available.

    Attributes:
      width: width of a feature vector; 2048 for Flan-T5-XL.

    Raises:
      UserError: the libraries or the weights are missing.
    """

    def __init__(
        self, name: str = FLAN_T5_XL, *, tokens: int = TOKENS, dtype: str = 'bfloat16', device: str | None = None
    ) -> None:
        try:
            import torch
            from transformers import AutoTokenizer, T5EncoderModel
        except ImportError as error:
            raise UserError(
                f"texts are encoded by transformers and PyTorch, which are not installed: pip install '.[text]' in a "
                f'checkout ({error})'
            ) from None
        self.name, self.tokens, self._torch = name, tokens, torch
        self._device = device or ('cuda' if torch.cuda.is_available() else 'cpu')
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(name)
            model = T5EncoderModel.from_pretrained(name, dtype=getattr(torch, dtype))
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(f'the text encoder {name} cannot be loaded: {reason}') from error
        self._model = model.eval().to(self._device)
        self.width = int(model.config.d_model)

    def encode(self, texts: Sequence[str]) -> list[Float[np.ndarray, 'n c']]:
        """Encodes each text, cleaned by `clean_text`, as one feature vector per token."""
        torch = self._torch
        words = self._tokenizer(
            [clean_text(text) for text in texts],
            max_length=self.tokens,
            padding='longest',
            truncation=True,
            return_tensors='pt',
        ).to(self._device)
        with torch.inference_mode():
            found = self._model(input_ids=words['input_ids'], attention_mask=words['attention_mask'])
        features = found.last_hidden_state.float().cpu().numpy()
        counts = words['attention_mask'].sum(1).tolist()
        return [rows[:count] for rows, count in zip(features, counts, strict=True)]


class StandInText:
    """Text encoder that gives each word a fixed random vector; it carries words, but no knowledge of language.

    It takes the place of the real encoder where no weights are at hand; what it is used for is not comparable with
    anything published.
    """

    name = STAND_IN

    def __init__(self, tokens: int = TOKENS, width: int = 64) -> None:
        self.tokens, self.width = tokens, width

    def encode(self, texts: Sequence[str]) -> list[Float[np.ndarray, 'n c']]:
        """Encodes each text as one vector per word and a last one for the end of the text."""
        return [np.stack([self._vector(word) for word in self._words(text)]) for text in texts]

    def _words(self, text: str) -> list[str]:
        return [*re.findall(r'\w+', clean_text(text))[: self.tokens - 1], '']

    def _vector(self, word: str) -> Float[np.ndarray, ' c']:
        seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8])
        return np.random.default_rng(seed).standard_normal(self.width).astype(np.float32)


def load_text_encoder(name: str = FLAN_T5_XL) -> TextEncoder:
    """Loads a text encoder by its name: 'stand_in', or a T5 model as `T5Encoder` takes it.

    Raises:
      UserError: its libraries or weights are missing.
    """
    return StandInText() if name == STAND_IN else T5Encoder(name)
