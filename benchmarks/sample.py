"""Speed of sampling: tokens per second of LlamaGen, against the memory bandwidth and against PyTorch.

    python benchmarks/sample.py [--sizes b,l] [--batch_sizes 1,8] [--guidance 1,4] [--tokens 256] [--dtype bfloat16]

A step of sampling reads every weight once, so the bandwidth measured in the same run bounds it: 'of bound' is the share
of that bound that is reached (keys and values are not counted; large batches are bound by arithmetic instead).  Where
PyTorch is installed, an eager decoder with a cache of keys and values samples the same number of tokens from the same
weights on the same device.
"""

import argparse
import dataclasses
import importlib.util
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vistok.generators.autoregressive.int8 import int8_weights
from vistok.generators.autoregressive.llamagen import SIZES, LlamaGen
from vistok.generators.generator import SampleConfig
from vistok.generators.trained import TrainedGenerator
from vistok.tokenizers.tokenizer import TokenSpec

DTYPES = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}
CACHES = {'': None, 'int8': jnp.int8, **DTYPES}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--sizes', default='b,l', help=f'of {", ".join(SIZES)}; or tiny')
    parser.add_argument('--batch_sizes', default='1,8')
    parser.add_argument('--guidance', default='1,4', help='scales; 1 is none, others double the rows')
    parser.add_argument('--tokens', type=int, default=256, help='a multiple of 16')
    parser.add_argument('--dtype', default='float32', choices=DTYPES)
    parser.add_argument('--cache_dtype', default='', choices=CACHES)
    parser.add_argument('--int8_weights', action='store_true')
    parser.add_argument('--window', type=int, default=0, help='ids guessed at a time')
    parser.add_argument('--repeats', type=int, default=2)
    parser.add_argument('--no_torch', action='store_true')
    options = parser.parse_args(argv)

    bandwidth = memory_bandwidth()
    device = jax.devices()[0]
    print(f'{device.device_kind}: {bandwidth / 1e9:.1f} GB/s, {options.dtype}, {options.tokens} tokens per sample')
    print(f'{"size":>5} {"batch":>5} {"guidance":>8} {"tokens/s":>10} {"of bound":>8} {"PyTorch":>10} {"ratio":>6}')
    for size in options.sizes.split(','):
        model = make(size, options)
        decoder = None
        if not options.no_torch and importlib.util.find_spec('torch'):
            decoder = torch_decoder(model)
        model = dataclasses.replace(model, variables=model.generator.prepare_for_sampling(model.variables))
        read = sum(x.nbytes for x in weights_of_a_step(model))
        for batch in map(int, options.batch_sizes.split(',')):
            for scale in map(float, options.guidance.split(',')):
                config = SampleConfig(guidance_scale=scale, window=options.window)
                cond = np.arange(batch) % model.generator.num_classes
                draw = lambda seed, cond=cond, config=config, model=model: jax.block_until_ready(  # noqa: E731
                    model.sample_tokens(cond, seed, config).ids
                )
                ours = batch * options.tokens / seconds(draw, options.repeats)
                row = f'{size:>5} {batch:>5} {scale:>8g} {ours:>10.1f} {ours / batch * read / bandwidth:>8.1%}'
                if decoder is not None:
                    theirs = (
                        batch
                        * options.tokens
                        / seconds(
                            lambda seed, decode=decoder, batch=batch, scale=scale: decode(batch, scale, options.tokens),
                            options.repeats,
                        )
                    )
                    row += f' {theirs:>10.1f} {ours / theirs:>6.2f}'
                print(row)


