"""Clusters of the codewords of a trained tokenizer, for generators over clusters (CTF)."""

import dataclasses
from pathlib import Path

import numpy as np

from vistok.data.tokens.dataset import TokenSource
from vistok.errors import UserError
from vistok.experiments.model_inputs import Model, PathLike, check_new_weights, name_of_model, resolve_tokenizer
from vistok.generators.autoregressive.codeword_clusters import (
    CodeClusters,
    cluster_codewords,
    codeword_vectors,
    write_clusters,
)
from vistok.tokenizers.trained import TrainedTokenizer


@dataclasses.dataclass(frozen=True)
class ClusterReport:
    """Clusters of codewords and their file.

    Attributes:
      clusters: cluster of each codeword.
      path: file that holds the clusters; None if none was written.
    """

    clusters: CodeClusters
    path: Path | None

    def __str__(self) -> str:
        return ('' if self.path is None else f'wrote {self.path}: ') + self.clusters.describe()


def cluster_codebook(
    model: Model,
    out: PathLike | None = None,
    *,
    clusters: int = 512,
    balanced: bool = False,
    tokens: PathLike | None = None,
    restarts: int = 10,
    seed: int = 0,
) -> ClusterReport:
    """Groups the codewords of a trained tokenizer into clusters by k-means.

    Args:
      model: tokenizer, or its path.
      out: `.safetensors` file for the clusters; None: none is written.
      clusters: number of clusters; about 32 codewords for each are usual.
      balanced: makes clusters whose sizes differ by one at most.
      tokens: folder of extracted tokens; k-means then sees only codewords that occur there, and the others join the
        nearest cluster.
      restarts: starts of k-means, of which the best is taken.
      seed: of k-means.

    Raises:
      UserError: there is no such tokenizer, or the tokens are of another one.
    """
    path = None if out is None else check_new_weights(out)
    if restarts < 1:
        raise UserError(f'the number of restarts is at least 1, got {restarts}')
    tokenizer = resolve_tokenizer(model)
    used = None if tokens is None else _used_codewords(Path(tokens), tokenizer, name_of_model(model))
    found = cluster_codewords(
        codeword_vectors(tokenizer), clusters, used=used, balanced=balanced, restarts=restarts, seed=seed
    )
    if path is not None:
        write_clusters(path, found, tokenizer)
    return ClusterReport(found, path)


def _used_codewords(folder: Path, tokenizer: TrainedTokenizer, name: str) -> np.ndarray:
    """Returns the ids that occur among the training tokens of a folder."""
    source = TokenSource(folder, 'train')
    if source.about['fingerprint'] != tokenizer.fingerprint:
        raise UserError(f'the tokens in {folder} are of another tokenizer than {name}')
    size = tokenizer.spec.codebook_sizes[0]
    counts = sum(np.bincount(source[i].ids.ravel(), minlength=size) for i in range(len(source)))
    return np.flatnonzero(counts)
