"""Counts how often tokens occur, and beside which others, so that launch/compress.py needs fewer bits.

    python launch/fit_prior.py --weights=runs/fqgan

The tables are written beside the weights, where compressing and decompressing find them.  A bitstream that was written
with them can only be read with them.
"""

from absl import flags

from tesserax.launch import cli

_WEIGHTS = flags.DEFINE_string('weights', None, 'Run folder, checkpoint of a run, or converted weights.')
_SOURCE = flags.DEFINE_string('source', 'embedded:photographs', 'Pictures to count on, as for training.')
_PICTURES = flags.DEFINE_integer('pictures', 200, 'How many of them at most, evenly spread over the source.')
_OUT = flags.DEFINE_string('out', None, 'What to write; default: beside the weights.')
_FORCE = flags.DEFINE_bool('force', False, 'Whether existing tables are replaced.')
_PLACES = (0.15, 0.3, 0.5, 0.7, 0.85)  # on the curve of shares, in turn, for tokenizers with grains


def main() -> None:
    """Tokenizes the pictures, counts, and writes the tables."""
    from pathlib import Path

    import numpy as np
    from tqdm import tqdm

    from tesserax.common.data.pipeline import open_source
    from tesserax.common.errors import UserError
    from tesserax.compression.codec import Codec, fingerprint
    from tesserax.compression.prior_fit import fit_prior
    from tesserax.compression.rate_control import shares_at
    from tesserax.launch import picture_files
    from tesserax.launch.open_codec import default_prior, open_tokenizer
    from tesserax.tokenizers.tokenizer import Tokens

    if _WEIGHTS.value is None:
        raise UserError('name the weights, for example --weights=runs/control_gic')
    model = open_tokenizer(_WEIGHTS.value)
    codec = Codec(model, fingerprint(model.variables))
    path = Path(_OUT.value) if _OUT.value else default_prior(_WEIGHTS.value)
    picture_files.check_new(path, force=_FORCE.value)
    spec = model.spec
    source = open_source(_SOURCE.value, 'train')
    tokens, seen = [], set()
    for index in tqdm(
        np.unique(np.linspace(0, len(source) - 1, _PICTURES.value).astype(int)), desc='counting', disable=None
    ):
        record = source[int(index)]
        if record.name in seen:  # a source may give one picture many times
            continue
        seen.add(record.name)
        shares = shares_at(_PLACES[len(seen) % len(_PLACES)], len(spec.grains)) if len(spec.grains) > 1 else None
        tokens.append(codec.encode(record.image, grain_ratios=shares))

    codewords = []
    for j, size in enumerate(spec.codebook_sizes):
        ids = np.zeros((1, 1, size, len(spec.codebook_sizes)), np.int32)
        ids[..., j] = np.arange(size)
        grain = np.ones(ids.shape[:3], np.int32) if len(spec.grains) > 1 else None
        codewords.append(np.asarray(model.embed(Tokens(ids, grain)))[0, 0])
    prior = fit_prior(tokens, codewords, spec)
    prior.save(path, {'weights': codec.weights.hex(), 'source': _SOURCE.value, 'pictures': str(len(tokens))})
    clusters = ', '.join(str(table.contexts.shape[-1]) for table in prior.tables)
    print(f'wrote {path}: fingerprint {prior.fingerprint.hex()}, {len(tokens)} pictures, clusters: {clusters}')


if __name__ == '__main__':
    cli.run(main)
