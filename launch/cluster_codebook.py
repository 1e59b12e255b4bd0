"""Clusters of the codewords of a trained tokenizer, for the config ctf.

    vistok cluster_codebook --model=runs/vqgan --clusters=512 --out=clusters.safetensors

--config.clusters.file=FILE of the config ctf reads the result; without it a run makes its clusters by itself.
"""

import vistok
from vistok.launch.shared import command
from vistok.launch.shared.flags import Flags

FLAGS = Flags(__doc__)
_MODEL = FLAGS.model('Tokenizer: a run folder, one of its checkpoints, or a weights file.')
_OUT = FLAGS.out('The .safetensors file that receives the clusters.', old=['output'])
_OPTIONS = {
    'clusters': FLAGS.integer('clusters', 512, 'Number of clusters; about 32 codewords for each are usual.'),
    'balanced': FLAGS.switch('balanced', 'Makes clusters whose sizes differ by one at most.'),
    'tokens': FLAGS.string('tokens', None, 'Folder of extracted tokens; k-means sees only codewords that occur there.'),
    'restarts': FLAGS.integer('restarts', 10, 'Number of starts of k-means, of which the best is taken.'),
    'seed': FLAGS.seed(),
}


def main() -> None:
    """Clusters the codewords and writes the clusters."""
    model = FLAGS.require(_MODEL, 'name the tokenizer, for example --model=runs/vqgan')
    out = FLAGS.require(_OUT, 'name the file to write, --out=FILE.safetensors')
    print(vistok.cluster_codebook(model, out, **{name: flag.value for name, flag in _OPTIONS.items()}))


if __name__ == '__main__':
    command.run(main, FLAGS)
