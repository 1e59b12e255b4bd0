"""Fingerprints of models (with their names and sizes) and of weights alone.

Both are written into files, so that neither may change: that of a model into token datasets and samples, that of the
weights into compressed images.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import numpy as np

WEIGHTS_FINGERPRINT_BYTES = 8


def fingerprint_model(description: Any, variables: dict[str, Any]) -> str:
    """Computes the SHA-256 digest of a model's description and named variables, as 64 hexadecimal digits.

    Args:
      description: what `repr` tells of the model, such as its `TokenSpec`.
      variables: nested dictionaries of arrays; their names count.
    """
    digest = hashlib.sha256(repr(description).encode())
    for name, value in sorted(flax.traverse_util.flatten_dict(variables, sep='/').items()):
        array = np.asarray(value)
        digest.update(f'{name} {array.dtype} {array.shape}'.encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def fingerprint_weights(variables: Mapping[str, Any]) -> bytes:
    """Computes an 8-byte digest of the values of all parameters (BLAKE2b), independent of their names.

    The type, the shape and the little-endian bytes of each array are hashed, and the sorted digests of all arrays are
    hashed again.  Names do not count, so that a later version may rename a layer and still read older files.
    """
    digests = []
    for value in flax.traverse_util.flatten_dict(dict(variables)).values():
        array = np.asarray(value)
        digest = hashlib.blake2b(repr((array.dtype.name, array.shape)).encode())
        digest.update(np.ascontiguousarray(array.astype(array.dtype.newbyteorder('<'))).tobytes())
        digests.append(digest.digest())
    return hashlib.blake2b(b''.join(sorted(digests)), digest_size=WEIGHTS_FINGERPRINT_BYTES).digest()
