"""vistok: images to discrete tokens, tokens to images.

Names are imported when they are first used, so that `import vistok` takes no time.
"""

import importlib
import pathlib
from typing import TYPE_CHECKING, Any

# A checkout without symbolic links (a ZIP download, Windows) has small text files in their place: then the folders of
# the same names beside this package are its parts.
if any((pathlib.Path(__file__).parent / name).is_file() for name in ('tokenizers', 'generators', 'compression')):
    __path__.append(str(pathlib.Path(__file__).parents[1]))

if TYPE_CHECKING:
    from vistok.compression.codec import Codec as Codec
    from vistok.compression.format.header import Limits as Limits
    from vistok.errors import UserError as UserError
    from vistok.experiments.conversion import convert as convert
    from vistok.experiments.conversion import convert_to_official as convert_to_official
    from vistok.experiments.loading import load as load
    from vistok.experiments.official_models import from_official as from_official
    from vistok.experiments.official_models import to_official as to_official
    from vistok.experiments.saved_models import save_model as save  # noqa: F401
    from vistok.experiments.training import train as train
    from vistok.tokenizers.tokenizer import Tokens as Tokens
    from vistok.tokenizers.tokenizer import TokenSpec as TokenSpec

_PUBLIC = {
    'Codec': 'compression.codec',
    'Limits': 'compression.format.header',
    'TokenSpec': 'tokenizers.tokenizer',
    'Tokens': 'tokenizers.tokenizer',
    'UserError': 'errors',
    'build_codebook': 'experiments.codebook_building',
    'cluster_codebook': 'experiments.codebook_clustering',
    'codec': 'experiments.codecs:open_codec',
    'compress_files': 'experiments.batch_compression',
    'config': 'experiments.config_files',
    'convert': 'experiments.conversion',
    'convert_to_official': 'experiments.conversion',
    'decompress_files': 'experiments.batch_compression',
    'describe': 'experiments.bitstream_files',
    'evaluate': 'experiments.evaluation',
    'evaluate_samples': 'experiments.evaluation',
    'export': 'experiments.exporting',
    'extract_tokens': 'experiments.token_extraction',
    'fit_prior': 'experiments.codec_tables',
    'from_official': 'experiments.official_models',
    'inpaint_files': 'experiments.inpainting',
    'load': 'experiments.loading',
    'load_generator': 'experiments.loading',
    'load_tokenizer': 'experiments.loading',
    'nest_codebook': 'experiments.codec_tables',
    'prepare_data': 'experiments.dataset_preparation',
    'reference_statistics': 'experiments.reference_statistics',
    'refit': 'experiments.refitting',
    'sample_files': 'experiments.sampling',
    'save': 'experiments.saved_models:save_model',
    'text_features': 'experiments.text_encoding',
    'to_official': 'experiments.official_models',
    'train': 'experiments.training',
    'train_stand_in': 'experiments.stand_in_training',
    'transcode': 'experiments.bitstream_files',
}
"""Public names, and the modules that they come from."""

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    """Imports a public name at its first use."""
    if name == '__version__':
        return importlib.import_module('vistok.version').__version__
    if name not in _PUBLIC:
        raise AttributeError(f'module vistok has no attribute {name!r}; public names: {", ".join(__all__)}')
    module, _, attribute = _PUBLIC[name].partition(':')
    value = getattr(importlib.import_module(f'vistok.{module}'), attribute or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, '__version__']
