"""Parts of make.sh; run with the old version on PYTHONPATH."""

import io
import json
import pathlib
import re
import sys
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

import tesserax
from tesserax.common.weights import write_state_dict
from tesserax.tokenizers.tokenizer import Tokens, TokenSpec


def random_variables(shapes):
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: jnp.asarray(0.3 * rng.standard_normal(x.shape), x.dtype), shapes)


def official():
    """Small random weights in the official layouts."""
    from tesserax.common.convert import variable_shapes
    from tesserax.common.nn.patchgan import PatchGAN
    from tesserax.generators.llamagen import LlamaGen
    from tesserax.generators.vqgan_lc_gpt import VQGANLCGPT

    sizes = {'layers': 1, 'heads': 1, 'width': 64, 'mlp_width': 8}
    made = {'llamagen_gpt': LlamaGen(TokenSpec((16,), 16), (16, 16), 10, **sizes)}
    for name, generator in made.items():
        variables = random_variables(jax.eval_shape(generator.init, jax.random.key(0)))
        write_state_dict(f'converted/{name}_official.safetensors', tesserax.to_official(name, variables))
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    variables = random_variables(variable_shapes(PatchGAN(channels=4, layers=2), image, train=True))
    variables['batch_stats'] = jax.tree.map(lambda x: 0.5 + jnp.abs(x), variables['batch_stats'])
    write_state_dict('converted/patchgan_official.safetensors', tesserax.to_official('patchgan', variables))


def pictures():
    """uint8 pictures by formulas, and a few of the embedded digits."""
    from tesserax.common.data.embedded import Digits

    pathlib.Path('pictures').mkdir(exist_ok=True)
    y, x = np.mgrid[:64, :64]
    Image.fromarray(np.stack([4 * x, 4 * y, 2 * (x + y)], -1).astype(np.uint8)).save('pictures/gradient.png')
    y, x = np.mgrid[:64, :96]
    wave = np.stack([2 * x, 3 * y, 127 + 127 * np.sin(x * y / 300)], -1)
    Image.fromarray(wave.round().astype(np.uint8)).save('pictures/wave.png')
    # Twice the same: a covariance of zeros takes no room.
    np.savez('pictures/flat.npz', arr_0=np.full((2, 8, 8, 3), 128, np.uint8))
    with zipfile.ZipFile('pictures/digits.zip', 'w') as folder:
        for split, count in (('train', 2), ('validation', 1)):
            source = Digits(split)
            for label in range(10):
                found = [record for record in map(source.__getitem__, range(120)) if record.label == label][:count]
                for i, record in enumerate(found):
                    file = io.BytesIO()
                    Image.fromarray(record.image).convert('L').save(file, 'PNG')
                    folder.writestr(zipfile.ZipInfo(f'{split}/{label}/{i}.png'), file.getvalue())


def repack():
    """The same arrays, compressed."""
    with np.load('statistics.npz') as arrays:
        found = dict(arrays)
    np.savez_compressed('statistics.npz', **found)


def images():
    """What `expected.json` says about encoding is of these."""
    return np.sin(np.linspace(0, 60, 2 * 16 * 16 * 3)).reshape(2, 16, 16, 3).astype(np.float32)


def numbers(x):
    return [round(float(v), 6) for v in np.asarray(x).ravel()]


def compact(text):
    """Lists of numbers on one line."""
    return re.sub(r'\[[-\d\s.,e\[\]]+\]', lambda found: re.sub(r'\s+', ' ', found[0]), text)


def summary(x):
    x = np.asarray(x, np.float64)
    return {'shape': list(x.shape), 'mean': float(x.mean()), 'std': float(x.std()), 'first': numbers(x.ravel()[:12])}


def of_tokenizer(path):
    model = tesserax.load(path)
    tokens = model.encode(images())
    ids = np.asarray(tokens.ids)
    rng = np.random.default_rng(0)
    for _ in range(5):  # ids that a change of this size moves would differ on other machines
        moved = model.encode(images() + rng.normal(size=images().shape).astype(np.float32) * 1e-5)
        print(path, 'ids moved by noise of 1e-5:', int((np.asarray(moved.ids) != ids).sum()), 'distinct', len(np.unique(ids)))
    found = {
        'class': type(model.module).__name__,
        'fingerprint': model.fingerprint,
        'ids': ids[..., 0].tolist(),
        'decoded': summary(model.decode(tokens)),
    }
    from tesserax.compression.codec import fingerprint

    return found | {'codec_fingerprint': fingerprint(model.variables).hex()}


def cond_ids(side, size, count):
    return (np.arange(count * side * side) * 7 % size).reshape(count, side, side, 1).astype(np.int32)


def of_generator(model, side):
    from tesserax.generators.generator import SampleConfig

    size = model.generator.spec.codebook_sizes[0]
    loss = model.loss(Tokens(cond_ids(side, size, 2)), [1, 3])
    greedy = np.asarray(model.sample([0, 1, 2], config=SampleConfig(temperature=0.0)).ids)[..., 0]
    drawn = np.asarray(model.sample([0, 1, 2], seed=5).ids)[..., 0]
    return {
        'class': type(model.generator).__name__,
        'grid': list(model.generator.grid),
        'num_classes': model.generator.num_classes,
        'loss': float(loss.loss),
        'metrics': {k: float(v) for k, v in loss.metrics.items()},
        'greedy_ids': greedy.tolist(),
        'drawn_ids_seed_5': drawn.tolist(),
    }


def metrics(path, steps):
    lines = [json.loads(line) for line in pathlib.Path(path, 'metrics.jsonl').read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith('speed/')} for line in lines if line['step'] in steps]


