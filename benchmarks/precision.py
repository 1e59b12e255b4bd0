"""Bits per token of a trained generator with fewer bits for weights and for cached keys and values.

    python benchmarks/precision.py --run runs/llamagen --tokens runs/vqgan-digits/tokens

The generator reads the validation tokens id by id with its cache, as in sampling, so that every rounding counts.
"""

import argparse
import dataclasses
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import vistok
from vistok.data.tokens.dataset import TokenSource
from vistok.generators.autoregressive.base import Autoregressive
from vistok.generators.autoregressive.decoding import SampledToken, decode
from vistok.generators.autoregressive.int8 import int8_weights
from vistok.generators.generator import Variables

CACHES = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16, 'int8': jnp.int8}


def bits_per_token(generator: Autoregressive, variables: Variables, ids: np.ndarray, labels: np.ndarray) -> float:
    """Computes the mean bits per token over tokens `[n, h, w, k]` with known classes."""
    flat = jnp.asarray(ids.reshape(len(ids), -1, ids.shape[-1]))

    def measure(variables: Variables, flat: jax.Array, labels: jax.Array) -> jax.Array:
        def read(total: Any, logits: jax.Array, position: Any, codebook_index: int) -> SampledToken:
            given = flat[:, position, codebook_index]
            found = jnp.take_along_axis(jax.nn.log_softmax(logits.astype(jnp.float32)), given[:, None], axis=1)
            return SampledToken(given, total - found.mean())

        return decode(generator, variables, labels, read, jnp.zeros(())).state / flat[0].size

    sampling_variables = generator.prepare_for_sampling(variables)
    return float(jax.jit(measure)(sampling_variables, flat, jnp.asarray(labels))) / math.log(2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--run', required=True, help='run folder of an autoregressive generator')
    parser.add_argument('--tokens', type=Path, required=True, help='folder of launch/extract_tokens.py')
    args = parser.parse_args()
    model = vistok.load(args.run)
    source = TokenSource(args.tokens, 'validation')
    records = [source[i] for i in range(len(source))]
    ids, labels = np.stack([record.ids[0] for record in records]), np.asarray([record.label for record in records])
    print('| weights | cache | bits per token |\n|---|---|---:|')
    for weights, variables in (('float32', model.variables), ('int8', int8_weights(model.variables))):
        for name, dtype in CACHES.items():
            generator = dataclasses.replace(model.generator, cache_dtype=dtype)
            print(f'| {weights} | {name} | {bits_per_token(generator, variables, ids, labels):.4f} |')


if __name__ == '__main__':
    main()
