"""Codebook refitted to the vectors that a trained encoder makes (VQ-DDM's ReFiT).

    vistok refit --model=runs/vqgan --size=1024 --out=refitted.safetensors

Hu et al., "Global Context with Discrete Diffusion in Vector Quantised Modelling for Image Generation" (2022): one
vector of each of many random images, clustered by k-means, takes the place of the codebook, whose size may change.
The result is a tokenizer of the plain kind; what was frozen or projected is a table now.  Prints how much of either
codebook unseen images use and how well they are reconstructed.
"""

import vistok
from vistok.launch.shared import command
from vistok.launch.shared.flags import Flags

FLAGS = Flags(__doc__)
_MODEL = FLAGS.model('Tokenizer: a run folder, or a weights file; then name a --source.')
_OUT = FLAGS.out('The .safetensors file that receives the new tokenizer.', old=['output'])
_OPTIONS = {
    'checkpoint': FLAGS.checkpoint(),
    'size': FLAGS.integer('size', None, 'Number of codewords; default: as many as there are.'),
    'vectors': FLAGS.integer('vectors', 20_000, 'Number of images, of each of which one vector is clustered.'),
    'data': FLAGS.string('source', None, "Images to encode; default: the run's own."),
    'data_dir': FLAGS.data_dir(),
    'image_size': FLAGS.integer('image_size', None, 'Side of the crops in pixels; default: that of the run, or 256.'),
    'batch_size': FLAGS.integer('batch_size', 64, 'Number of images that are encoded at a time.'),
    'seed': FLAGS.seed(),
}


def main() -> None:
    """Refits the codebook, compares it with the old one, and writes the tokenizer."""
    message = 'name a tokenizer and a file to write, for example --model=runs/vqgan --out=new.safetensors'
    model, out = FLAGS.require(_MODEL, message), FLAGS.require(_OUT, message)
    print(vistok.refit(model, out, **{name: flag.value for name, flag in _OPTIONS.items()}, progress=True))


if __name__ == '__main__':
    command.run(main, FLAGS)