def of_statistics():
    from tesserax.common.metrics.feature_set import load_statistics

    stats = load_statistics('statistics.npz')
    return {
        'protocol': stats.protocol,
        'network_sha256': stats.network_sha256,
        'pictures': stats.pictures,
        'pictures_sha256': stats.pictures_sha256,
        'count': stats.pool.count,
        'mean': summary(stats.pool.mean),
        'covariance': summary(stats.pool.covariance),
        'features': list(stats.features.shape),
    }


def of_bitstreams():
    from tesserax.compression.description import describe
    from tesserax.launch.open_codec import open_codec

    found = {}
    for name in ('plain', 'prior', 'nested', 'packets', 'shipped'):
        data = pathlib.Path(f'compressed/{name}.bin').read_bytes()
        codec = open_codec(None if name == 'shipped' else 'models/simvq.safetensors')
        reader = codec.reader(data)
        tokens = codec.unpack(reader)
        png = name if name in ('nested', 'shipped') else 'plain'
        picture = np.asarray(codec.decompress(data), np.int64)
        kept = np.asarray(Image.open(f'compressed/{png}.png'), np.int64)
        assert np.array_equal(picture, kept), name
        entry = {'bytes': len(data), 'lines': {k: v for k, v in describe(data).lines()}, 'mean': float(picture.mean())}
        entry['picture'] = f'compressed/{png}.png'
        ids = np.asarray(tokens.ids)
        entry['ids_shape'] = list(ids.shape)
        entry['ids_weighted_sum'] = int((ids.ravel().astype(np.int64) * (1 + np.arange(ids.size) % 1009)).sum())
        entry['ids'] = ''.join(f'{i:x}' for i in ids.ravel()) if ids.max() < 16 else ids.ravel().tolist()
        if tokens.grain is not None:
            entry['grain'] = np.asarray(tokens.grain)[0].tolist()
        found[name] = entry
    return found


def expected(copies):
    """expected.json."""
    from tesserax.common.data.token_dataset import TokenSource
    from tesserax.compression.nested import NestedCodebooks
    from tesserax.compression.prior import StaticPrior
    from tesserax.launch.code_clusters import read_clusters

    answer = {
        'images': 'sin(linspace(0, 60, 1536)).reshape(2, 16, 16, 3), float32',
        'generator_ids': '(arange(2 * side * side) * 7 % codebook_size).reshape(2, side, side, 1), classes [1, 3]',
        'bitstream_ids': 'flat; as one hexadecimal digit each where all are below 16; always ids of the whole codebook, also of nested.bin',
        'tolerance': 'floats: rtol 1e-4, atol 1e-5; pixels of decompressed PNG files: 1 level; ids, strings: exact',
    }
    answer['tokenizers'] = {
        path: of_tokenizer(path)
        for path in ('runs/simvq', 'models/simvq.safetensors', 'models/simvq_half.safetensors',
                     'tokens/tokenizer.safetensors', 'runs/llamagen/tokenizer.safetensors')
    }  # fmt: skip
    answer['generators'] = {'runs/llamagen': of_generator(tesserax.load('runs/llamagen'), 4)}
    gpt = tesserax.load('converted/llamagen_gpt.safetensors')
    answer['generators']['converted/llamagen_gpt.safetensors'] = {
        'class': type(gpt.generator).__name__,
        'grid': list(gpt.generator.grid),
        'loss': float(gpt.loss(Tokens(cond_ids(16, 16, 2)), [1, 3]).loss),
    }
    disc = tesserax.load('converted/patchgan.safetensors')
    y = np.sin(np.linspace(0, 60, 2 * 32 * 32 * 3)).reshape(2, 32, 32, 3).astype(np.float32)
    answer['networks'] = {'converted/patchgan.safetensors': {
        'class': type(disc.module).__name__, 'output': summary(disc.module.apply(disc.variables, y, train=False)),
        'images': 'sin(linspace(0, 60, 6144)).reshape(2, 32, 32, 3), float32; train=False'}}  # fmt: skip
    answer['runs'] = {
        name: {
            'steps 1 and 2, written': metrics(f'runs/{name}', (1, 2)),
            'steps 3 and 4, resumed by the old version': metrics(pathlib.Path(copies, name), (3, 4)),
        }
        for name in ('simvq', 'llamagen')
    }
    answer['tokens'] = {}
    for split in ('train', 'validation'):
        source = TokenSource(pathlib.Path('tokens'), split)
        answer['tokens'][split] = {
            'count': len(source),
            'first': {'ids': source[0].ids.ravel().tolist(), 'label': source[0].label, 'name': source[0].name},
            'about': {k: v for k, v in source.about.items()},
            'sum': int(sum(int(source[i].ids.sum()) for i in range(len(source)))),
        }
    prior = StaticPrior.load('models/simvq.prior.safetensors')
    nested = NestedCodebooks.load('models/simvq.nested.safetensors')
    clusters = read_clusters(pathlib.Path('clusters.safetensors'))
    answer['tables'] = {
        'models/simvq.prior.safetensors': {'fingerprint': prior.fingerprint.hex()},
        'models/simvq.nested.safetensors': {
            'fingerprint': nested.fingerprint.hex(), 'weights': nested.weights.hex(),
            'sizes': [list(nested.sizes(i)) for i in range(1, len(nested.levels) + 1)],
            'cluster_of': [level[0].cluster_of.tolist() for level in nested.levels],
        },
        'clusters.safetensors': {'cluster_of': np.asarray(clusters.cluster_of).tolist(), 'describe': clusters.describe()},
        'statistics.npz': of_statistics(),
    }  # fmt: skip
    answer['bitstreams'] = of_bitstreams()
    pathlib.Path('expected.json').write_text(compact(json.dumps(answer, indent=1)) + '\n')


if __name__ == '__main__':
    globals()[sys.argv[1]](*sys.argv[2:])
