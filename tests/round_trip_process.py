"""One side of round trips: `round_trip_process.py encode|decode FOLDER CONFIG ...`; see test_round_trips.py.

Both sides make the same random weights; what else decoding needs lies in the folder.
"""

import dataclasses
import os
import sys
from pathlib import Path

if __name__ == '__main__' and 'CORES' in os.environ and hasattr(os, 'sched_setaffinity'):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(os.environ['CORES'])])

import jax
import jax.numpy as jnp
import numpy as np
import optax
from golden_packs import random_variables

from vistok.compression.codec import Codec
from vistok.compression.format.description import describe
from vistok.compression.nested.codebooks import NestedCodebooks
from vistok.compression.nested.fitting import fit_nested
from vistok.compression.priors.fitting import fit_prior
from vistok.compression.priors.network import NetworkPrior
from vistok.compression.priors.prior import StaticPrior
from vistok.experiments import registry
from vistok.experiments.config_files import load_config
from vistok.generators.autoregressive.far import FAR
from vistok.generators.autoregressive.llamagen import LlamaGen
from vistok.tokenizers.tokenizer import Tokens
from vistok.tokenizers.trained import TrainedTokenizer
from vistok.weights.files import load_variables, save_variables
from vistok.weights.fingerprints import fingerprint_weights

GRID = (8, 8)


