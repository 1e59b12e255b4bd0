"""vistok: images to discrete tokens, tokens to images."""

import importlib
import pathlib
from typing import TYPE_CHECKING, Any

# A checkout without symbolic links (a ZIP download, Windows) has small text files in their place: then the folders of
# the same names beside this package are its parts.
if any((pathlib.Path(__file__).parent / name).is_file() for name in ('tokenizers', 'generators', 'compression')):
    __path__.append(str(pathlib.Path(__file__).parents[1]))

if TYPE_CHECKING:
    from vistok.compression.codec import Codec as Codec
    from vistok.errors import UserError as UserError
    from vistok.tokenizers.tokenizer import Tokens as Tokens
    from vistok.tokenizers.tokenizer import TokenSpec as TokenSpec

__version__ = '0.1.0'

_MODULES = {  # public name -> module and name there; nothing is imported before it is used
    'Codec': 'compression.codec:Codec',
    'TokenSpec': 'tokenizers.tokenizer:TokenSpec',
    'Tokens': 'tokenizers.tokenizer:Tokens',
    'UserError': 'errors:UserError',
    'build_codebook': 'experiments.codebook_building:build_codebook',
    'cluster_codebook': 'experiments.codebook_clustering:cluster_codebook',
    'codec': 'experiments.codecs:open_codec',
    'compress_files': 'experiments.batch_compression:compress_files',
    'config': 'experiments.config_files:config',
    'decompress_files': 'experiments.batch_compression:decompress_files',
    'describe': 'experiments.bitstream_files:describe',
    'evaluate': 'experiments.evaluation:evaluate',
    'evaluate_samples': 'experiments.evaluation:evaluate_samples',
    'export': 'experiments.exporting:export',
    'extract_tokens': 'experiments.token_extraction:extract_tokens',
    'fit_prior': 'experiments.codec_tables:fit_prior',
    'from_official': 'experiments.official_models:from_official',
    'load': 'experiments.loading:load',
    'nest_codebook': 'experiments.codec_tables:nest_codebook',
    'prepare_data': 'experiments.dataset_preparation:prepare_data',
    'reference_statistics': 'experiments.reference_statistics:reference_statistics',
    'refit': 'experiments.refitting:refit',
    'text_features': 'experiments.text_encoding:text_features',
    'to_official': 'experiments.official_models:to_official',
    'train_stand_in': 'experiments.stand_in_training:train_stand_in',
    'transcode': 'experiments.bitstream_files:transcode',
}

__all__ = [*_MODULES]


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used."""
    if name not in _MODULES:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    module, _, attribute = _MODULES[name].partition(':')
    value = getattr(importlib.import_module(f'vistok.{module}'), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
