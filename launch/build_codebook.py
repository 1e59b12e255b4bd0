"""Table of a VQGAN-LC codebook: clusters of patch features of images.

    vistok build_codebook --features=clip_l14 --weights=clip_l14.safetensors --source=tfds:imagenet2012 \\
        --size=100000 --per_class --out=codebook-100K.safetensors
    vistok build_codebook --features=stand_in_patches --source=embedded:photographs --views=2048 --size=512 \\
        --image_size=64 --out=photographs.safetensors

The first is the published recipe: 100 clusters in each of the 1000 classes.  Without --per_class all images are
clustered together, which needs no labels; --parts=64 clusters 64 random parts of them, in a 64th of the time, as the
classes do in the published recipe.  --config.table=FILE of the config vqgan_lc reads the result.
"""

import vistok
from vistok.launch.shared import command
from vistok.launch.shared.flags import Flags

FLAGS = Flags(__doc__)
_OUT = FLAGS.out('The .safetensors file that receives the table.', old=['output'])
_SOURCE = FLAGS.string('source', 'tfds:imagenet2012', 'Training images whose features are clustered.')
_OPTIONS = {
    'features': FLAGS.choice(
        'features',
        'clip_l14',
        ['clip_l14', 'clip_b16', 'dinov2_s', 'stand_in_patches', 'gaussian'],
        "Network whose patch features are clustered; 'gaussian' draws random rows instead.",
    ),
    'weights': FLAGS.string('weights', None, 'File of official weights of the network; the stand-in needs none.'),
    'data_dir': FLAGS.data_dir(),
    'views': FLAGS.integer('views', 0, 'Number of random views of the images; 0 takes the centre crop of each once.'),
    'image_size': FLAGS.integer('image_size', 224, 'Side of the crops in pixels.'),
    'batch_size': FLAGS.integer('batch_size', 64, 'Number of images that pass through the network at a time.'),
    'pool': FLAGS.integer('pool', 4, 'Side, in patches, of the squares that features are averaged over.'),
    'size': FLAGS.integer('size', 100_000, 'Number of rows of the table.'),
    'width': FLAGS.integer('width', 768, "Width of the rows, where 'gaussian' draws them."),
    'per_class': FLAGS.switch('per_class', 'Makes equally many rows of each class, instead of all together.'),
    'parts': FLAGS.integer('parts', 1, 'Number of random parts of the images that are clustered each by itself.'),
    'iterations': FLAGS.integer('iterations', 100, 'Number of updates of the centroids at most.'),
    'seed': FLAGS.seed(),
}


def main() -> None:
    """Builds the table and writes it."""
    out = FLAGS.require(_OUT, 'name the file to write, --out=FILE.safetensors')
    options = {name: flag.value for name, flag in _OPTIONS.items()}
    print(vistok.build_codebook(_SOURCE.value, out, **options, progress=True))


if __name__ == '__main__':
    command.run(main, FLAGS)