def make(size: str, options: argparse.Namespace) -> TrainedGenerator:
    """Builds a generator of a size with random weights and a grid of `options.tokens` tokens."""
    grid = (options.tokens // 16, 16)
    arguments = {'dtype': DTYPES[options.dtype], 'cache_dtype': CACHES[options.cache_dtype]}
    if size == 'tiny':
        spec = TokenSpec((64,), 16)
        generator = LlamaGen(spec, grid, 10, layers=2, heads=2, width=32, mlp_width=64, **arguments)
    else:
        generator = LlamaGen(TokenSpec((16384,), 16), grid, 1000, **SIZES[size], **arguments)
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(generator.init, jax.random.key(0))
    variables = jax.tree.map(lambda x: jnp.asarray(0.02 * rng.standard_normal(x.shape, np.float32)), shapes)
    variables = int8_weights(variables) if options.int8_weights else variables
    return TrainedGenerator(generator, variables)


def weights_of_a_step(model: TrainedGenerator) -> Iterator[Any]:
    """Yields the weights that a sampling step reads: all but the embedding tables, of which it reads one row."""
    for path, x in jax.tree_util.tree_leaves_with_path(model.variables):
        if getattr(path[-1], 'key', '') != 'embedding':
            yield x


def seconds(call: Callable[[int], Any], repeats: int) -> float:
    """Measures the shortest time of a call, after one to compile."""
    call(0)
    times = []
    for seed in range(1, repeats + 1):
        start = time.perf_counter()
        call(seed)
        times.append(time.perf_counter() - start)
    return min(times)


def memory_bandwidth(count: int = 2**26) -> float:
    """Measures the bytes per second that a sum over an array of 256 MiB reads."""
    x = jnp.ones((count,), jnp.float32)
    total = jax.jit(lambda x, seed: (x * seed).sum())
    return x.nbytes / seconds(lambda seed: jax.block_until_ready(total(x, jnp.float32(seed))), 4)


def torch_decoder(model: TrainedGenerator) -> Callable[[int, float, int], Any]:
    """Builds an eager PyTorch decoder of the same weights: (batch, guidance scale, tokens) -> ids."""
    import torch
    import torch.nn.functional as functional

    generator = model.generator
    assert isinstance(generator, LlamaGen)
    device = 'cuda' if jax.default_backend() == 'gpu' and torch.cuda.is_available() else 'cpu'
    dtype = torch.bfloat16 if generator.dtype == jnp.bfloat16 else torch.float32
    params = jax.tree.map(lambda x: torch.tensor(np.asarray(x, np.float32), device=device), model.variables['params'])
    if 'scales' in model.variables:
        print('      (PyTorch does not read integers: its weights are random numbers of its own type)')
    params = jax.tree.map(lambda x: x.to(dtype), params)
    # Matrices as PyTorch's own layers store them, a row for each output.
    rows = lambda x: x.t().contiguous().t() if x.ndim == 2 else x.contiguous()  # noqa: E731
    head = rows(params['output_0']['kernel'])
    layers = params['decoder']['layers']
    each = [jax.tree.map(lambda x, i=i: rows(x[i]), layers) for i in range(generator.layers)]
    table = torch.tensor(generator.network.rotation(), device=device)
    heads, width = generator.heads, generator.width

    def norm(x: Any, scale: Any) -> Any:
        return (x.float() * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + 1e-5)).to(dtype) * scale

    def rotate(x: Any, at: int) -> Any:
        pairs, (cos, sin) = x.float().unflatten(-1, (-1, 2)), table[at].unbind(-1)
        even, odd = pairs.unbind(-1)
        return torch.stack([even * cos - odd * sin, odd * cos + even * sin], -1).flatten(-2).to(dtype)

    def step(x: Any, at: int, keys: Any, values: Any) -> Any:
        count = len(x)
        for i, layer in enumerate(each):
            attention = layer['attention']
            qkv = norm(x, layer['attention_norm']['scale']) @ attention['qkv']['kernel']
            q, k, v = qkv.view(count, 3, heads, 1, width // heads).unbind(1)
            keys[i][:, :, at : at + 1], values[i][:, :, at : at + 1] = rotate(k, at), v
            seen = functional.scaled_dot_product_attention(
                rotate(q, at), keys[i][:, :, : at + 1], values[i][:, :, : at + 1]
            )
            x = x + seen.reshape(count, width) @ attention['out']['kernel']
            y = norm(x, layer['mlp_norm']['scale'])
            gate = functional.silu(y @ layer['mlp_gate']['kernel'])
            x = x + (gate * (y @ layer['mlp_in']['kernel'])) @ layer['mlp_out']['kernel']
        return (norm(x, params['norm']['scale']) @ head).float()

    @torch.inference_mode()
    def sample(batch: int, scale: float, tokens: int) -> Any:
        labels = torch.arange(batch, device=device) % generator.num_classes
        if scale != 1:
            labels = torch.cat([labels, torch.full_like(labels, generator.num_classes)])
        shape = (generator.layers, len(labels), heads, tokens, width // heads)
        keys, values = torch.zeros(shape, dtype=dtype, device=device), torch.zeros(shape, dtype=dtype, device=device)
        x = params['label']['embedding'][labels]
        drawn = []
        for at in range(tokens):
            logits = step(x, at, keys, values)
            if scale != 1:
                conditional, null = logits.chunk(2)
                logits = null + scale * (conditional - null)
            ids = torch.multinomial(logits.softmax(-1), 1)[:, 0]
            drawn.append(ids)
            x = params['codewords_0']['embedding'][ids.repeat(2) if scale != 1 else ids]
        return torch.stack(drawn, 1).cpu()

    return sample


if __name__ == '__main__':
    main()
