"""Hardware utilization of a training step (model FLOPs utilization)."""

# Dense peak rates of one device in FLOP/s, as the vendors' data sheets give them (sparsity figures halved), by the name
# JAX gives the device.  'float32' is the rate of XLA's default for float32 matrix products: TensorFloat-32 on NVIDIA
# GPUs from Ampere on, plain float32 before.  Google publishes no float32 rate for TPUs.
_PEAK_FLOPS: dict[str, dict[str, float]] = {
    # NVIDIA H200 and H100 data sheets: 1979 (PCIe 1513) TFLOP/s bfloat16 and 989 (PCIe 756) TF32, with sparsity
    'NVIDIA H200': {'bfloat16': 989.4e12, 'float32': 494.7e12},
    'NVIDIA H100 80GB HBM3': {'bfloat16': 989.4e12, 'float32': 494.7e12},
    'NVIDIA H100 PCIe': {'bfloat16': 756e12, 'float32': 378e12},
    # NVIDIA A100 data sheet
    'NVIDIA A100-SXM4-40GB': {'bfloat16': 312e12, 'float32': 156e12},
    'NVIDIA A100-SXM4-80GB': {'bfloat16': 312e12, 'float32': 156e12},
    'NVIDIA A100-PCIE-40GB': {'bfloat16': 312e12, 'float32': 156e12},
    'NVIDIA A100 80GB PCIe': {'bfloat16': 312e12, 'float32': 156e12},
    # NVIDIA L40S and L4 data sheets
    'NVIDIA L40S': {'bfloat16': 362e12, 'float32': 183e12},
    'NVIDIA L4': {'bfloat16': 121e12, 'float32': 60e12},
    # NVIDIA V100 data sheet; no bfloat16 units
    'Tesla V100-SXM2-16GB': {'float32': 15.7e12},
    'Tesla V100-SXM2-32GB': {'float32': 15.7e12},
    'Tesla V100-PCIE-16GB': {'float32': 14e12},
    'Tesla V100-PCIE-32GB': {'float32': 14e12},
    # Google Cloud TPU documentation, system architecture pages; one device is one chip
    'TPU v4': {'bfloat16': 275e12},
    'TPU v5 lite': {'bfloat16': 197e12},  # v5e
    'TPU v5': {'bfloat16': 459e12},  # v5p
    'TPU v5p': {'bfloat16': 459e12},
    'TPU v6 lite': {'bfloat16': 918e12},  # v6e, Trillium
}


def peak_flops(device_kind: str, dtype: str) -> float | None:
    """Looks up the dense peak rate of one device in FLOP/s.

    Args:
      device_kind: name of the device, as in `jax.Device.device_kind`.
      dtype: computation type, 'bfloat16' or 'float32'.

    Returns:
      None for a device or type that is not in the table.
    """
    return _PEAK_FLOPS.get(device_kind, {}).get(dtype)


def model_flops_utilization(
    flops_per_step: float, seconds_per_step: float, device_count: int, device_kind: str, dtype: str
) -> float | None:
    """Computes the share of the peak rate that a step reaches, between 0 and 1.

    Args:
      flops_per_step: FLOPs of the whole step on all devices.  `compiled.cost_analysis()['flops']` counts one device
        and counts the body of a loop (`lax.scan`) once, so that a scanned model looks idler than it is.
      seconds_per_step: wall clock.
      device_count: devices that share the step.
      device_kind: name of the device, as in `jax.Device.device_kind`.
      dtype: computation type, 'bfloat16' or 'float32'.

    Returns:
      None when the peak rate or the count of operations is unknown.
    """
    peak = peak_flops(device_kind, dtype)
    if peak is None or flops_per_step <= 0 or seconds_per_step <= 0:
        return None
    return flops_per_step / (seconds_per_step * device_count * peak)
