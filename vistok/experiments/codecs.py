"""A codec from what lies on disk: weights, the prior beside them, a generator as prior."""

import dataclasses
from pathlib import Path

from vistok.compression import codec
from vistok.compression.codec import Codec
from vistok.compression.loss_concealment import MaskedRestorer
from vistok.compression.nested.codebooks import NestedCodebooks
from vistok.compression.priors.network import NetworkPrior
from vistok.compression.priors.prior import StaticPrior
from vistok.errors import UserError
from vistok.experiments.loading import load, load_tokenizer
from vistok.generators.autoregressive.base import Autoregressive
from vistok.generators.masked.mage import MAGE
from vistok.generators.trained import TrainedGenerator
from vistok.tokenizers.residual_vqgan import MultiScaleVQGAN
from vistok.tokenizers.trained import TrainedTokenizer
from vistok.weights.fingerprints import fingerprint_weights

SHIPPED = Path(codec.__file__).parent / 'weights' / 'photographs.safetensors'
"""Weights that are part of the package; `weights/README.md` says how they were made."""


def open_tokenizer(weights: str) -> TrainedTokenizer:
    """Loads a tokenizer for a codec; UserError also for one whose tokens do not belong to places of the image."""
    model = load_tokenizer(weights)
    if isinstance(model.module, MultiScaleVQGAN):
        raise UserError(
            f'{weights} holds a {type(model.module).__name__}, whose coarse scales have ids for a whole image and '
            'not for its places, so that it cannot be coded in windows and tiles; configs/fvq.py without :var can'
        )
    return model


def open_network(run: str, weights: bytes) -> NetworkPrior:
    """The generator of a run folder, or of one of its checkpoints, as model of ids.

    Args:
      run: the folder.
      weights: fingerprint of the tokenizer.

    Raises:
      UserError: there is no such generator, or it is one of other tokens.
    """
    model = load(run)
    if not isinstance(model, TrainedGenerator) or not isinstance(model.generator, Autoregressive):
        wanted = 'as a prior, only generators fit that choose one id after the other: llamagen, far, vqgan_lc_gpt'
        raise _unfit(run, model, wanted)
    _check_tokens(run, model, weights)
    return NetworkPrior.from_variables(model.generator, model.variables)


def open_tables(weights: str, prior: str | None) -> StaticPrior | None:
    """Tables of launch/fit_prior.py: by default those beside the weights, if there are any; none for ''.

    Raises:
      UserError: there is no such file, or it holds something else.
    """
    path = default_prior(weights) if prior is None else Path(prior)
    return StaticPrior.load(path) if prior or (prior is None and path.is_file()) else None


def open_nested(weights: str, nested: str | None) -> NestedCodebooks | None:
    """Tables of launch/nest_codebook.py, likewise."""
    path = default_nested(weights) if nested is None else Path(nested)
    return NestedCodebooks.load(path) if nested or (nested is None and path.is_file()) else None


def open_restorer(run: str, weights: bytes) -> MaskedRestorer:
    """The masked-token generator of a run folder, or of one of its checkpoints, to restore lost ids.

    Args:
      run: the folder.
      weights: fingerprint of the tokenizer.

    Raises:
      UserError: there is no such generator, or it is one of other tokens.
    """
    model = load(run)
    if not isinstance(model, TrainedGenerator) or not isinstance(model.generator, MAGE):
        raise _unfit(run, model, 'lost ids are restored by maskgit or mage')
    _check_tokens(run, model, weights)
    return MaskedRestorer(model.generator, model.variables)


def _unfit(run: str, model: object, wanted: str) -> UserError:
    found = model.generator if isinstance(model, TrainedGenerator) else model
    return UserError(f'{run} holds a {type(found).__name__}; {wanted}')


def _check_tokens(run: str, model: TrainedGenerator, weights: bytes) -> None:
    """UserError unless the generator's tokens are those of some weights."""
    theirs = fingerprint_weights(model.tokenizer.variables)
    if theirs != weights:
        raise UserError(f'{run} is a generator for the tokenizer with weights {theirs.hex()}, got {weights.hex()}')


def open_codec(
    weights: str | None = None, prior: str | None = None, *, nested: str | None = None, window: int | None = None
) -> Codec:
    """A codec.

    Args:
      weights: a run folder, one of its checkpoints, or a converted file; default: those of the package.
      prior: a file of launch/fit_prior.py; default: the one beside the weights, if there is one; '' for none.  Or a
        run folder of a generator, of which the codec makes use where it gives a smaller file than the default.
      nested: a file of launch/nest_codebook.py; default: the one beside the weights, if there is one for them.
      window: side of the squares that the networks see, in pixels; default: the codec's.

    Raises:
      UserError: there are no such weights, or they are no tokenizer's.
    """
    weights = str(SHIPPED) if weights is None else weights
    model = open_tokenizer(weights)
    here = fingerprint_weights(model.variables)
    network = None
    if prior and Path(prior).is_dir():
        network, prior = open_network(prior, here), None
    tables = open_nested(weights, nested)
    if tables is not None and tables.weights_fingerprint != here:
        if nested is not None:
            raise UserError(
                f'{nested} holds nested codebooks of weights {tables.weights_fingerprint.hex()}, got {here.hex()}'
            )
        tables = None  # they have been trained further; files that need those tables are refused by name
    opened = Codec(model, here, open_tables(weights, prior), network=network, nested=tables)
    return opened if window is None else dataclasses.replace(opened, window=window)


def default_prior(weights: str) -> Path:
    """Where the prior of some weights lies: in the run folder, or beside the file."""
    return _beside(weights, 'prior')


def default_nested(weights: str) -> Path:
    """Where their nested codebooks lie."""
    return _beside(weights, 'nested')


def _beside(weights: str, name: str) -> Path:
    path = Path(weights)
    if path.is_file():
        return path.with_suffix(f'.{name}.safetensors')
    folder = path.parents[1] if path.parent.name == 'checkpoints' and path.name.isdigit() else path
    return folder / f'{name}.safetensors'
