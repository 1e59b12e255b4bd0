"""MaskGIT (Chang et al. 2022, "MaskGIT: Masked Generative Image Transformer"): hidden tokens, revealed in few steps.

    python launch/train.py --config=configs/vqgan.py:digits
    python launch/extract_tokens.py --model=runs/vqgan-digits
    python launch/train.py --config=configs/maskgit.py
    python launch/sample.py --model=runs/maskgit --out=digits.png

generates handwritten digits by class, on two CPU cores.  The network is MAGE's, for comparison under equal conditions.
Variants, joined by commas:

  cifar10      tokens of CIFAR-10 (runs/vqgan-cifar10), 8x8 of them
  imagenet256  size B: 16x16 tokens, batch 256, 300 epochs.  The paper gives FID 6.18 in 8 steps, with another network
               of 24 layers; not reproduced here.
  tiny         for tests
"""

from ml_collections import ConfigDict

from vistok.configs import mage
from vistok.configs.base import generator, variants


def get_config(variant: str = '') -> ConfigDict:
    """Returns the default variant, changed by the named ones."""
    config = mage.base('maskgit')
    return variants.merge(
        config,
        variant,
        data={'cifar10': mage.cifar10, 'imagenet256': _imagenet256},
        size={'tiny': mage.tiny},
    )


def _imagenet256(config: ConfigDict) -> None:
    generator.full_recipe(config)
    config.model.update(**mage.SIZES['base'], dropout=0.1, steps=8, choice_temperature=4.5, dtype='bfloat16')
    config.optimizer.update(b2=0.96, weight_decay=0.045)
    config.sample.guidance_scale = 1.0
