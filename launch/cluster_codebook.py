"""Groups the codewords of a trained tokenizer into clusters, for configs/ctf.py.

    python launch/cluster_codebook.py --run=runs/vqgan --clusters=512 --output=clusters.safetensors

--config.clusters.file=FILE of configs/ctf.py reads the result; without it a run makes its clusters by itself.  With
--tokens=DIR, a folder that launch/extract_tokens.py wrote, k-means sees only codewords that occur there, and the others
join the nearest cluster.
"""

import pathlib

from absl import flags

from vistok import cli

_RUN = flags.DEFINE_string('run', None, 'Run folder or converted file of a tokenizer.')
_CLUSTERS = flags.DEFINE_integer('clusters', 512, 'How many; about 32 codewords for each are usual.')
_BALANCED = flags.DEFINE_bool('balanced', False, 'Whether the sizes of clusters may differ by one at most.')
_TOKENS = flags.DEFINE_string('tokens', None, 'Folder of extracted tokens that tell which codewords occur.')
_RESTARTS = flags.DEFINE_integer('restarts', 10, 'Starts of k-means, of which the best is taken.')
_SEED = flags.DEFINE_integer('seed', 0, 'Of k-means.')
_OUTPUT = flags.DEFINE_string('output', None, 'File to write, .safetensors.')


def main() -> None:
    """Makes the clusters, writes them and says how large they are."""
    import numpy as np

    from vistok.data.tokens.dataset import TokenSource
    from vistok.errors import UserError
    from vistok.experiments.loading import load_tokenizer
    from vistok.generators.autoregressive.codeword_clusters import cluster_codewords, codeword_vectors, write_clusters

    output = pathlib.Path(_OUTPUT.value or '')
    if output.suffix != '.safetensors':
        raise UserError(f'name the file to write, --output=FILE.safetensors; got {_OUTPUT.value!r}')
    if not output.parent.is_dir():
        raise UserError(f'there is no folder {output.parent}')
    if not _RUN.value:
        raise UserError('name the tokenizer, --run=FOLDER')
    if _RESTARTS.value < 1:
        raise UserError(f'--restarts is at least 1, got {_RESTARTS.value}')
    tokenizer = load_tokenizer(_RUN.value)
    used = None
    if _TOKENS.value:
        source = TokenSource(pathlib.Path(_TOKENS.value), 'train')
        if source.about['fingerprint'] != tokenizer.fingerprint:
            raise UserError(f'the tokens in {_TOKENS.value} are of another tokenizer than {_RUN.value}')
        counts = sum(
            np.bincount(source[i].ids.ravel(), minlength=tokenizer.spec.codebook_sizes[0]) for i in range(len(source))
        )
        used = np.flatnonzero(counts)
    clusters = cluster_codewords(
        codeword_vectors(tokenizer),
        _CLUSTERS.value,
        used=used,
        balanced=_BALANCED.value,
        restarts=_RESTARTS.value,
        seed=_SEED.value,
    )
    write_clusters(output, clusters, tokenizer)
    print(f'wrote {output}: {clusters.describe()}')


if __name__ == '__main__':
    cli.run(main)
