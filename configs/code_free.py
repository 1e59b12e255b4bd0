"""Quantizers without codebook: FSQ (Mentzer et al. 2023), LFQ (Yu et al. 2023), BSQ (Zhao et al. 2024).

    python launch/train.py --config=configs/code_free.py

trains in minutes on two CPU cores, on photographs that ship inside installed packages.  Variants, joined
by commas:

  fsq          four channels of 8, 5, 5 and 5 values, 1,000 implicit codewords (the default)
  lfq          ten signs, 1,024 implicit codewords
  bsq          ten signs on the unit sphere
  cifar10      CIFAR-10 at 32x32, 2,000 steps; --config.data.source names a folder or zip instead of TFDS
  imagenet256  LlamaGen's recipe with about 2^14 implicit codewords, beside configs/vqgan.py:imagenet256
  tiny         for tests
"""

from ml_collections import ConfigDict

from vistok.configs.base import tokenizer, variants

_NETWORK = {**tokenizer.SMALL_NETWORK, 'dtype': 'float32', 'remat': False}


def get_config(variant: str = '') -> ConfigDict:
    """Returns the default variant, changed by the named ones."""
    config = tokenizer.base()
    _fsq(config)
    tokenizer.photographs(config)
    return variants.merge(
        config,
        variant,
        quantizer={'fsq': _fsq, 'lfq': _lfq, 'bsq': _bsq},
        data={'cifar10': tokenizer.cifar10, 'imagenet256': _imagenet256},
        size={'tiny': _tiny},
    )


def _fsq(config: ConfigDict) -> None:
    config.model = ConfigDict({'name': 'fsq', 'levels': (8, 5, 5, 5), **_NETWORK})


def _lfq(config: ConfigDict) -> None:
    config.model = ConfigDict(
        {
            'name': 'lfq',
            'bits': 10,
            'groups': 1,  # ids per position
            'commitment_weight': 0.25,
            'entropy_weight': 0.1,
            'entropy_temperature': 1.0,
            **_NETWORK,
        }
    )


def _bsq(config: ConfigDict) -> None:
    _lfq(config)
    config.model.update(name='bsq', commitment_weight=0.0, entropy_temperature=0.02)


def _imagenet256(config: ConfigDict) -> None:
    tokenizer.full_recipe(config)
    config.model.update(**tokenizer.VQ16_NETWORK, dtype='bfloat16')
    config.model.update({'levels': (8, 8, 8, 6, 5)} if config.model.name == 'fsq' else {'bits': 14})


def _tiny(config: ConfigDict) -> None:
    tokenizer.tiny(config)
    config.model.update(**tokenizer.TINY_NETWORK)
    config.model.update({'levels': (5, 4, 3)} if config.model.name == 'fsq' else {'bits': 6})
