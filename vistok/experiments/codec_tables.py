"""Tables of a codec: priors of its tokens, and nested codebooks."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from vistok.compression.codec import Codec
from vistok.compression.nested.codebooks import NestedCodebooks
from vistok.compression.priors.prior import StaticPrior
from vistok.experiments import codecs, image_files
from vistok.experiments.calibration import CalibrationImages
from vistok.experiments.model_inputs import Images, Model, PathLike, name_of_images
from vistok.tokenizers.tokenizer import TokenSpec
from vistok.weights.fingerprints import fingerprint_weights


@dataclasses.dataclass(frozen=True)
class PriorReport:
    """Prior of the tokens of a model.

    Attributes:
      prior: the tables.
      images: number of images that were counted.
      path: file that holds the tables; None if none was written.
    """

    prior: StaticPrior
    images: int
    path: Path | None

    def __str__(self) -> str:
        clusters = ', '.join(str(table.contexts.shape[-1]) for table in self.prior.tables)
        return (
            f'{_name_file(self.path)}fingerprint {self.prior.fingerprint.hex()}, {self.images} images, '
            f'clusters: {clusters}'
        )


def fit_prior(
    model: Model,
    data: Images = 'embedded:photographs',
    out: PathLike | None = None,
    *,
    images: int = 200,
    crop: int = 0,
    force: bool = False,
) -> PriorReport:
    """Counts the tokens of images, and which occur beside which, so that compressing needs fewer bits.

    Args:
      model: tokenizer, or its path.
      data: images to count on.
      out: file for the tables; None: beside the weights, where a codec finds them, if the model is given by path.
      images: number of images at most, evenly spread over the source.
      crop: side of the square in the middle that counts, in pixels; 0: the whole image.
      force: replaces existing tables.

    Raises:
      UserError: there is no such model, or there are tables already.
    """
    path = _new_file(out, codecs.default_prior(model), force)
    codec, shown = _open_codec(model), CalibrationImages(data, images, crop)
    prior = codec.fit_prior(shown).prior
    assert isinstance(prior, StaticPrior)
    if path is not None:
        source = Path(name_of_images(data)).resolve().name  # without its folder, since tables are passed on
        weights = codec.weights_fingerprint.hex()
        prior.save(path, {'weights': weights, 'source': source, 'pictures': str(shown.read)})
    return PriorReport(prior, shown.read, path)


@dataclasses.dataclass(frozen=True)
class NestingReport:
    """Nested codebooks of a model.

    Attributes:
      nested: the tables.
      spec: of the model's tokens.
      images: number of images that were counted.
      path: file that holds the tables; None if none was written.
    """

    nested: NestedCodebooks
    spec: TokenSpec
    images: int
    path: Path | None

    def __str__(self) -> str:
        lines = [f'{_name_file(self.path)}fingerprint {self.nested.fingerprint.hex()}, {self.images} images']
        sizes = [len(tables[0].members) for tables in self.nested.levels]
        for j, (name, count) in enumerate(zip(self.spec.codebook_names, self.spec.codebook_sizes, strict=True)):
            lines.append(f'{name}: {count} codewords, {self.nested.about[f"used_codewords/{j}"]} of them occur')
            for size in sizes:
                distance = self.nested.about[f'mean_squared_distance/{j}/{size}']
                lines.append(f'{name}: {size} codewords, mean squared distance {distance}')
        return '\n'.join(lines)


def nest_codebook(
    model: Model,
    sizes: Sequence[int],
    data: Images = 'embedded:photographs',
    out: PathLike | None = None,
    *,
    images: int = 200,
    crop: int = 0,
    restarts: int = 3,
    seed: int = 0,
    force: bool = False,
) -> NestingReport:
    """Clusters the codewords of a model into smaller codebooks, each inside of the one before.

    Codewords are clustered by k-means, in which each counts as often as it occurs in images; then the clusters are.

    Args:
      model: tokenizer, or its path.
      sizes: codewords of each level, falling.
      data: images that say how often codewords occur.
      out: file for the tables; None: beside the weights, where a codec finds them, if the model is given by path.
      images: number of images at most, evenly spread over the source.
      crop: side of the square in the middle that counts, in pixels; 0: the whole image.
      restarts: starts of k-means, of which the best is taken.
      seed: of k-means.
      force: replaces existing tables.

    Raises:
      UserError: there is no such model, the sizes do not fall, or there are tables already.
    """
    path = _new_file(out, codecs.default_nested(model), force)
    codec, shown = _open_codec(model), CalibrationImages(data, images, crop)
    nested = codec.nest(shown, sizes, restarts=restarts, seed=seed).nested
    assert nested is not None
    about = {'source': name_of_images(data), 'pictures': str(shown.read), 'weights': codec.weights_fingerprint.hex()}
    nested = dataclasses.replace(nested, about=about | nested.about)
    if path is not None:
        nested.save(path)
    return NestingReport(nested, codec.tokenizer.spec, shown.read, path)


def _open_codec(model: Model) -> Codec:
    """Returns a codec without tables."""
    tokenizer = codecs.open_tokenizer(model)
    return Codec(tokenizer, fingerprint_weights(tokenizer.variables))


def _new_file(out: PathLike | None, default: Path | None, force: bool) -> Path | None:
    path = default if out is None else Path(out)
    if path is not None:
        image_files.check_new(path, force=force)
    return path


def _name_file(path: Path | None) -> str:
    return '' if path is None else f'wrote {path}: '
