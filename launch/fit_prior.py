"""Counts how often tokens occur, and beside which others, so that launch/compress.py needs fewer bits.

    python launch/fit_prior.py --weights=runs/fqgan

The tables are written beside the weights, where compressing and decompressing find them.  A bitstream that was written
with them can only be read with them.
"""

from absl import flags

from vistok import cli

_WEIGHTS = flags.DEFINE_string('weights', None, 'Run folder, checkpoint of a run, or converted weights.')
_SOURCE = flags.DEFINE_string('source', 'embedded:photographs', 'Images to count on, as for training.')
_IMAGES = flags.DEFINE_integer('pictures', 200, 'How many of them at most, evenly spread over the source.')
_CROP = flags.DEFINE_integer(
    'crop', 0, lower_bound=0, help='Side of the square in the middle that counts, in pixels; 0: the whole image.'
)
_OUT = flags.DEFINE_string('out', None, 'What to write; default: beside the weights.')
_FORCE = flags.DEFINE_bool('force', False, 'Whether existing tables are replaced.')


def main() -> None:
    """Tokenizes the images, counts, and writes the tables."""
    from pathlib import Path

    from vistok.compression.codec import Codec
    from vistok.compression.priors.prior import StaticPrior
    from vistok.errors import UserError
    from vistok.experiments import image_files
    from vistok.experiments.calibration import CalibrationImages
    from vistok.experiments.codecs import default_prior, open_tokenizer
    from vistok.weights.fingerprints import fingerprint_weights

    if _WEIGHTS.value is None:
        raise UserError('name the weights, for example --weights=runs/control_gic')
    model = open_tokenizer(_WEIGHTS.value)
    codec = Codec(model, fingerprint_weights(model.variables))
    path = Path(_OUT.value) if _OUT.value else default_prior(_WEIGHTS.value)
    image_files.check_new(path, force=_FORCE.value)
    images = CalibrationImages(_SOURCE.value, _IMAGES.value, _CROP.value)
    prior = codec.fit_prior(images).prior
    assert isinstance(prior, StaticPrior)
    source = Path(_SOURCE.value).resolve().name  # without its folder, since tables are passed on
    prior.save(path, {'weights': codec.weights_fingerprint.hex(), 'source': source, 'pictures': str(images.read)})
    clusters = ', '.join(str(table.contexts.shape[-1]) for table in prior.tables)
    print(f'wrote {path}: fingerprint {prior.fingerprint.hex()}, {images.read} images, clusters: {clusters}')


if __name__ == '__main__':
    cli.run(main)
