"""CTF (Guo et al. 2025, "Improving Autoregressive Image Generation through Coarse-to-Fine Token Prediction").

    python launch/train.py --config=configs/vqgan.py:digits
    python launch/extract_tokens.py --model=runs/vqgan-digits
    python launch/train.py --config=configs/ctf.py
    python launch/sample.py --model=runs/ctf --out=digits.png

A LlamaGen predicts the clusters of the codewords one after the other, a second network all codewords at once.  Clusters
are made when the run begins, or by launch/cluster_codebook.py.  Variants, joined by commas:

  imagenet256  512 clusters of the 16,384 codewords of VQ-16; size B, then size L: 397 million parameters.  The paper
               gives FID 4.15 with guidance 2.0 and temperature 1.1; not reproduced here.
  l, xl        with imagenet256: the larger first stages (FID 2.97 and 2.76 in the paper)
  balanced     clusters whose sizes differ by one at most
  tiny         for tests
"""

from ml_collections import ConfigDict

from vistok.configs import llamagen
from vistok.configs.base import generator, variants


def get_config(variant: str = '') -> ConfigDict:
    """Returns the default variant, changed by the named ones."""
    config = generator.base()
    config.model = ConfigDict(
        {
            'name': 'ctf',
            'clusters': 32,
            'layers': 4,
            'heads': 4,
            'width': 128,
            'fine_layers': 2,
            'fine_heads': 4,
            'fine_width': 128,
            'dropout': 0.1,
            'condition_dropout': 0.1,
            'cond_rope': 'identity',
            'dtype': 'float32',
            'cache_dtype': '',
            'remat': False,
        }
    )
    generator.digits(config)
    config.train.steps = 1_000
    config.clusters = ConfigDict(
        {
            'file': '',  # of launch/cluster_codebook.py; '' makes clusters of the tokenizer's codewords
            'balanced': False,  # such clusters: sizes differ by one at most
        }
    )
    config.sample.second = ConfigDict(  # codewords; the rest of config.sample is about clusters
        {'temperature': 1.0, 'top_k': 0, 'top_p': 1.0, 'guidance_scale': 1.0}
    )
    return variants.merge(
        config,
        variant,
        data={'imagenet256': _imagenet256},
        clusters={'balanced': _balance},
        size={'l': _size('l'), 'xl': _size('xl'), 'tiny': _tiny},
    )


def _imagenet256(config: ConfigDict) -> None:
    generator.full_recipe(config)
    large = {f'fine_{name}': value for name, value in llamagen.SIZES['l'].items()}
    config.model.update(clusters=512, **llamagen.SIZES['b'], **large, cond_rope='zero', dtype='bfloat16')
    config.sample.update(guidance_scale=2.0, temperature=1.1)
    config.sample.second.temperature = 1.1


def _size(name: str) -> variants.Variant:
    def variant(config: ConfigDict) -> None:
        config.model.update(**llamagen.SIZES[name])

    return variant


def _balance(config: ConfigDict) -> None:
    config.clusters.balanced = True


def _tiny(config: ConfigDict) -> None:
    generator.tiny(config)
    sizes = {'layers': 1, 'heads': 2, 'width': 16}
    config.model.update(clusters=4, **sizes, **{f'fine_{name}': value for name, value in sizes.items()})
