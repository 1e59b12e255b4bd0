"""Convolutions and linear layers whose initial weights are distributed as PyTorch's are.

The official code of the convolutional networks leaves them to PyTorch: kernels uniform with variance 1 / (3 fan_in),
biases uniform within fan_in^-0.5.  Flax's own layers start with kernels of three times the variance and biases of 0.
"""

from typing import Any

import flax.linen as nn
import jax
import numpy as np

KERNEL_INIT = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')
"""Initializer of kernels whose last two axes are inputs and outputs."""


class Conv(nn.Conv):
    """Convolution over the spatial axes.

    Attributes:
      kernel_init: initializer of the kernel.
      bias_init: initializer of the bias; None: uniform within fan_in^-0.5.
    """

    kernel_init: Any = KERNEL_INIT
    bias_init: Any = None
    promote_dtype: Any = nn.dtypes.promote_dtype  # as inherited; flax's annotation cannot be checked at run time

    def param(self, name: str, init_fn: Any, *args: Any, **kwargs: Any) -> Any:
        return super().param(name, init_fn or _like_kernel(self), *args, **kwargs)


class Dense(nn.Dense):
    """Linear map of the last axis: a convolution of 1x1, or a fully connected layer.

    Attributes:
      kernel_init: initializer of the kernel.
      bias_init: initializer of the bias; None: uniform within fan_in^-0.5.
    """

    kernel_init: Any = KERNEL_INIT
    bias_init: Any = None
    promote_dtype: Any = nn.dtypes.promote_dtype  # as inherited; flax's annotation cannot be checked at run time

    def param(self, name: str, init_fn: Any, *args: Any, **kwargs: Any) -> Any:
        return super().param(name, init_fn or _like_kernel(self), *args, **kwargs)


class ConvTranspose(nn.ConvTranspose):
    """Transposed convolution, whose fan_in PyTorch counts over its outputs.

    Attributes:
      kernel_init: initializer of the kernel.
      bias_init: initializer of the bias; None: uniform within fan_in^-0.5.
    """

    kernel_init: Any = nn.initializers.variance_scaling(1 / 3, 'fan_out', 'uniform')
    bias_init: Any = None
    promote_dtype: Any = nn.dtypes.promote_dtype  # as inherited; flax's annotation cannot be checked at run time

    def param(self, name: str, init_fn: Any, *args: Any, **kwargs: Any) -> Any:
        return super().param(name, init_fn or _like_kernel(self, outputs=True), *args, **kwargs)


def _like_kernel(layer: nn.Module, *, outputs: bool = False) -> Any:
    """Returns the initializer of the bias of a layer, whose kernel was declared before and tells the fan_in."""
    kernel: Any = layer.get_variable('params', 'kernel')
    fan_in = int(np.prod(kernel.shape[:-2])) * kernel.shape[-1 if outputs else -2]
    bound = fan_in**-0.5
    return lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -bound, bound)
