import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from tesserax.tokenizers.quantizers.nearest import nearest_codeword


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def distances(z: np.ndarray, codebook: np.ndarray) -> np.ndarray:
    z, codebook = z.astype(np.float64), codebook.astype(np.float64)
    return ((z[:, None] - codebook[None]) ** 2).sum(-1)


@pytest.mark.parametrize('n', [1, 7, 300])
@pytest.mark.parametrize('size', [1, 2, 63, 64, 65, 1000, 4096])
@pytest.mark.parametrize('dim', [1, 8, 100])
def test_equals_exhaustive_float64_search(n, size, dim):
    z, codebook = normal(n, n, dim), normal(size + 1, size, dim)
    ids = np.asarray(nearest_codeword(jnp.asarray(z), jnp.asarray(codebook)))
    d = distances(z, codebook)
    best = d.min(-1)
    assert ids.dtype == np.int32
    assert ids.min() >= 0
    assert ids.max() < size
    # Scores are rounded relative to |z|^2 and |c|^2, not to the distance.
    rounding = 1e-6 * ((z**2).sum(-1) + (codebook[ids] ** 2).sum(-1))
    assert (d[np.arange(n), ids] <= best + rounding).all()
