"""Makes smaller codebooks of a trained tokenizer's, each inside of the one before, for smaller files.

    python launch/nest_codebook.py --weights=runs/vqgan_lc --sizes=256,64,16
    python launch/compress.py photo.png --weights=runs/vqgan_lc --codewords=64
    python launch/transcode.py photo.bin smaller.bin --weights=runs/vqgan_lc --codewords=16

Codewords are clustered by k-means, in which each counts as often as it occurs in images; then the clusters are.  The
tables are written beside the weights, where the other commands find them.  A bitstream that was written with them can
only be read with them.  Of tokenizers with several sub-codebooks, each gets the same sizes.
"""

from absl import flags

from vistok import cli

_WEIGHTS = flags.DEFINE_string('weights', None, 'Run folder, checkpoint of a run, or converted weights.')
_SIZES = flags.DEFINE_list('sizes', None, 'Codewords of each level, falling, such as 4096,1024,256.')
_SOURCE = flags.DEFINE_string('source', 'embedded:photographs', 'Images that say how often codewords occur.')
_IMAGES = flags.DEFINE_integer('pictures', 200, 'How many of them at most, evenly spread over the source.')
_CROP = flags.DEFINE_integer(
    'crop', 0, lower_bound=0, help='Side of the square in the middle that counts, in pixels; 0: the whole image.'
)
_RESTARTS = flags.DEFINE_integer('restarts', 3, 'Starts of k-means, of which the best is taken.')
_SEED = flags.DEFINE_integer('seed', 0, 'Of k-means.')
_OUT = flags.DEFINE_string('out', None, 'What to write; default: beside the weights.')
_FORCE = flags.DEFINE_bool('force', False, 'Whether existing tables are replaced.')


def main() -> None:
    """Counts codewords in images, clusters them, and writes the tables."""
    import dataclasses
    from pathlib import Path

    from vistok.compression.codec import Codec
    from vistok.errors import UserError
    from vistok.experiments import image_files
    from vistok.experiments.calibration import CalibrationImages
    from vistok.experiments.codecs import default_nested, open_tokenizer
    from vistok.weights.fingerprints import fingerprint_weights

    if _WEIGHTS.value is None:
        raise UserError('name the weights, for example --weights=runs/vqgan_lc')
    try:
        sizes = [int(size) for size in _SIZES.value or ()]
    except ValueError:
        raise UserError(f'--sizes are numbers, got {_SIZES.value}') from None
    model = open_tokenizer(_WEIGHTS.value)
    path = Path(_OUT.value) if _OUT.value else default_nested(_WEIGHTS.value)
    image_files.check_new(path, force=_FORCE.value)
    codec = Codec(model, fingerprint_weights(model.variables))
    images = CalibrationImages(_SOURCE.value, _IMAGES.value, _CROP.value)
    nested = codec.nest(images, sizes, restarts=_RESTARTS.value, seed=_SEED.value).nested
    assert nested is not None
    about = {
        'source': _SOURCE.value,
        'pictures': str(images.read),
        'weights': codec.weights_fingerprint.hex(),
        **nested.about,
    }
    dataclasses.replace(nested, about=about).save(path)
    print(f'wrote {path}: fingerprint {nested.fingerprint.hex()}, {images.read} images')
    for j, (name, size) in enumerate(zip(model.spec.codebook_names, model.spec.codebook_sizes, strict=True)):
        print(f'{name}: {size} codewords, {nested.about[f"used_codewords/{j}"]} of them occur')
        for size in sizes:
            print(
                f'{name}: {size} codewords, mean squared distance {nested.about[f"mean_squared_distance/{j}/{size}"]}'
            )


if __name__ == '__main__':
    cli.run(main)
