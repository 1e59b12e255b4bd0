"""Codecs of files: weights, the prior beside them, or a generator as prior."""

import dataclasses
import os
from pathlib import Path
from typing import Any

from vistok.compression import codec
from vistok.compression.codec import Codec
from vistok.compression.format.header import Limits
from vistok.compression.format.packets import PacketShape
from vistok.compression.loss_concealment import MaskedRestorer
from vistok.compression.nested.codebooks import NestedCodebooks
from vistok.compression.priors.network import NetworkPrior
from vistok.compression.priors.prior import StaticPrior
from vistok.errors import UserError
from vistok.experiments.loading import load
from vistok.experiments.model_inputs import Model, PathLike, is_path, name_of_model, resolve_tokenizer
from vistok.experiments.registry import GENERATOR, names_of_kind
from vistok.generators.autoregressive.base import Autoregressive
from vistok.generators.masked.mage import MAGE
from vistok.generators.trained import TrainedGenerator
from vistok.tokenizers.residual_vqgan import MultiScaleVQGAN
from vistok.tokenizers.trained import TrainedTokenizer
from vistok.weights.files import is_ours, read_name
from vistok.weights.fingerprints import fingerprint_weights

SHIPPED = Path(codec.__file__).parent / 'weights' / 'photographs.safetensors'
"""Weights that are part of the package; `weights/README.md` says how they were made."""


def open_tokenizer(model: Model) -> TrainedTokenizer:
    """Returns a tokenizer that a codec can use.

    Raises:
      UserError: there is nothing at the path, it is no tokenizer, or one whose tokens do not belong to places of the
        image.
    """
    tokenizer = resolve_tokenizer(model)
    if isinstance(tokenizer.module, MultiScaleVQGAN):
        raise UserError(
            f'{name_of_model(model)} holds a {type(tokenizer.module).__name__}, whose coarse scales have ids for a '
            'whole image and not for its places, so that it cannot be coded in windows and tiles; configs/fvq.py '
            'without :var can'
        )
    return tokenizer


def open_network(run: str, tokenizer: Any) -> NetworkPrior:
    """Returns the generator of a run folder, of one of its checkpoints, or of a weights file, as a model of ids.

    Args:
      run: the folder or file.
      tokenizer: the tokenizer whose ids are coded.

    Raises:
      UserError: there is no such generator, or it is one of other tokens.
    """
    model = load(run)
    if not isinstance(model, TrainedGenerator) or not isinstance(model.generator, Autoregressive):
        wanted = 'as a prior, only generators fit that choose one id after the other: llamagen, far, vqgan_lc_gpt'
        raise _unfit(run, model, wanted)
    fitting: Any = _check_tokens(run, model, tokenizer).generator
    return NetworkPrior.from_variables(fitting, model.variables)


def open_tables(model: Model, prior: PathLike | None) -> StaticPrior | None:
    """Returns the tables of `vistok fit_prior`: those beside the weights, if there are any, by default; none for ''.

    Raises:
      UserError: there is no such file, or it holds something else.
    """
    path = _existing(default_prior(model), prior)
    return None if path is None else StaticPrior.load(path)


def open_nested(model: Model, nested: PathLike | None) -> NestedCodebooks | None:
    """Returns the tables of `vistok nest_codebook`, as `open_tables` does."""
    path = _existing(default_nested(model), nested)
    return None if path is None else NestedCodebooks.load(path)


def _existing(default: Path | None, given: PathLike | None) -> Path | None:
    """Returns the path of tables: the given one, '' for none, or the default one if there is a file."""
    if given is not None:
        return Path(given) if os.fspath(given) else None
    return default if default is not None and default.is_file() else None


def open_restorer(run: str, tokenizer: Any) -> MaskedRestorer:
    """Returns the masked-token generator of a run folder, a checkpoint or a weights file, to restore lost ids.

    Args:
      run: the folder or file.
      tokenizer: the tokenizer whose ids are restored.

    Raises:
      UserError: there is no such generator, or it is one of other tokens.
    """
    model = load(run)
    if not isinstance(model, TrainedGenerator) or not isinstance(model.generator, MAGE):
        raise _unfit(run, model, 'lost ids are restored by maskgit or mage')
    fitting: Any = _check_tokens(run, model, tokenizer).generator
    return MaskedRestorer(fitting, model.variables)


