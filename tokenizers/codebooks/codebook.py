"""Codebooks: tables of codewords, learned by gradient or computed from another table.

Quantizers (`tokenizers/quantizers`) choose among the codewords.
"""

import abc
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def unit_norm(x: Float[Array, '*shape d']) -> Float[Array, '*shape d']:
    """Divides `x` by its Euclidean norm along the last axis; vectors shorter than 1e-12 are divided by 1e-12.

    The norm is bounded before the root, so the gradient stays finite at the zero vector.
    """
    return x / jnp.sqrt(jnp.maximum(jnp.sum(x**2, axis=-1, keepdims=True), 1e-24))


class Codebook(nn.Module, abc.ABC):
    """Base class of codebooks: K codewords of width d.

    A quantizer calls the codebook for its rows and, in training, calls `update` once with all assignments of the
    forward pass.
    """

    @abc.abstractmethod
    def __call__(self) -> Float[Array, 'K d']:
        """Returns the float32 codewords, one per row."""

    def update(self, vectors: Float[Array, 'n d'], ids: Int[Array, ' n']) -> None:
        """Adapts the codewords to the vectors that were assigned to them.

        Codebooks that learn by gradient leave this empty.

        Args:
          vectors: vectors as they were compared with the codewords.
          ids: number of the codeword nearest to each.
        """


class LearnedCodebook(Codebook):
    """Codebook learned by gradient.

    Rows start uniform in (-1/K, 1/K) (van den Oord et al., "Neural Discrete Representation Learning", 2017, as taming
    and LlamaGen initialize them).

    Attributes:
      size: number of codewords, K.
      dim: width of the codewords, d.
      normalized_init: whether the first rows are scaled to unit norm (LlamaGen).
    """

    size: int
    dim: int
    normalized_init: bool = False

    @nn.compact
    def __call__(self) -> Float[Array, 'K d']:
        """Returns the float32 rows as they are stored."""

        def init(key: jax.Array, shape: tuple[int, int]) -> jax.Array:
            rows = jax.random.uniform(key, shape, minval=-1 / self.size, maxval=1 / self.size)
            return unit_norm(rows) if self.normalized_init else rows

        return jnp.asarray(self.param('codewords', init, (self.size, self.dim)))


class Table(nn.Module):
    """Rows from which codewords are computed, frozen or trained.

    The rows start Gaussian with standard deviation width^-0.5, as SimVQ draws them; rows made of features (VQGAN-LC)
    are put in their place before training.  A frozen table lies in the collection 'frozen', which the optimizer does
    not see.

    Attributes:
      size: number of rows, K.
      width: width of the rows.
      trained: whether the rows are parameters.
    """

    size: int
    width: int
    trained: bool = False

    @nn.compact
    def __call__(self) -> Float[Array, 'K width']:
        """Returns the float32 rows."""
        shape, init = (self.size, self.width), nn.initializers.normal(self.width**-0.5)
        if self.trained:
            return jnp.asarray(self.param('codewords', init, shape))
        rows: Any = self.variable('frozen', 'codewords', lambda: init(self.make_rng('params'), shape))
        return jnp.asarray(rows.value)


class Projector(nn.Module):
    """Multi-layer perceptron (ReLU) from rows of a table to codewords.

    Float32 at full matmul precision: which codeword is nearest must not depend on how a device rounds products.

    Attributes:
      dim: width of the codewords.
      hidden: widths of the hidden layers; none: a linear map.
      kernel_std: standard deviation of Gaussian initial kernels; None: uniform within fan_in^-0.5, like the biases.
    """

    dim: int
    hidden: Sequence[int] = ()
    kernel_std: float | None = None

    @nn.compact
    def __call__(self, rows: Float[Array, 'K width']) -> Float[Array, 'K d']:
        """Projects rows of a table to codewords."""
        for i, width in enumerate((*self.hidden, self.dim)):
            uniform = symmetric_uniform(rows.shape[-1] ** -0.5)
            rows = nn.Dense(
                width,
                precision=jax.lax.Precision.HIGHEST,
                kernel_init=uniform if self.kernel_std is None else nn.initializers.normal(self.kernel_std),
                bias_init=uniform,
                name=f'dense_{i}',
            )(nn.relu(rows) if i else rows)
        return rows


class ProjectedCodebook(Codebook):
    """Codebook whose codewords are a trained function of a table: each gradient step moves all of them.

    Zhu et al., "Scaling the Codebook Size of VQGAN to 100,000 with a Utilization Rate of 99%" (VQGAN-LC, 2024); Zhu et
    al., "Addressing Representation Collapse in Vector Quantized Models with One Linear Layer" (SimVQ, 2024).

    Attributes:
      table: module that returns rows, `[K, width]`.
      projector: module from rows to codewords, `[K, width]` to `[K, d]`; None: the rows are the codewords.
    """

    table: nn.Module
    projector: nn.Module | None = None

    def __call__(self) -> Float[Array, 'K d']:
        rows = self.table()
        return rows if self.projector is None else self.projector(rows)


def symmetric_uniform(bound: float) -> Callable[..., jax.Array]:
    """Returns an initializer that draws uniformly from (-bound, bound)."""

    def init(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, tuple(shape), dtype, -bound, bound)

    return init
