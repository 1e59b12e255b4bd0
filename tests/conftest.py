"""Shared setup: shape annotations are enforced, eight CPU devices are simulated, programs are compiled once, fast."""

import atexit
import gc
import os
import shutil
import tempfile
from collections.abc import Iterator

# Before jax is imported: simulated devices, and threads enough that queued steps cannot deadlock on them.
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('NPROC', '16')
# Nearly all the time goes into compiling tiny programs that run once, so the compiler is told to make little effort.
os.environ['XLA_FLAGS'] = (
    '--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false '
    + os.environ.get('XLA_FLAGS', '')
)

# Many tests train the same tiny model, in this process and in others; each program is compiled by the first.
if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
    os.environ['JAX_COMPILATION_CACHE_DIR'] = tempfile.mkdtemp(prefix='vistok-tests-')
    atexit.register(shutil.rmtree, os.environ['JAX_COMPILATION_CACHE_DIR'], ignore_errors=True)

import jax
import pytest
from jaxtyping import install_import_hook

install_import_hook('vistok', 'beartype.beartype')


@pytest.fixture(scope='module', autouse=True)
def memory_of_a_module_is_given_back() -> Iterator[None]:
    """Compiled programs keep models of published size alive; a process that runs many modules would hold them all."""
    yield
    jax.clear_caches()
    gc.collect()