def image(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A smooth one with some noise."""
    rng = np.random.default_rng(seed)
    y, x = np.indices((height, width))[..., None]
    waves = np.sin(y / rng.uniform(5, 40, 3) + x / rng.uniform(5, 40, 3) + rng.uniform(0, 6, 3))
    return ((waves + 1) * 115 + rng.uniform(0, 25, waves.shape)).astype(np.uint8)


def plain_codec(config: str) -> Codec:
    """With the tokenizer of a config, `path[:variant][@name of the model]`."""
    path, _, name = config.partition('@')
    loaded = load_config(f'configs/{path}')
    if name:
        loaded.model.name = name
    module = registry.build_tokenizer(loaded.model)
    side = max(32, module.spec.cell)
    given = jax.random.key(0), jnp.zeros((1, side, side, 3))
    if loaded.model.name == 'simvq':  # the rule below brings all its codewords close together
        variables = dict(jax.jit(module.init)(*given))
    else:
        variables = dict(random_variables(jax.eval_shape(module.init, *given)))
    window = 64 if len(module.spec.grains) == 1 else 32  # those with grains have attention on fine grids
    return Codec(
        TrainedTokenizer(module, variables), fingerprint_weights(variables), window=window, halo=window // 4, tile=64
    )


def generator_of(codec: Codec) -> LlamaGen | FAR:
    """A small generator of the codec's tokens."""
    sizes = {'num_classes': 1, 'layers': 1, 'heads': 2, 'width': 16, 'mlp_width': 32, 'condition_dropout': 0.0}
    if len(codec.tokenizer.spec.codebook_sizes) == 1:
        return LlamaGen(codec.tokenizer.spec, grid=GRID, **sizes)
    return FAR(codec.tokenizer.spec, grid=GRID, **sizes, head_layers=1)


def trained_network(codec: Codec, tokens: Tokens) -> dict:
    """Variables of a generator that has seen some tokens, so that it is worth being used."""
    generator, ids = generator_of(codec), np.asarray(tokens.ids)[0]
    places = [(y, x) for y in range(0, len(ids) - 7, 8) for x in range(0, ids.shape[1] - 7, 8)]
    blocks = np.stack([ids[y : y + 8, x : x + 8] for y, x in places])
    optimizer = optax.adam(1e-2)

    @jax.jit
    def step(params, state, batch):
        def loss(params):
            given = Tokens(batch)
            labels = jnp.zeros(len(batch), jnp.int32)
            return generator.loss({'params': params}, given, labels, jax.random.key(0), train=False).loss

        gradients = jax.grad(loss)(params)
        updates, state = optimizer.update(gradients, state)
        return optax.apply_updates(params, updates), state

    params = generator.init(jax.random.key(0))['params']
    state, rng = optimizer.init(params), np.random.default_rng(0)
    for _ in range(150):
        params, state = step(params, state, blocks[rng.integers(0, len(blocks), 8)])
    return {'params': params}


def codec_with(codec: Codec, prior: str, folder: Path) -> Codec:
    """The codec with what the folder holds."""
    if prior in ('tables', 'nested'):
        codec = dataclasses.replace(codec, prior=StaticPrior.load(folder / 'tables.safetensors'))
    if prior == 'nested':
        codec = dataclasses.replace(codec, nested=NestedCodebooks.load(folder / 'nested.safetensors'))
    if prior == 'network':
        variables = jax.tree.map(jnp.asarray, load_variables(folder / 'network.safetensors').variables)
        codec = dataclasses.replace(codec, network=NetworkPrior.from_variables(generator_of(codec), variables))
    return codec


def encode(folder: Path, config: str, priors: list[str], sizes: list[tuple[int, int]]) -> None:
    """Writes files of images of all sizes with all priors, and their ids."""
    codec = plain_codec(config)
    spec = codec.tokenizer.spec
    seen = [codec.encode(image(64, 64, seed)) for seed in range(1, 4)]
    words = [np.arange(size, dtype=np.float32)[:, None] for size in spec.codebook_sizes]
    fit_prior(seen, words, spec, clusters=(4,)).save(folder / 'tables.safetensors')
    usage = [np.ones(size, int) for size in spec.codebook_sizes]
    fit_nested(words, usage, (8, 4), codec.weights_fingerprint, restarts=1).save(folder / 'nested.safetensors')
    tokens = {size: codec.encode(image(*size)) for size in sizes}
    largest = max(sizes, key=lambda size: size[0] * size[1])
    assert len(np.unique(np.asarray(tokens[largest].ids))) > 3  # random weights see something
    if 'network' in priors:
        save_variables(folder / 'network.safetensors', 'network', trained_network(codec, tokens[largest]))
    for prior in priors:
        used = codec_with(codec, prior, folder)
        for (height, width), whole in tokens.items():
            if prior == 'network' and (height, width) == largest:  # which would take it long
                height, width = height // 3, width // 3
                whole = codec.encode(image(height, width))
            found = used.nested.coarsen(whole, 0, 1) if used.nested else whole
            data = used.at_level(1 if used.nested else 0).pack(image(height, width), found)
            name = f'{prior}.{height}x{width}'
            if height > 1:
                assert ('ids, coded' in describe(data).streams) == (prior != 'none'), name
            (folder / f'{name}.bin').write_bytes(data)
            expected = used.nested.expand(found, 1) if used.nested else whole
            grain = {} if expected.grain is None else {'grain': np.asarray(expected.grain)}
            np.savez(folder / f'{name}.npz', ids=np.asarray(expected.ids), **grain)


def decode(folder: Path, config: str, *, images: bool) -> int:
    """Number of files whose ids are those that were written; AssertionError for others."""
    codec, count = plain_codec(config), 0
    for file in sorted(folder.glob('*.bin')):
        used = codec_with(codec, file.name.partition('.')[0], folder)
        content = used.unpack(file.read_bytes())
        tokens, header = content.tokens, content.header
        with np.load(file.with_suffix('.npz')) as expected:
            np.testing.assert_array_equal(np.asarray(tokens.ids), expected['ids'], err_msg=file.name)
            assert (tokens.grain is None) == ('grain' not in expected)
            if tokens.grain is not None:
                np.testing.assert_array_equal(np.asarray(tokens.grain), expected['grain'], err_msg=file.name)
        if images and file.name.startswith('none.1x'):
            shape = (header.height, header.width, 3)
            assert used.decode(tokens, header).shape == shape, file.name
        count += 1
    return count


if __name__ == '__main__':
    for where, which in zip(map(Path, sys.argv[2::2]), sys.argv[3::2], strict=True):
        if sys.argv[1] == 'encode':
            chosen = [tuple(map(int, size.split('x'))) for size in os.environ['SIZES'].split()]
            encode(where, which, os.environ['PRIORS'].split(), chosen)
        else:
            print(decode(where, which, images='PICTURES' in os.environ))
