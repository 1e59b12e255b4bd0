"""Digests of the arrays of a checkpoint, by which damage on disk is noticed."""

import zlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from vistok.training.sharding import path_name


def compute_digests(tree: Any) -> dict[str, str]:
    """Computes the CRC-32 of each array's bytes, by its path; it does not depend on how arrays are sharded.

    Arrays that are spread over several processes have none, because no process holds all of their bytes.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {path_name(path): _digest(x) for path, x in leaves if _is_here(x)}


def find_difference(tree: Any, digests: Mapping[str, str]) -> str | None:
    """Returns the path of the first array that is missing or has another digest than the given one; None without any.

    Args:
      tree: arrays.
      digests: of `compute_digests`; arrays without one are not compared.
    """
    arrays = {path_name(path): x for path, x in jax.tree_util.tree_leaves_with_path(tree)}
    for name, digest in digests.items():
        if name not in arrays or (_is_here(arrays[name]) and _digest(arrays[name]) != digest):
            return name
    return None


def _is_here(x: Any) -> bool:
    return not isinstance(x, jax.Array) or x.is_fully_addressable or x.is_fully_replicated


def _digest(x: Any) -> str:
    return f'{zlib.crc32(np.ascontiguousarray(x).view(np.uint8).data):08x}'
