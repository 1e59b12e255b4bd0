"""The utilization figure follows from its definition, and says nothing where the hardware is unknown."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from vistok.training.throughput import model_flops_utilization, peak_flops


def test_utilisation_is_achieved_over_peak_rate():
    peak = peak_flops('NVIDIA A100-SXM4-80GB', 'bfloat16')
    assert peak == 312e12
    full = model_flops_utilization(4 * peak, 1.0, 4, 'NVIDIA A100-SXM4-80GB', 'bfloat16')
    assert full == pytest.approx(1.0)
    slow = model_flops_utilization(4 * peak, 2.0, 4, 'NVIDIA A100-SXM4-80GB', 'bfloat16')
    assert slow == pytest.approx(0.5)


def test_unknown_hardware_or_work_gives_no_figure():
    assert peak_flops(jax.devices()[0].device_kind, 'float32') is None  # a CPU
    assert peak_flops('Tesla V100-SXM2-16GB', 'bfloat16') is None
    assert model_flops_utilization(1e12, 1.0, 1, 'cpu', 'float32') is None
    assert model_flops_utilization(0.0, 1.0, 1, 'NVIDIA H200', 'float32') is None


def test_related_devices_are_not_confused():
    assert peak_flops('NVIDIA H200 NVL', 'bfloat16') is None
    assert peak_flops('NVIDIA L4', 'bfloat16') < peak_flops('NVIDIA L40S', 'bfloat16')
    assert peak_flops('TPU v5 lite', 'bfloat16') < peak_flops('TPU v5', 'bfloat16')


def test_the_cost_analysis_speaks_of_one_device_as_the_docstring_says():
    mesh = jax.make_mesh((8,), ('data',), axis_types=(AxisType.Auto,))
    x = jax.device_put(jnp.ones((64, 32)), NamedSharding(mesh, PartitionSpec('data')))
    w = jax.device_put(jnp.ones((32, 16)), NamedSharding(mesh, PartitionSpec()))
    compiled = jax.jit(jnp.matmul).lower(x, w).compile()
    assert compiled.cost_analysis()['flops'] == 2 * 64 * 32 * 16 / 8
