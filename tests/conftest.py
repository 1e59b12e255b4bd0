"""Shared setup: shape annotations are enforced, and eight CPU devices are simulated."""

import os

# Before jax is imported: simulated devices, and threads enough that queued steps cannot deadlock on them.
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('NPROC', '16')
os.environ['XLA_FLAGS'] = os.environ.get('XLA_FLAGS', '') + ' --xla_force_host_platform_device_count=8'

from jaxtyping import install_import_hook

install_import_hook('tesserax', 'beartype.beartype')
