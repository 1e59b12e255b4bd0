"""Evaluation of a tokenizer on unseen images: reconstruction quality and use of the codebooks."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Array, Float, Integer

from vistok.errors import UserError
from vistok.metrics.image_quality import psnr, ssim
from vistok.pretrained.frozen_network import FrozenNetwork
from vistok.tokenizers.tokenizer import Tokens, TokenSpec
from vistok.training.codebook_usage import CodebookUsage
from vistok.visualization import reconstruction_sheet

Images = Float[np.ndarray, 'b H W 3']
Reconstruct = Callable[[Images], tuple[Images, Tokens]]
Observe = Callable[[Images, Images], None]


@dataclasses.dataclass(frozen=True)
class TokenizerEvaluation:
    """Metrics of an evaluation, with the first images for a sheet.

    Attributes:
      metrics: means over all images of all processes: 'psnr' (dB), 'ssim', the perceptual distance under the name of
        its network, 'grain/<side>' (share of the area); exact over the whole set: 'usage/<codebook>' (share of the
        codewords that occur) and 'perplexity/<codebook>'; and how many 'images' and 'tokens' (grid positions) were
        counted.
      originals: the first images of this process, in [-1, 1].
      reconstructions: reconstructions of these images.
      grain: side of the block of each token of these images; None for tokenizers without grains.
    """

    metrics: dict[str, float]
    originals: Float[np.ndarray, 'n H W 3']
    reconstructions: Float[np.ndarray, 'n H W 3']
    grain: Integer[np.ndarray, 'n h w'] | None = None

    def sheet(self) -> np.ndarray:
        """Draws originals, reconstructions, PSNR and grains as a uint8 image `[h, w, 3]`; UserError without images."""
        captions = [f'{value:.1f} dB' for value in psnr(self.originals, self.reconstructions)]
        return reconstruction_sheet(self.originals, self.reconstructions, captions, self.grain)


def evaluate_tokenizer(
    reconstruct: Reconstruct,
    batches: Iterable[Mapping[str, np.ndarray]],
    spec: TokenSpec,
    *,
    perceptual: FrozenNetwork | None = None,
    shown: int = 8,
    observe: Observe | None = None,
) -> TokenizerEvaluation:
    """Reconstructs every image of `batches` once and computes the metrics.

    In a run of several processes each calls this with its own share of the images, in equally many batches; all
    get the metrics of the whole set.

    Args:
      reconstruct: gives the reconstructions of some images and the tokens they were made from.
      batches: 'image' in [-1, 1] and 'mask' (bool, one per image: False on padding, which does not count).
      spec: codebook sizes and grid of the tokenizer.
      perceptual: frozen network that measures the distance between two images; None leaves it out.
      shown: number of images to keep for the sheet.
      observe: called with the originals and reconstructions of each batch, without padding.

    Raises:
      UserError: there are no images, or an id lies outside its codebook.
    """
    sides = spec.grains if len(spec.grains) > 1 else ()
    names = ['psnr', 'ssim', *([perceptual.name] if perceptual else [])]
    names += [f'grain/{side}' for side in sides]
    totals = _Totals(names, spec)
    originals: list[np.ndarray] = []
    reconstructions: list[np.ndarray] = []
    grains: list[np.ndarray] = []
    for batch in batches:
        images, mask = batch['image'], batch['mask']
        reconstruction, tokens = reconstruct(images)
        real, made = images[mask], np.asarray(reconstruction, np.float32)[mask]
        if observe is not None:
            observe(real, made)
        values = {'psnr': psnr(real, made), 'ssim': ssim(real, made)}
        if perceptual is not None:
            distances = _distances(perceptual.module, perceptual.variables, images, reconstruction)
            values[perceptual.name] = np.asarray(distances, np.float64)[mask]
        missing = shown - sum(map(len, originals))
        if sides:
            grain = np.asarray(tokens.grain)[mask]
            values |= {f'grain/{side}': np.mean(grain == side, axis=(1, 2)) for side in sides}
            grains.append(grain[:missing])
        totals.add(values, np.asarray(tokens.ids)[mask])
        originals.append(real[:missing])
        reconstructions.append(made[:missing])
    totals.include_other_processes()
    return TokenizerEvaluation(
        totals.metrics(),
        np.concatenate(originals),
        np.concatenate(reconstructions),
        np.concatenate(grains) if grains else None,
    )


@functools.partial(jax.jit, static_argnums=0)
def _distances(
    network: nn.Module, variables: Any, a: Float[Array, 'b H W 3'], b: Float[Array, 'b H W 3']
) -> Float[Array, ' b']:
    """Computes perceptual distances; values outside [-1, 1], which no image file can hold, are clipped."""
    distances: Any = network.apply(variables, jnp.clip(a, -1.0, 1.0), jnp.clip(b, -1.0, 1.0))
    return distances


class _Totals:
    """Sums over images and counts of ids, which processes can add up."""

    def __init__(self, names: Sequence[str], spec: TokenSpec) -> None:
        self._spec = spec
        self._sums = dict.fromkeys(names, 0.0)
        self._images = 0
        self._counts = [np.zeros(size, np.int64) for size in spec.codebook_sizes]

    def add(self, values: Mapping[str, Float[np.ndarray, ' b']], ids: Integer[np.ndarray, 'b h w k']) -> None:
        """Adds one value per image and name, and the ids of the images."""
        for name, per_image in values.items():
            self._sums[name] += float(per_image.sum())
        self._images += len(ids)
        for j, counts in enumerate(self._counts):
            found = np.bincount(ids[..., j].ravel(), minlength=counts.size)
            if found.size > counts.size:
                raise UserError(
                    f'codebook {self._spec.codebook_names[j]} has {counts.size} codewords, got id {found.size - 1}'
                )
            counts += found

    def include_other_processes(self) -> None:
        """Adds what the other processes added; every process must call it."""
        if jax.process_count() == 1:
            return
        vector = np.concatenate([[self._images], [*self._sums.values()], *self._counts]).astype(np.float64)
        # As 32-bit words, because JAX would round 64-bit numbers.
        gathered = np.asarray(multihost_utils.process_allgather(vector.view(np.uint32))).view(np.float64).sum(axis=0)
        images, sums, counts = np.split(gathered, [1, 1 + len(self._sums)])
        self._images = int(images[0])
        self._sums = dict(zip(self._sums, sums.tolist(), strict=True))
        self._counts = np.split(counts.astype(np.int64), np.cumsum(self._spec.codebook_sizes)[:-1])

    def metrics(self) -> dict[str, float]:
        """Computes means over images and the usage of the codebooks."""
        if self._images == 0:
            raise UserError('there are no images to evaluate on')
        metrics = {name: total / self._images for name, total in self._sums.items()}
        for name, size, counts in zip(self._spec.codebook_names, self._spec.codebook_sizes, self._counts, strict=True):
            usage = CodebookUsage(size)
            usage.add(counts)
            report = usage.report()
            metrics |= {f'usage/{name}': report.usage, f'perplexity/{name}': report.perplexity}
        return metrics | {'images': float(self._images), 'tokens': float(self._counts[0].sum())}
