"""Time and temporary memory of the nearest-codeword search, beside the plain matmul and argmin.

    python benchmarks/nearest.py --codewords 262144 --dim 8 --vectors 8192 65536

The plain form is skipped where its score matrix would exceed `--plain-limit-gib`.  With PyTorch installed, its matmul
and argmax run beside ours.  Mismatches are counted against float64 on a sample of the rows.
"""

import argparse
import dataclasses
import importlib.util
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vistok.clustering.nearest import nearest_codeword


@dataclasses.dataclass(frozen=True)
class Result:
    seconds: float
    temp_mib: float | None
    mismatches: int


def plain(z: jax.Array, codebook: jax.Array) -> jax.Array:
    """Computes all squared distances at once, as VQGAN implementations do."""
    products = jnp.matmul(z, codebook.T, precision=jax.lax.Precision.HIGHEST)
    return jnp.argmin(jnp.sum(z**2, axis=1, keepdims=True) + jnp.sum(codebook**2, axis=1) - 2 * products, axis=1)


def fastest(call: Callable[[], Any], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def mismatches(ids: np.ndarray, z: np.ndarray, codebook: np.ndarray, sample: int) -> int:
    rows = np.random.default_rng(0).choice(len(z), min(sample, len(z)), replace=False)
    half_norms = 0.5 * (codebook.astype(np.float64) ** 2).sum(-1)
    exact = [int(np.argmax(codebook @ z[row].astype(np.float64) - half_norms)) for row in rows]
    return int((ids[rows] != exact).sum())


def measure_jax(
    search: Callable[..., jax.Array], z: np.ndarray, codebook: np.ndarray, repeats: int, sample: int
) -> Result:
    args = jnp.asarray(z), jnp.asarray(codebook)
    compiled = jax.jit(search).lower(*args).compile()
    ids = np.asarray(compiled(*args))
    seconds = fastest(lambda: compiled(*args).block_until_ready(), repeats)
    memory = compiled.memory_analysis()
    return Result(seconds, memory.temp_size_in_bytes / 2**20 if memory else None, mismatches(ids, z, codebook, sample))


def measure_torch(z: np.ndarray, codebook: np.ndarray, repeats: int, sample: int) -> Result:
    import torch

    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    rows, table = torch.from_numpy(z).to(device), torch.from_numpy(codebook).to(device)

    def search() -> np.ndarray:
        # In one call: written out, PyTorch would hold three matrices of this size.
        distances = torch.addmm((table**2).sum(1), rows, table.T, alpha=-2)
        return distances.argmin(1).cpu().numpy()

    ids = search()
    return Result(fastest(search, repeats), None, mismatches(ids, z, codebook, sample))


def report(name: str, vectors: int, result: Result, ours: Result, sample: int) -> None:
    memory = '-' if result.temp_mib is None else f'{result.temp_mib:.1f}'
    ratio = f'{result.seconds / ours.seconds:.1f}'
    print(f'{vectors:>9}  {name:<9}{result.seconds:>10.3f}{memory:>12}{ratio:>9}{result.mismatches:>8}/{sample}')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--codewords', type=int, default=262144, help='K')
    parser.add_argument('--dim', type=int, default=8, help='width of a codeword')
    parser.add_argument('--vectors', type=int, nargs='+', default=[8192, 65536], help='numbers of vectors')
    parser.add_argument('--unit-norm', action='store_true', help='scale vectors and codewords to unit norm')
    parser.add_argument('--offset', type=float, default=0.0, help='added to every vector and codeword')
    parser.add_argument('--plain-limit-gib', type=float, default=9.0, help='largest score matrix of the plain form')
    parser.add_argument('--repeats', type=int, default=3)
    parser.add_argument('--sample', type=int, default=256, help='rows checked in float64')
    args = parser.parse_args()

    def draw(rng: np.random.Generator, n: int) -> np.ndarray:
        x = rng.standard_normal((n, args.dim), dtype=np.float32)
        if args.unit_norm:
            x /= np.linalg.norm(x, axis=1, keepdims=True)
        return x + np.float32(args.offset)

    rng = np.random.default_rng(0)
    codebook = draw(rng, args.codewords)
    print(f'{args.codewords} codewords of width {args.dim}, float32, {jax.devices()[0].device_kind}')
    print(f'{"vectors":>9}  {"search":<9}{"seconds":>10}{"temp MiB":>12}{"/ ours":>9}{"wrong":>8}')
    for n in args.vectors:
        z, sample = draw(rng, n), min(args.sample, n)
        ours = measure_jax(nearest_codeword, z, codebook, args.repeats, sample)
        report('ours', n, ours, ours, sample)
        if 4 * n * args.codewords <= args.plain_limit_gib * 2**30:
            report('plain', n, measure_jax(plain, z, codebook, 1, sample), ours, sample)
            if importlib.util.find_spec('torch'):
                report('torch', n, measure_torch(z, codebook, 1, sample), ours, sample)


if __name__ == '__main__':
    main()
