"""Golden packs: numbers recorded from official PyTorch code with weights made by a rule.

A pack is a folder with `manifest.json` (names, shapes, seeds) and `io.npz` (inputs and outputs, channels first).  No
weights are stored: every entry of the official state dict is re-created from its name, its shape and a seed.
"""

import dataclasses
import fnmatch
import functools
import json
import pathlib
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

GOLDEN = pathlib.Path(__file__).parent / 'golden'


@dataclasses.dataclass(frozen=True)
class Pack:
    """One pack: its manifest and its arrays (as recorded: `[b, c, h, w]`)."""

    name: str
    manifest: dict[str, Any]
    arrays: Mapping[str, np.ndarray]

    def __getitem__(self, name: str) -> np.ndarray:
        """A recorded array as it was stored."""
        return self.arrays[name]

    def nhwc(self, name: str) -> np.ndarray:
        """A recorded image or feature map, channels last."""
        return np.ascontiguousarray(self.arrays[name].transpose(0, 2, 3, 1))

    def state_dict(
        self, variant: str = '', kept: Mapping[str, np.ndarray] | None = None, prefix: str = ''
    ) -> dict[str, np.ndarray]:
        """The official entries below `prefix`, made by the weight rule.

        Args:
          variant: '' or the name of a second instance ('n2' reads `state_dict_n2`, and `n2_gain`, ... where given).
          kept: values of entries the official constructor sets (buffers, counters); those not given are left out.
          prefix: only names that start with it, which is cut off.  The weights still follow the full names.
        """
        key = f'_{variant}' if variant else ''
        gain, overrides = (
            self.manifest.get(f'{variant}_{what}', self.manifest[what]) for what in ('gain', 'overrides')
        )
        made = {}
        for name, shape, dtype in self.manifest['state_dict' + key]:
            if not name.startswith(prefix):
                continue
            weight = None
            if dtype.startswith('float'):
                weight = golden_weight(name, tuple(shape), self.manifest['seed'], gain, overrides)
            if weight is None and kept and name in kept:
                weight = np.asarray(kept[name])
            if weight is not None:
                made[name.removeprefix(prefix)] = weight
        return made

    def check_weights(self, state_dict: Mapping[str, np.ndarray]) -> None:
        """Raises AssertionError where generated weights differ from the recorded fingerprints."""
        for name, check in self.manifest['weight_checks'].items():
            weight = state_dict[name].astype(np.float64)
            np.testing.assert_allclose(weight.ravel()[: len(check['first'])], check['first'], rtol=1e-6, err_msg=name)
            np.testing.assert_allclose(np.abs(weight).sum(), check['sum_abs'], rtol=1e-6, err_msg=name)


def golden_weight(
    name: str, shape: tuple[int, ...], seed: int, gain: float = 1.0, overrides: list | tuple = ()
) -> np.ndarray | None:
    """One floating-point entry; None where the rule leaves it as the official constructor made it."""
    if name.endswith('running_mean'):
        kind, scale = 'mean', 0.1
    elif name.endswith('running_var'):
        kind, scale = 'var', 0.1
    elif len(shape) >= 2:
        kind, scale = 'fan', gain
    elif len(shape) == 1 and name.endswith('.weight'):
        kind, scale = 'norm', 0.1
    else:
        kind, scale = 'vec', 0.1
    for pattern, special, special_scale in overrides:
        if fnmatch.fnmatchcase(name, pattern):
            defaults = {'fan': gain, 'absfan': gain, 'normal': 1.0}
            kind, scale = special, defaults.get(special, 0.1) if special_scale is None else special_scale
            break
    if kind == 'keep':
        return None
    rng = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode()) + seed))
    w = rng.standard_normal(shape, dtype=np.float32)
    if kind in ('fan', 'absfan'):
        fan = np.float32(scale / np.sqrt(int(np.prod(shape[1:]))))
        return (np.abs(w) if kind == 'absfan' else w) * fan
    scale = np.float32(scale)
    if kind == 'norm':
        return np.float32(1) + scale * w
    if kind == 'var':
        return np.float32(1) + scale * np.abs(w)
    if kind in ('vec', 'mean', 'normal'):
        return np.asarray(scale * w)
    raise ValueError(f'unknown kind of weight {kind!r} for {name}')


@functools.cache
def load_pack(name: str) -> Pack:
    """The pack in `tests/golden/<name>`."""
    with (GOLDEN / name / 'manifest.json').open() as file:
        manifest = json.load(file)
    with np.load(GOLDEN / name / 'io.npz') as arrays:
        return Pack(name, manifest, dict(arrays))


def assert_close(actual: Any, expected: Any, tolerance: float = 1e-4, name: str = '') -> None:
    """Largest difference at most `tolerance` of the largest expected magnitude (1e-4: maps; 1e-3: gradients)."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape, f'{name}: shape {actual.shape}, expected {expected.shape}'
    error = np.abs(actual - expected).max() / max(np.abs(expected).max(), 1e-30)
    assert error <= tolerance, f'{name}: relative error {error:.2e} > {tolerance:.0e}'


def random_variables(shapes: Any, seed: int = 0) -> Any:
    """Arrays for a tree of shapes, in no time: compiling an initialization takes longer than a tiny model's tests."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(0.3 * rng.standard_normal(x.shape), x.dtype), shapes)