def _unfit(run: str, model: object, wanted: str) -> UserError:
    found = model.generator if isinstance(model, TrainedGenerator) else model
    return UserError(f'{run} holds a {type(found).__name__}; {wanted}')


def _check_tokens(run: str, model: TrainedGenerator, tokenizer: Any) -> TrainedGenerator:
    """Returns the generator with its tokenizer; raises a UserError unless its tokens are those of `tokenizer`."""
    if model.tokenizer is None:
        return model.with_tokenizer(tokenizer)
    theirs, ours = (fingerprint_weights(each.variables) for each in (model.tokenizer, tokenizer))
    if theirs != ours:
        raise UserError(f'{run} is a generator for the tokenizer with weights {theirs.hex()}, got {ours.hex()}')
    return model


def _holds_generator(path: Path) -> bool:
    """Returns whether a path is a run folder, or a weights file of a generator."""
    return path.is_dir() or (path.is_file() and is_ours(path) and read_name(path) in names_of_kind(GENERATOR))


def open_codec(
    model: Model | None = None,
    prior: PathLike | None = None,
    *,
    nested: PathLike | None = None,
    window: int | None = None,
    codewords: int | None = None,
    packets: int | None = None,
    limits: Limits | None = None,
) -> Codec:
    """Returns a codec of images.

    Args:
      model: tokenizer, or its run folder, one of its checkpoints, or its weights file; None: the weights of the
        package.
      prior: a file of `vistok fit_prior`; None: the one beside the weights, if there is one; '' for none.  Or the run
        folder or weights file of a generator, which the codec uses where it gives a smaller file than the default.
      nested: a file of `vistok nest_codebook`; None: the one beside the weights, if there is one for them.
      window: side of the squares that the networks see, in pixels; None: the codec's own.
      codewords: size of the nested codebook that is written with; None: the whole codebook.
      packets: number of packets that ids are dealt out to, so that some may get lost; None: none.
      limits: bounds on what decompressing may cost; None: the default ones.

    Raises:
      UserError: there are no such weights, or they are no tokenizer's; or there is no codebook of that size.
    """
    model = SHIPPED if model is None else model
    tokenizer = open_tokenizer(model)
    here = fingerprint_weights(tokenizer.variables)
    network = None
    if prior and _holds_generator(Path(prior)):
        network, prior = open_network(os.fspath(prior), tokenizer), None
    tables = open_nested(model, nested)
    if tables is not None and tables.weights_fingerprint != here:
        if nested is not None:
            theirs = tables.weights_fingerprint.hex()
            raise UserError(f'{nested} holds nested codebooks of weights {theirs}, got {here.hex()}')
        tables = None  # they have been trained further; files that need those tables are refused by name
    tables_of_ids = open_tables(model, prior)
    codec = Codec(tokenizer, here, tables_of_ids, network=network, nested=tables, limits=limits or Limits())
    codec = codec if window is None else dataclasses.replace(codec, window=window)
    if codewords is not None:
        if codec.nested is None:
            raise UserError('there are no nested codebooks of these weights: make them with `vistok nest_codebook`')
        codec = codec.at_level(codec.nested.find_level(codewords))
    return codec if packets is None else dataclasses.replace(codec, packets=PacketShape.from_count(packets))


def default_prior(model: Model) -> Path | None:
    """Returns where the prior of a model lies: in the run folder, or beside the file; None without a path."""
    return _beside(model, 'prior')


def default_nested(model: Model) -> Path | None:
    """Returns where the nested codebooks of a model lie, as `default_prior` does."""
    return _beside(model, 'nested')


def _beside(model: Model, name: str) -> Path | None:
    if not is_path(model):
        return None
    path = Path(model)
    if path.is_file():
        return path.with_suffix(f'.{name}.safetensors')
    folder = path.parents[1] if path.parent.name == 'checkpoints' and path.name.isdigit() else path
    return folder / f'{name}.safetensors'
